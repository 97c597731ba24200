"""`kitaru init`: what it makes, what it leaves alone, and that it makes all of it or nothing."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import pytest

from kitaru_fs.config.settings import Settings, load_settings
from kitaru_fs.errors import ConflictError, UsageError
from kitaru_fs.scaffold import example_dir, find_workspace, init_workspace, template_dir
from kitaru_fs.targets.target import declared_flows

CHECKOUT = Path(__file__).parents[1]
needs_checkout = pytest.mark.skipif(
    not (CHECKOUT / "pyproject.toml").exists(), reason="needs the project's source"
)


def listing(directory: Path) -> dict[str, bytes | None]:
    """Every path below a directory with its content; None for what is no file."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in sorted(directory.rglob("*"))
        if ".git" not in path.relative_to(directory).parts
    }


def git(directory: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=A", "-c", "user.email=a@b.c", *arguments]
    return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True).stdout


def test_a_new_directory_becomes_a_whole_workspace(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "my workspace"
    result = init_workspace(place)
    assert result.workspace == place
    assert set(listing(place)) == {
        ".gitignore",
        "README.md",
        "agents",
        "agents/hello.py",
        "agents/helper.py",
        "kitaru.toml",
        "runs",
    }
    assert set(result.created) == set(listing(place)) - {"agents", "runs"} | {"runs/"}
    assert result.kept == []
    assert result.notes == []
    assert load_settings(place / "kitaru.toml", {}) == Settings()
    assert {(one.kind, one.name) for one in declared_flows(place)} == {
        ("flow", "hello"),
        ("agent", "helper"),
    }
    assert find_workspace(place / "agents") == place


def test_what_is_made_has_the_usual_modes(tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.mkdir()
    (usual / "file").touch()
    place = init_workspace(tmp_path / "ws").workspace
    for path in (place, *place.rglob("*")):
        like = usual if path.is_dir() else usual / "file"
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(like.stat().st_mode), path


def test_an_empty_directory_a_relative_path_and_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    assert init_workspace(Path("link")).workspace == tmp_path / "real"
    monkeypatch.chdir(tmp_path / "real")
    with pytest.raises(ConflictError, match="is a workspace already"):
        init_workspace(Path("."))


def test_a_project_gets_ignore_rules_and_nothing_else_of_it_changes(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "app.py").write_text("x = 1\n")
    (tmp_path / "README.md").write_text("mine\n")
    (tmp_path / ".gitignore").write_text("*.log\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "one")
    before = listing(tmp_path)

    result = init_workspace(tmp_path)
    after = listing(tmp_path)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {".gitignore"}
    assert after[".gitignore"] == b"*.log\n\n# kitaru-fs\n/runs/\n/.kitaru/\n"
    assert set(after) - set(before) == {
        "agents",
        "agents/hello.py",
        "agents/helper.py",
        "kitaru.toml",
        "runs",
    }
    assert "README.md" not in result.created
    assert ".gitignore" in result.created

    (tmp_path / "runs" / "r").mkdir()
    (tmp_path / "runs" / "r" / "run.json").touch()
    (tmp_path / ".kitaru").mkdir()
    (tmp_path / ".kitaru" / "cache").touch()
    seen = git(tmp_path, "status", "--porcelain", "-uall").split("\n")
    assert not [line for line in seen if "runs" in line or ".kitaru" in line]


def test_agents_and_runs_that_are_there_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "mine.py").write_text("x = 1\n")
    (tmp_path / "runs" / "20260101-000000-000-a-abcd").mkdir(parents=True)
    (tmp_path / "runs" / "20260101-000000-000-a-abcd" / "run.json").write_text("{}")
    before = listing(tmp_path)
    result = init_workspace(tmp_path)
    assert {name: listing(tmp_path)[name] for name in before} == before
    assert set(result.kept) == {"agents/", "runs/"}
    assert set(result.created) == {".gitignore", "kitaru.toml"}
    assert (tmp_path / ".gitignore").read_bytes() == b"# kitaru-fs\n/runs/\n/.kitaru/\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b"# kitaru-fs\n/runs/\n/.kitaru/\n"),
        (b"*.log", b"*.log\n\n# kitaru-fs\n/runs/\n/.kitaru/"),
        (b"a\r\nb\r\n", b"a\r\nb\r\n\r\n# kitaru-fs\r\n/runs/\r\n/.kitaru/\r\n"),
        (b"a\r\nb", b"a\r\nb\r\n\r\n# kitaru-fs\r\n/runs/\r\n/.kitaru/"),
        (b"runs\n/.kitaru\n", b"runs\n/.kitaru\n"),
        (b"/runs/\n", b"/runs/\n\n# kitaru-fs\n/.kitaru/\n"),
        (b"runs/\n!runs/\n.kitaru/\n", b"runs/\n!runs/\n.kitaru/\n\n# kitaru-fs\n/runs/\n"),
        (b"caf\xe9/\n", b"caf\xe9/\n\n# kitaru-fs\n/runs/\n/.kitaru/\n"),
        (b"# runs/\nold-runs/\n.kitaru/", b"# runs/\nold-runs/\n.kitaru/\n\n# kitaru-fs\n/runs/"),
    ],
)
def test_ignore_rules_are_added_in_the_style_of_the_file(
    tmp_path: Path, before: bytes, after: bytes
) -> None:
    rules = tmp_path / ".gitignore"
    rules.write_bytes(before)
    rules.chmod(0o640)
    inode = rules.stat().st_ino
    result = init_workspace(tmp_path)
    assert rules.read_bytes() == after
    assert (stat.S_IMODE(rules.stat().st_mode), rules.stat().st_ino) == (0o640, inode)
    assert (".gitignore" in result.created, ".gitignore" in result.kept) == (
        (True, False) if before != after else (False, True)
    )


def test_a_workspace_below_the_top_of_a_repository_has_its_own_rules(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("*.log\n")
    init_workspace(tmp_path / "tools" / "ws")
    assert (tmp_path / ".gitignore").read_text() == "*.log\n"
    (tmp_path / "tools" / "ws" / "runs" / "x").touch()
    assert "runs" not in git(tmp_path, "status", "--porcelain", "-uall")


def test_a_workspace_is_never_made_twice(tmp_path: Path) -> None:
    init_workspace(tmp_path)
    (tmp_path / "kitaru.toml").write_text('linger = "9s"\n')
    before = listing(tmp_path)
    for force in (False, True):
        with pytest.raises(ConflictError, match=r"is a workspace already: it has a kitaru\.toml"):
            init_workspace(tmp_path, force=force)
    assert listing(tmp_path) == before


def test_all_that_is_in_the_way_is_listed(tmp_path: Path) -> None:
    (tmp_path / "agents").write_text("a file")
    (tmp_path / ".kitaru").symlink_to("nowhere")
    (tmp_path / "kitaru.toml").symlink_to("nowhere")
    (tmp_path / "elsewhere").write_text("*.log\n")
    (tmp_path / ".gitignore").symlink_to("elsewhere")
    (tmp_path / "runs" / "tensorboard").mkdir(parents=True)
    before = listing(tmp_path)
    with pytest.raises(ConflictError) as caught:
        init_workspace(tmp_path)
    for part in (
        "kitaru.toml (not a regular file)",
        "agents (not a directory)",
        ".kitaru (not a directory)",
        ".gitignore (a symbolic link",
        "runs/ (holds something else, such as tensorboard)",
    ):
        assert part in str(caught.value)
    assert listing(tmp_path) == before


def test_a_file_or_a_dangling_link_in_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConflictError, match="file is no directory"):
        init_workspace(tmp_path / "file")
    with pytest.raises(UsageError, match=r"No workspace could be made in .*: Not a directory"):
        init_workspace(tmp_path / "file" / "below")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError):
        init_workspace(tmp_path / "loop" / "x")
    assert sorted(listing(tmp_path)) == ["file", "loop"]


def test_home_and_root_need_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".bashrc").touch()
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "link").symlink_to("home")
    for place in (home, tmp_path / "link", home / "x" / ".."):
        with pytest.raises(UsageError, match="is your home directory"):
            init_workspace(place)
    with pytest.raises(UsageError, match="is the root directory"):
        init_workspace(Path("/"))
    assert listing(home) == {".bashrc": b""}
    assert find_workspace(init_workspace(home, force=True).workspace) == home
    assert init_workspace(home / "work").notes != []


def test_a_workspace_in_a_workspace_is_noted_and_one_among_runs_is_refused(tmp_path: Path) -> None:
    outer = init_workspace(tmp_path / "outer").workspace
    result = init_workspace(outer / "inner")
    assert result.notes == [
        f"It lies inside the workspace {outer}; commands run in here use the new one."
    ]
    assert find_workspace(outer / "inner" / "agents") == outer / "inner"
    for place in (outer / "runs", outer / "runs" / "x", outer / "runs" / "x" / "files" / "y"):
        with pytest.raises(UsageError, match="lies among the runs of the workspace"):
            init_workspace(place)
    assert list((outer / "runs").iterdir()) == []


def test_settings_planted_in_a_run_are_never_taken(tmp_path: Path) -> None:
    workspace = init_workspace(tmp_path / "ws").workspace
    run = workspace / "runs" / "20260101-000000-000-a-abcd"
    (run / ".git").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    planted = run / "files" / "deep"
    planted.mkdir(parents=True)
    (planted / "kitaru.toml").touch()
    (run / "kitaru.toml").touch()
    for start in (planted, run / "files", run, run.parent, workspace):
        assert find_workspace(start) == workspace
    assert find_workspace(tmp_path) is None


def init_in_a_child(place: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    program = f"""
        from pathlib import Path
        from kitaru_fs.errors import UsageError
        from kitaru_fs.scaffold import init_workspace
        {before}
        try:
            init_workspace(Path({str(place)!r}))
        except UsageError as error:
            print(error)
            raise SystemExit(error.exit_status)
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("limit", [0, 30, 500, 1000, 1500, 2000, 2500])
@pytest.mark.parametrize("kind", ["new", "project"])
def test_a_disk_that_refuses_leaves_nothing_behind(tmp_path: Path, limit: int, kind: str) -> None:
    assert max(path.stat().st_size for path in template_dir().rglob("*.toml")) < 2500
    place = tmp_path / "a" / "b"
    if kind == "project":
        place.mkdir(parents=True)
        (place / "mine.txt").write_text("mine")
        (place / ".gitignore").write_bytes(b"*.log\n" * 250)
    before = listing(tmp_path)
    # A file that would grow past the limit gets an error, as it does on a full disk.
    done = init_in_a_child(
        place,
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))",
    )
    assert "Traceback" not in done.stderr
    if done.returncode == 0:
        assert limit >= 2000
        assert find_workspace(place) == place
        return
    assert done.returncode == 2, done.stderr
    assert f"No workspace could be made in {place}: File too large" in done.stdout
    assert listing(tmp_path) == before


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No workspace could be made in /proc/kitaru-test"):
        init_workspace(Path("/proc/kitaru-test"))
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        try:
            with pytest.raises(UsageError, match="Permission denied"):
                init_workspace(tmp_path / "ws")
            with pytest.raises(UsageError, match="Permission denied"):
                init_workspace(tmp_path)
        finally:
            tmp_path.chmod(0o700)
        assert listing(tmp_path) == {}


def test_two_at_once_make_one_workspace(tmp_path: Path) -> None:
    program = f"""
        import sys
        from pathlib import Path
        from kitaru_fs.errors import KitaruError
        from kitaru_fs.scaffold import init_workspace
        sys.stdin.readline()
        try:
            init_workspace(Path({str(tmp_path / "ws")!r}))
        except KitaruError:
            raise SystemExit(2)
    """
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for _ in range(4)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    outcomes = [child.communicate()[1] for child in children]
    assert not any("Traceback" in said for said in outcomes), outcomes
    statuses = [child.returncode for child in children]
    assert sorted(statuses) == [0, 2, 2, 2]
    again = init_workspace(tmp_path / "again").workspace
    assert listing(tmp_path / "ws") == listing(again)


def test_what_a_killed_init_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".kitaru-init-abc" / "agents").mkdir(parents=True)
    result = init_workspace(tmp_path)
    assert "README.md" in result.created
    assert not list(tmp_path.glob(".kitaru-init-*"))


def is_source(path: Path) -> bool:
    caches = ("__pycache__", ".ruff_cache", ".pytest_cache")
    return path.is_file() and not any(part in caches for part in path.parts)


@needs_checkout
def test_the_packages_hold_all_that_an_install_needs(tmp_path: Path) -> None:
    """A source distribution builds the wheel, and `init` works from what the wheel installs."""
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path)]
    done = subprocess.run([*build, str(CHECKOUT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("workspace_template/.gitignore", "LICENSE", ".ci/run", "tests/test_scaffold.py"):
        assert name in sources
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
        archive.extractall(tmp_path / "site")
        entry_points = archive.read("kitaru_fs-0.1.0.dist-info/entry_points.txt").decode()
    assert "kitaru = kitaru_fs.cli:main" in entry_points
    assert "kitaru-fs = kitaru_fs.cli:main" in entry_points
    shipped = {
        f"kitaru_fs/_template/{path.relative_to(template_dir())}"
        for path in template_dir().rglob("*")
        if is_source(path)
    }
    example = example_dir("coding_agent")
    shipped |= {
        f"kitaru_fs/_examples/coding_agent/{path.relative_to(example)}"
        for path in example.rglob("*")
        if is_source(path)
    }
    assert {*shipped, "kitaru_fs/py.typed"} <= packed
    assert not [name for name in packed if name.startswith(("tests", "workspace_", "examples"))]

    program = (
        "import sys; from pathlib import Path; from kitaru_fs import scaffold;"
        "assert 'site' in scaffold.__file__; scaffold.init_workspace(Path(sys.argv[1]));"
        "print(scaffold.example_dir('coding_agent'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "ws")],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(tmp_path / "site/kitaru_fs/_examples/coding_agent")
    assert listing(tmp_path / "ws") == listing(init_workspace(tmp_path / "again").workspace)
