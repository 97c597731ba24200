"""Targets: finding flows and agents, under names that another process finds again."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from kitaru_fs.errors import AmbiguousError, KitaruError, NotFoundError, UsageError
from kitaru_fs.scaffold import init_workspace
from kitaru_fs.targets.target import (
    Target,
    declared_flows,
    load_target,
    load_target_from,
    source_files,
    target_of,
)

CHECKOUT = Path(__file__).parents[1]

# Stands for `from kitaru_fs import flow`: what makes an object a flow is its `__kitaru_flow__`.
FLOW = """
def flow(function=None, *, name=None):
    if function is None:
        return lambda function: flow(function, name=name)
    function.__kitaru_flow__ = name or function.__name__
    return function
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Path]:
    """A workspace with nothing in it."""
    path = list(sys.path)
    root = tmp_path / "ws"
    write(root, {"kitaru.toml": "", "agents/marker.py": FLOW})
    yield root
    sys.path[:] = path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))


def call(target: Target) -> object:
    assert callable(target.object)
    return target.object()


SIMPLE = """
    from agents.marker import flow

    @flow
    def simple():
        return "simple"

    @flow(name="given-name")
    def attribute():
        return "given"

    def plain():
        return 1

    class Thing:
        pass

    number = 3
"""


def test_the_three_ways_to_name_a_flow_give_the_same(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(workspace, {"agents/one.py": SIMPLE})
    by_path = load_target(workspace, "agents/one.py:simple")
    assert by_path == Target(
        kind="flow",
        name="simple",
        object=by_path.object,
        module="agents.one",
        file=workspace / "agents/one.py",
        spec="agents/one.py:simple",
        root=workspace,
    )
    assert call(by_path) == "simple"
    monkeypatch.chdir(workspace / "agents")
    others = [
        load_target(workspace, "simple"),
        load_target(workspace, "agents.one:simple"),
        load_target(workspace, f"{workspace}/agents/one.py:simple"),
        load_target(workspace, "one.py:simple", cwd=Path.cwd()),
        load_target(workspace, "./agents/../agents/one.py:simple"),
    ]
    for other in others:
        assert other == by_path
        assert other.object is by_path.object
    named = load_target(workspace, "given-name")
    assert (named.name, named.spec) == ("given-name", "agents/one.py:attribute")
    assert load_target(workspace, "attribute") == named
    assert load_target(workspace, named.spec) == named


def test_a_workspace_reached_through_a_link_has_the_same_spec(
    workspace: Path, tmp_path: Path
) -> None:
    write(workspace, {"agents/one.py": SIMPLE})
    (tmp_path / "link").symlink_to("ws")
    target = load_target(workspace, f"{tmp_path}/link/agents/one.py:simple")
    assert target.spec == "agents/one.py:simple"
    assert load_target(tmp_path / "link", target.spec).spec == target.spec


def test_siblings_can_be_imported_both_ways_and_relatively(workspace: Path) -> None:
    write(
        workspace,
        {
            "agents/common.py": "x = 'common'",
            "agents/alone.py": "y = 'alone'",
            "agents/deep/__init__.py": "",
            "agents/deep/near.py": "z = 'near'",
            "agents/deep/main.py": """
                from agents.common import x
                from agents.marker import flow
                from ..alone import y
                from .near import z
                @flow
                def all_of_them():
                    import lazily
                    return x, y, z, lazily.w
            """,
            "agents/deep/lazily.py": "w = 'lazily'",
            "agents/script.py": """
                import alone
                from marker import flow
                @flow
                def by_stem():
                    return alone.y
            """,
        },
    )
    target = load_target(workspace, "all_of_them")
    assert target.module == "agents.deep.main"
    assert call(target) == ("common", "alone", "near", "lazily")
    assert call(load_target(workspace, "by_stem")) == "alone"


def test_only_the_module_that_holds_a_bare_name_is_executed(workspace: Path) -> None:
    write(
        workspace,
        {
            "agents/wanted.py": SIMPLE,
            "agents/other.py": "raise SystemExit('executed')",
            "agents/broken.py": "def (:",
            "agents/__pycache__/cached.py": SIMPLE,
            "agents/.hidden/hidden.py": SIMPLE,
            "agents/env/pyvenv.cfg": "",
            "agents/env/lib/site.py": SIMPLE,
        },
    )
    assert load_target(workspace, "simple").file == workspace / "agents/wanted.py"
    assert "agents.other" not in sys.modules


def test_flows_are_seen_in_every_way_they_are_declared(workspace: Path) -> None:
    write(
        workspace,
        {
            "agents/many.py": """
                import agents.marker as kit
                from agents.marker import flow
                if True:
                    @kit.flow
                    def inside_if(): ...
                try:
                    @flow(name="by_keyword")
                    async def f(): ...
                except ImportError:
                    pass
                def function(): ...
                assigned = flow(function)
                renamed: object = kit.flow(name="renamed-flow")(function)
                def outer():
                    @flow
                    def not_at_top_level(): ...
                class Holder:
                    @flow
                    def method(self): ...
            """,
            "agents/bare.py": "agent = Agent('m', name='writer')\nother: Agent[int] = Agent[int]()",
        },
    )
    assert [(one.kind, one.name, one.attribute) for one in declared_flows(workspace)] == [
        ("agent", "writer", "agent"),
        ("agent", "other", "other"),
        ("flow", "inside_if", "inside_if"),
        ("flow", "by_keyword", "f"),
        ("flow", "function", "assigned"),
        ("flow", "renamed-flow", "renamed"),
    ]
    assert load_target(workspace, "by_keyword").spec == "agents/many.py:f"


def test_an_ambiguous_name_lists_its_candidates(workspace: Path) -> None:
    write(workspace, {"agents/a.py": SIMPLE, "agents/sub/b.py": SIMPLE})
    with pytest.raises(AmbiguousError) as caught:
        load_target(workspace, "simple")
    assert "agents/a.py:simple, agents/sub/b.py:simple" in str(caught.value)
    assert caught.value.exit_status == 2


def test_a_flow_goes_before_an_agent_of_its_name(workspace: Path) -> None:
    code = """
        from agents.marker import flow
        from pydantic_ai import Agent
        from pydantic_ai.models.test import TestModel

        writer = Agent(TestModel(), name="support")

        @flow
        def support(): ...
        """
    write(workspace, {"agents/a.py": code})
    assert load_target(workspace, "support").spec == "agents/a.py:support"
    write(workspace, {"agents/b.py": code})
    with pytest.raises(AmbiguousError, match=r"more than one: agents/a.py:support, agents/b.py"):
        load_target(workspace, "support")


def test_a_decorator_that_is_not_ours_does_not_count(workspace: Path) -> None:
    foreign = "def dataflow(f): return f\n@dataflow\ndef simple(): ...\n"
    write(workspace, {"agents/a.py": SIMPLE, "agents/foreign.py": foreign})
    assert load_target(workspace, "simple").spec == "agents/a.py:simple"


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("simpel", ['no flow or agent "simpel"', "Did you mean simple?"]),
        ("zzz", ['no flow or agent "zzz"', "There are: given-name, simple.", "broken.py could"]),
        ("agents.one", ["write agents.one:FLOW"]),
        ("agents/one.py:simpel", ['agents/one.py has no "simpel"', "Did you mean simple?"]),
        ("agents/one.py:zzz", ["It has: attribute, simple."]),
        ("agents/one.py:number", ["agents/one.py:number is of type int, neither a flow nor"]),
        ("agents/one.py:plain", ["is a plain function", "It has: attribute, simple.", "@flow"]),
        ("agents/one.py:Thing", ["is the class Thing"]),
        ("agents/one.py:Thing.x", ['has no "Thing.x"']),
        ("agents/one.py", ["does not say which flow", "agents/one.py:simple", "attribute"]),
        ("agents/onr.py:simple", ["agents/onr.py does not exist", "agents/one.py"]),
        ("agents/:simple", ["agents/ is a directory"]),
        ("agents/data.txt:x", ["is no Python source file"]),
        ("no.such.module:x", ['no module "no.such.module"']),
        ("agents.nothing:x", ['no module "agents.nothing"']),
        ("agents.one:zzz", ["It has: attribute, simple."]),
        (":x", ['":x" is no target']),
        ("agents/one.py:", ["is no target"]),
        ("", ['no flow or agent ""']),
    ],
)
def test_a_target_that_is_not_there(workspace: Path, target: str, wanted: list[str]) -> None:
    write(workspace, {"agents/one.py": SIMPLE, "agents/broken.py": "def (:", "agents/data.txt": ""})
    with pytest.raises(UsageError) as caught:
        load_target(workspace, target)
    for part in wanted:
        assert part in str(caught.value)


def test_a_workspace_without_agents(tmp_path: Path, workspace: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match=r"There is no agents/ in it"):
        load_target(tmp_path / "empty", "x")


@pytest.mark.parametrize("target", ["bad", "agents/bad.py:bad", "agents.bad:bad"])
@pytest.mark.parametrize(
    ("text", "kind", "wanted"),
    [
        ("boom()", ZeroDivisionError, ["ZeroDivisionError: division by zero", "in inner"]),
        ("import no_such_thing", ModuleNotFoundError, ["No module named 'no_such_thing'"]),
        ("from agents.helpers import none", ImportError, ["cannot import name 'none'"]),
        ("raise SystemExit(3)", SystemExit, ["SystemExit: 3"]),
        ("raise ValueError('')", ValueError, ["ValueError"]),
        ("import agents.syntax", SyntaxError, ["agents/syntax.py", "bad.py"]),
        (
            "import json; json.loads('{')",
            json.JSONDecodeError,
            ["Expecting property name", "bad.py"],
        ),
    ],
)
def test_a_module_that_raises_shows_the_users_own_frames(
    workspace: Path, target: str, text: str, kind: type[BaseException], wanted: list[str]
) -> None:
    write(
        workspace,
        {
            "agents/helpers.py": "def inner():\n    1 / 0\n",
            "agents/syntax.py": "x = = 1\n",
            "agents/bad.py": f"""
                from agents.helpers import inner
                from agents.marker import flow
                def boom(): inner()
                @flow
                def bad(): ...
                {text}
            """,
        },
    )
    for _ in range(2):
        with pytest.raises(UsageError, match="raised when it was imported") as caught:
            load_target(workspace, target)
        assert isinstance(caught.value.__cause__, kind)
        said = str(caught.value)
        for part in wanted:
            assert part in said
        assert "importlib" not in said
        assert str(CHECKOUT / "kitaru_fs") not in said
        assert "json/decoder" not in said


def test_an_error_of_ours_at_import_keeps_its_words(workspace: Path) -> None:
    text = "from kitaru_fs.errors import UsageError\nraise UsageError('a flow takes no *args')\n"
    write(workspace, {"agents/bad.py": text})
    with pytest.raises(UsageError, match=r"imported: a flow takes no \*args") as caught:
        load_target(workspace, "agents/bad.py:x")
    assert isinstance(caught.value.__cause__, KitaruError)


def test_an_edited_module_is_loaded_anew_and_an_unchanged_one_is_not(workspace: Path) -> None:
    write(workspace, {"agents/common.py": "x = 1", "agents/one.py": SIMPLE})
    text = """
        from agents.common import x
        from agents.marker import flow
        @flow
        def value(): return x
    """
    write(workspace, {"agents/two.py": text})
    first = load_target(workspace, "value")
    assert load_target(workspace, "value").object is first.object
    load_target(workspace, "simple")
    assert load_target(workspace, "value").object is first.object
    # The same size within the same second: a cache by time would give the old one.
    write(workspace, {"agents/common.py": "x = 2"})
    assert call(load_target(workspace, "value")) == 2
    assert call(first) == 1
    assert not list(workspace.rglob("__pycache__"))


def test_two_workspaces_in_one_process_do_not_mix(workspace: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    text = """
        from agents.common import x
        from agents.marker import flow
        import beside
        @flow
        def value(): return x, beside.y
    """
    for root, number in ((workspace, 1), (other, 2)):
        write(
            root,
            {
                "agents/marker.py": FLOW,
                "agents/one.py": text,
                "agents/common.py": f"x = {number}",
                "agents/beside.py": f"y = {number}",
            },
        )
    for _ in range(2):
        assert call(load_target(workspace, "value")) == (1, 1)
        assert call(load_target(other, "value")) == (2, 2)
    assert str(workspace) not in sys.path


def test_installed_packages_are_not_hidden_by_agents_of_the_same_name(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    write(site, {"agents/__init__.py": "sdk = True", "some_sdk.py": "x = 'installed'"})
    monkeypatch.syspath_prepend(str(site))
    write(
        workspace,
        {
            "agents/some_sdk.py": """
                import some_sdk
                from agents import sdk
                from .near import flow
                @flow
                def uses(): return some_sdk.x, sdk
            """,
            "agents/near.py": FLOW,
            "json.py": FLOW + "@flow\ndef odd(): return 'odd'\n",
            "agents/my-flow.v2.py": "from near import flow\n@flow\ndef dotted(): return 'dotted'\n",
            "agents/my-other.py": "from .near import flow\n@flow\ndef dash(): return 'dash'\n",
        },
    )
    # Taken out again afterwards, whatever was there before.
    monkeypatch.setitem(sys.modules, "agents", sys)
    del sys.modules["agents"]
    agents = importlib.import_module("agents")
    target = load_target(workspace, "uses")
    assert call(target) == ("installed", True)
    assert load_target(workspace, target.spec).object is target.object
    assert sys.modules["agents"] is agents
    assert call(load_target(workspace, "json.py:odd")) == "odd"
    assert sys.modules["json"] is json
    dotted = load_target(workspace, "dotted")
    assert (call(dotted), dotted.spec) == ("dotted", "agents/my-flow.v2.py:dotted")
    assert load_target(workspace, dotted.spec).object is dotted.object
    assert call(load_target(workspace, "dash")) == "dash"
    recorded = [name for name, _ in source_files(target)]
    assert {"agents/near.py", "agents/some_sdk.py"} <= set(recorded)


def test_a_file_outside_the_workspace(workspace: Path, tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    package = "from ..lib import x\nfrom .flows import flow\n@flow\ndef deep(): return x\n"
    write(
        place,
        {
            "single.py": FLOW + "import helper\n@flow\ndef single(): return helper.x\n",
            "helper.py": "x = 'helped'",
            "unrelated/other.py": "",
            "pkg/__init__.py": "",
            "pkg/lib.py": "x = 'lib'",
            "pkg/sub/__init__.py": "",
            "pkg/sub/flows.py": FLOW,
            "pkg/sub/main.py": package,
        },
    )
    target = load_target(workspace, f"{place}/single.py:single")
    assert (target.module, target.spec) == ("single", f"{place}/single.py:single")
    assert call(target) == "helped"
    assert source_files(target) == [
        ("_elsewhere/helper.py", place / "helper.py"),
        ("_elsewhere/single.py", place / "single.py"),
    ]
    target = load_target(workspace, "pkg/sub/main.py:deep", cwd=place)
    assert (target.module, call(target)) == ("pkg.sub.main", "lib")
    assert [name for name, _ in source_files(target)] == [
        "_elsewhere/pkg/__init__.py",
        "_elsewhere/pkg/lib.py",
        "_elsewhere/pkg/sub/__init__.py",
        "_elsewhere/pkg/sub/flows.py",
        "_elsewhere/pkg/sub/main.py",
    ]


def test_source_files_are_the_users_modules_that_are_loaded(workspace: Path) -> None:
    write(
        workspace,
        {
            "agents/one.py": """
                import beside
                import project_code
                from agents.marker import flow
                from agents.sub import thing
                @flow
                def one(): ...
            """,
            "agents/beside.py": "",
            "agents/sub/__init__.py": "",
            "agents/sub/thing.py": "",
            "agents/unused.py": "",
            "project_code.py": "",
            "runs/r/code/agents/one.py": "",
        },
    )
    target = load_target(workspace, "one")
    assert source_files(target) == [
        (name, workspace / name)
        for name in (
            "agents/beside.py",
            "agents/marker.py",
            "agents/one.py",
            "agents/sub/__init__.py",
            "agents/sub/thing.py",
        )
    ]


def test_a_flow_beside_agents_records_the_modules_beside_it(workspace: Path) -> None:
    write(
        workspace,
        {
            "main.py": "import tool\nfrom agents.marker import flow\n@flow\ndef top(): return 1\n",
            "tool.py": "",
            ".venv/pyvenv.cfg": "",
            ".venv/lib/python3/site-packages/dep.py": "",
            "src/pkg/__init__.py": "",
            "src/pkg/flows.py": "from pkg.util import x\nfrom agents.marker import flow\n"
            "@flow\ndef packaged(): return x\n",
            "src/pkg/util.py": "x = 'util'",
        },
    )
    target = load_target(workspace, "main.py:top")
    recorded = [name for name, _ in source_files(target)]
    assert recorded == ["agents/marker.py", "main.py", "tool.py"]
    target = load_target(workspace, "src/pkg/flows.py:packaged")
    assert (target.module, target.spec) == ("pkg.flows", "src/pkg/flows.py:packaged")
    recorded = [name for name, _ in source_files(target)]
    assert {"src/pkg/flows.py", "src/pkg/util.py"} <= set(recorded)


def record(target: Target, code: Path) -> None:
    for name, file in source_files(target):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, code / name)


@pytest.mark.parametrize(
    "spec",
    ["agents/one.py:value", "main.py:value", "src/pkg/flows.py:value", "{out}/pkg/flows.py:value"],
)
def test_the_recorded_code_is_found_by_the_same_spec(
    workspace: Path, tmp_path: Path, spec: str
) -> None:
    out = tmp_path / "out"
    spec = spec.replace("{out}", str(out))
    file = Path(spec.rpartition(":")[0])
    place = (workspace / file).parent
    package = "src" in file.parts or out in file.parents
    if package:
        write(place, {"__init__.py": ""})
    near = "pkg.near" if package else "agents.near" if "agents" in file.parts else "near"
    flow = f"from {near} import x\n{FLOW}@flow\ndef value(): return x\n"
    write(place, {file.name: flow, "near.py": "x = 'then'"})
    live = load_target(workspace, spec)
    assert (call(live), live.spec) == ("then", spec)
    code = workspace / "runs" / "r" / "code"
    record(live, code)

    write(place, {"near.py": "x = 'now'"})
    recorded = load_target_from(code, spec, workspace_root=workspace)
    assert call(recorded) == "then"
    assert (recorded.name, recorded.spec, recorded.module) == (live.name, spec, live.module)
    assert recorded.file is not None
    assert recorded.file.is_relative_to(code)
    assert [name for name, _ in source_files(recorded)] == sorted(
        path.relative_to(code).as_posix() for path in code.rglob("*.py")
    )
    assert call(load_target(workspace, spec)) == "now"
    assert call(load_target_from(code, spec, workspace_root=workspace)) == "then"


def test_an_installed_module_is_recorded_and_found_again(workspace: Path, tmp_path: Path) -> None:
    site = tmp_path / "site-packages"
    write(site, {"bundle/__init__.py": "", "bundle/flows.py": FLOW + "@flow\ndef f(): return 1\n"})
    write(site, {"bundle/extra.py": "", "single_file.py": FLOW + "@flow\ndef g(): return 2\n"})
    sys.path.append(str(site))
    target = load_target(workspace, "bundle.flows:f")
    assert (target.spec, target.module) == ("bundle.flows:f", "bundle.flows")
    code = tmp_path / "code"
    record(target, code)
    assert sorted(str(path.relative_to(code)) for path in code.rglob("*.py")) == [
        "_elsewhere/bundle/__init__.py",
        "_elsewhere/bundle/flows.py",
    ]
    single = load_target(workspace, "single_file:g")
    assert [name for name, _ in source_files(single)] == ["_elsewhere/single_file.py"]
    assert call(load_target_from(code, "bundle.flows:f", workspace_root=workspace)) == 1
    with pytest.raises(NotFoundError, match='does not hold "single_file:g"'):
        load_target_from(code, "single_file:g")
    for spec in ("", "x", "/:x", "agents/gone.py:x", "/gone.py:x"):
        with pytest.raises(NotFoundError):
            load_target_from(code, spec)


def test_a_module_that_was_not_recorded_comes_from_the_workspace(workspace: Path) -> None:
    write(
        workspace,
        {
            "project_code.py": "x = 'project'",
            "agents/one.py": """
                from project_code import x
                from agents.marker import flow
                @flow
                def one(): return x
            """,
        },
    )
    code = workspace / "runs/r/code"
    record(load_target(workspace, "one"), code)
    target = load_target_from(code, "agents/one.py:one", workspace_root=workspace)
    assert call(target) == "project"
    assert target.file == code / "agents/one.py"


def test_target_of_describes_what_the_caller_holds(workspace: Path) -> None:
    write(workspace, {"agents/one.py": SIMPLE})
    target = load_target(workspace, "simple")
    assert target_of(workspace, target.object) == target

    def inner() -> None: ...

    inner.__kitaru_flow__ = "inner"  # type: ignore[attr-defined]
    described = target_of(workspace, inner)
    assert (described.kind, described.name, described.spec) == ("flow", "inner", "")
    with pytest.raises(UsageError, match="is neither a flow nor"):
        target_of(workspace, len)


def run_python(*arguments: str, cwd: Path) -> str:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_a_class_of_the_users_has_the_same_name_in_another_process(workspace: Path) -> None:
    write(workspace, {"agents/one.py": SIMPLE + "\n    class Boom(Exception): pass\n"})
    program = """
        import importlib, sys
        from pathlib import Path
        from kitaru_fs.targets.target import load_target
        target = load_target(Path(sys.argv[1]), sys.argv[2])
        Boom = vars(sys.modules[target.module])["Boom"]
        assert getattr(importlib.import_module(Boom.__module__), Boom.__qualname__) is Boom
        print(Boom.__module__, Boom.__qualname__, target.spec, "pydantic_ai" in sys.modules)
    """
    program = textwrap.dedent(program)
    said = {
        run_python("-c", program, str(workspace), spec, cwd=cwd)
        for spec in ("simple", "agents/one.py:simple", "agents.one:simple")
        for cwd in (workspace, workspace / "agents", workspace.parent)
    }
    assert said == {"agents.one Boom agents/one.py:simple False\n"}


def test_a_flow_of_the_running_script_is_found_by_its_file(workspace: Path) -> None:
    write(
        workspace,
        {
            "agents/script.py": """
                from pathlib import Path
                from kitaru_fs.targets.target import load_target, source_files, target_of
                from marker import flow
                @flow
                def main(): ...
                if __name__ == "__main__":
                    root = Path(__file__).parents[1]
                    target = target_of(root, main)
                    assert load_target(root, target.spec).object is main
                    print(target.spec, *(name for name, _ in source_files(target)))
            """
        },
    )
    said = run_python("agents/script.py", cwd=workspace)
    assert said == "agents/script.py:main agents/marker.py agents/script.py\n"
    assert run_python("script.py", cwd=workspace / "agents") == said


def test_a_bare_agent_is_a_target(workspace: Path) -> None:
    write(
        workspace,
        {
            "agents/bare.py": """
                from pydantic_ai import Agent
                from pydantic_ai.models.test import TestModel
                agent = Agent(TestModel(), name="writer")
                nameless = Agent(TestModel())
            """
        },
    )
    target = load_target(workspace, "agents/bare.py:agent")
    assert (target.kind, target.name, target.spec) == ("agent", "writer", "agents/bare.py:agent")
    assert load_target(workspace, "writer") == target
    assert target_of(workspace, target.object) == target
    nameless = load_target(workspace, "nameless")
    assert (nameless.kind, nameless.name) == ("agent", "nameless")
    with pytest.raises(UsageError, match="is the class Agent"):
        load_target(workspace, "agents/bare.py:Agent")


def test_the_templates_targets_load_without_a_key(workspace: Path, tmp_path: Path) -> None:
    root = init_workspace(tmp_path / "made").workspace
    assert load_target(root, "hello").spec == "agents/hello.py:hello"
    helper = load_target(root, "helper")
    assert (helper.kind, helper.spec) == ("agent", "agents/helper.py:agent")
