"""The example coding agent: its offline model and its tools, on the demo project and on others."""

from __future__ import annotations

import ast
import asyncio
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
import types
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from pydantic_ai import Agent, ToolFailed
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.usage import UsageLimits

EXAMPLE = Path(__file__).parents[1] / "examples" / "coding_agent"
PROJECT = EXAMPLE / "project"

# Projects that the model was not made for, each with the mistakes that its name says.
PROJECTS: dict[str, dict[str, str]] = {
    "slice bound": {
        "textkit/__init__.py": """
            from textkit.words import first_words
        """,
        "textkit/words.py": """
            def first_words(text, count):
                '''The first words of a text.'''
                words = text.split()
                return " ".join(words[: count - 1])


            def last_words(text, count):
                words = text.split()
                return " ".join(words[-count:])
        """,
        "tests/__init__.py": "",
        "tests/test_words.py": """
            import unittest

            from textkit import first_words
            from textkit.words import last_words


            class WordsTest(unittest.TestCase):
                def test_first(self):
                    self.assertEqual(first_words("one two three four", 2), "one two")
                    self.assertEqual(first_words("one", 1), "one")

                def test_last(self):
                    self.assertEqual(last_words("one two three", 2), "two three")
        """,
    },
    "range bound": {
        "sums.py": """
            def triangle(n):
                '''1 + 2 + ... + n'''
                total = 0
                for i in range(1, n):
                    total += i
                return total
        """,
        "test_sums.py": """
            import unittest
            from sums import triangle


            class T(unittest.TestCase):
                def test_triangle(self):
                    self.assertEqual(triangle(4), 10)
                    self.assertEqual(triangle(1), 1)
                    self.assertEqual(triangle(0), 0)
        """,
    },
    "comparison in a method": {
        "shop/__init__.py": "",
        "shop/stock.py": """
            class OutOfStock(Exception):
                pass


            class Stock:
                def __init__(self):
                    self._items = {}

                def add(self, name, count=1):
                    self._items[name] = self._items.get(name, 0) + count

                def take(self, name, count=1):
                    if self._items.get(name, 0) <= count:
                        raise OutOfStock(name)
                    self._items[name] -= count
                    return self._items[name]
        """,
        "tests/__init__.py": "",
        "tests/test_stock.py": """
            import unittest
            from shop.stock import OutOfStock, Stock


            class StockTest(unittest.TestCase):
                def setUp(self):
                    self.stock = Stock()
                    self.stock.add("bolt", 3)

                def test_take_some(self):
                    self.assertEqual(self.stock.take("bolt"), 2)

                def test_take_all(self):
                    self.assertEqual(self.stock.take("bolt", 3), 0)

                def test_too_many(self):
                    with self.assertRaises(OutOfStock):
                        self.stock.take("bolt", 4)
        """,
    },
    "operator and swapped arguments": {
        "geo/__init__.py": "",
        "geo/shapes.py": """
            from geo.vectors import subtract


            def area(width, height):
                return width + height


            def distance(a, b):
                dx, dy = subtract(a, b)
                return (dx ** 2 + dy ** 2) ** 0.5


            def direction(start, end):
                return subtract(start, end)
        """,
        "geo/vectors.py": """
            def subtract(a, b):
                return a[0] - b[0], a[1] - b[1]
        """,
        "tests/__init__.py": "",
        "tests/test_shapes.py": """
            import unittest
            from geo.shapes import area, direction, distance


            class T(unittest.TestCase):
                def test_area(self):
                    self.assertEqual(area(3, 5), 15)

                def test_distance(self):
                    self.assertEqual(distance((0, 0), (3, 4)), 5.0)

                def test_direction(self):
                    self.assertEqual(direction((1, 1), (4, 3)), (3, 2))
        """,
    },
    "missing return": {
        "norm.py": """
            def normalise(values):
                '''Scale to a sum of one.'''
                total = sum(values)
                scaled = [value / total for value in values]


            def mean(values):
                return sum(values) / len(values)
        """,
        "test_norm.py": """
            import unittest
            import norm


            class T(unittest.TestCase):
                def test_normalise(self):
                    self.assertEqual(norm.normalise([1, 3]), [0.25, 0.75])

                def test_mean(self):
                    self.assertEqual(norm.mean([1, 2]), 1.5)
        """,
    },
    "missing strip": {
        "config.py": """
            def parse(text):
                '''`key = value` lines.'''
                result = {}
                for line in text.splitlines():
                    if not line or line.startswith("#"):
                        continue
                    key, value = line.split("=", 1)
                    result[key.strip()] = value
                return result
        """,
        "test_config.py": """
            import unittest
            from config import parse


            class T(unittest.TestCase):
                def test_parse(self):
                    self.assertEqual(parse("a = 1\\n# x\\nb=2"), {"a": "1", "b": "2"})

                def test_value(self):
                    self.assertEqual(parse("name = Ada ")["name"], "Ada")
        """,
    },
    "integer division": {
        "stats.py": """
            def median(values):
                ordered = sorted(values)
                middle = len(ordered) // 2
                if len(ordered) % 2:
                    return ordered[middle]
                return (ordered[middle - 1] + ordered[middle]) // 2
        """,
        "test_stats.py": """
            import unittest
            from stats import median


            class T(unittest.TestCase):
                def test_odd(self):
                    self.assertEqual(median([3, 1, 2]), 2)

                def test_even(self):
                    self.assertEqual(median([1, 2, 3, 4]), 2.5)
        """,
    },
    "missing None check": {
        "people.py": """
            from dataclasses import dataclass


            @dataclass
            class Person:
                first: str
                last: str | None = None


            def initials(person: Person) -> str:
                return person.first[0] + person.last[0]


            def label(person: Person) -> str:
                return person.first + " " + person.last.upper()
        """,
        "test_people.py": """
            import unittest
            from people import Person, label


            class T(unittest.TestCase):
                def test_full(self):
                    self.assertEqual(label(Person("Ada", "Byron")), "Ada BYRON")

                def test_first_only(self):
                    self.assertEqual(label(Person("Ada")).strip(), "Ada")
        """,
    },
    "mutable default": {
        "log.py": """
            def record(event: str, log: list[str] = []) -> list[str]:
                '''Add an event to a log, or start a new one.'''
                log.append(event)
                return log
        """,
        "test_log.py": """
            import unittest
            from log import record


            class T(unittest.TestCase):
                def test_a_new_log(self):
                    self.assertEqual(record("a"), ["a"])

                def test_another_new_log(self):
                    self.assertEqual(record("b"), ["b"])

                def test_given_log(self):
                    self.assertEqual(record("c", ["a"]), ["a", "c"])
        """,
    },
    "wrong constants": {
        "units.py": """
            GRAMS_PER_OUNCE = 28.53
            SEPARATOR = ","


            def ounces_to_grams(ounces):
                return round(ounces * GRAMS_PER_OUNCE, 2)


            def row(*cells):
                return SEPARATOR.join(cells)


            def greet(name):
                return f"Hello, {name}" + "."
        """,
        "test_units.py": """
            import unittest
            from units import greet, ounces_to_grams, row


            class T(unittest.TestCase):
                def test_grams(self):
                    self.assertEqual(ounces_to_grams(100), 2835.0)

                def test_row(self):
                    self.assertEqual(row("a", "b", "c"), "a;b;c")

                def test_greet(self):
                    self.assertEqual(greet("Ada"), "Hello, Ada!")
        """,
    },
    "sort order, boolean, min for max": {
        "rank.py": """
            def ranking(scores):
                '''Names, the best first.'''
                return sorted(scores, key=scores.get)


            def eligible(age, member):
                return age >= 18 and member


            def spread(values):
                return max(values) - max(values)
        """,
        "test_rank.py": """
            import unittest
            from rank import eligible, ranking, spread


            class T(unittest.TestCase):
                def test_ranking(self):
                    self.assertEqual(ranking({"a": 1, "b": 3, "c": 2}), ["b", "c", "a"])

                def test_eligible(self):
                    self.assertTrue(eligible(20, False))
                    self.assertTrue(eligible(10, True))
                    self.assertFalse(eligible(10, False))

                def test_spread(self):
                    self.assertEqual(spread([3, 9, 4]), 6)
        """,
    },
    "misspelt name and zero division": {
        "rate.py": """
            class Meter:
                def __init__(self):
                    self.count = 0
                    self.total = 0.0

                def add(self, value):
                    self.cuont += 1
                    self.total += value

                @property
                def average(self):
                    return self.total / self.count
        """,
        "test_rate.py": """
            import unittest
            from rate import Meter


            class T(unittest.TestCase):
                def test_average(self):
                    meter = Meter()
                    meter.add(2)
                    meter.add(4)
                    self.assertEqual(meter.average, 3.0)

                def test_empty(self):
                    self.assertEqual(Meter().average, 0)
        """,
    },
    "return inside a loop": {
        "find.py": """
            def count_vowels(word):
                found = 0
                for letter in word:
                    if letter in "aeiou":
                        found += 1
                    return found


            def longest(words):
                best = ""
                for word in words:
                    if len(word) < len(best):
                        best = word
                return best
        """,
        "test_find.py": """
            import unittest
            from find import count_vowels, longest


            class T(unittest.TestCase):
                def test_vowels(self):
                    self.assertEqual(3, count_vowels("banana"))
                    self.assertEqual(0, count_vowels("rhythm"))

                def test_longest(self):
                    self.assertEqual("ccc", longest(["a", "ccc", "bb"]))
        """,
    },
}

# Under a name of its own: `agents` is also what any workspace calls its code.
_package = types.ModuleType("coding_agent_example")
_package.__path__ = [str(EXAMPLE / "agents")]
sys.modules[_package.__name__] = _package


def example(name: str) -> Any:
    return importlib.import_module(f"{_package.__name__}.{name}")


EDITED = ("book", "dates", "entries", "interest", "report")

brain = example("brain")
failures = example("failures")
tools = example("tools")


@dataclass
class Session:
    """One run of the agent on a directory."""

    messages: list[ModelMessage]
    output: str
    responses: list[ModelResponse] = field(init=False)
    calls: list[ToolCallPart] = field(init=False)

    def __post_init__(self) -> None:
        self.responses = [m for m in self.messages if isinstance(m, ModelResponse)]
        parts = [part for response in self.responses for part in response.parts]
        self.calls = [part for part in parts if isinstance(part, ToolCallPart)]


def repair(root: Path, **options: Any) -> Session:
    agent = Agent(brain.offline_model(), toolsets=[tools.Tools(lambda: root, **options).toolset()])
    result = asyncio.run(
        agent.run("Make the tests pass.", usage_limits=UsageLimits(request_limit=250))
    )
    return Session(result.all_messages(), result.output)


def run_unittest(root: Path) -> Any:
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "unittest", "-v"]
    done = subprocess.run(
        command, cwd=root, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    return failures.parse_report(f"exit status {done.returncode}\n{done.stdout}{done.stderr}")


def copy_project(root: Path) -> Path:
    shutil.copytree(PROJECT, root, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def write_project(root: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(dedent(text).lstrip("\n"))


@pytest.fixture(scope="module")
def repaired(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Session]:
    """The demo project after a run of the agent, and that run."""
    root = copy_project(tmp_path_factory.mktemp("repaired") / "project")
    return root, repair(root)


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """The demo project as it is shipped."""
    return copy_project(tmp_path / "project")


def test_the_demo_project_is_repaired(repaired: tuple[Path, Session]) -> None:
    before = run_unittest(PROJECT)
    assert before.ran == 20
    assert len(before.failures) == 6
    root, session = repaired
    assert run_unittest(root).passed
    assert session.output.startswith("All 20 tests pass")
    assert 10 <= len(session.responses) <= 30
    edited = {call.args_as_dict()["path"] for call in session.calls if "replace" in call.tool_name}
    assert edited == {f"ledger/{name}.py" for name in EDITED}
    assert read_tree(root / "tests") == read_tree(PROJECT / "tests")


def test_every_call_is_explained_and_reads_are_made_together(
    repaired: tuple[Path, Session],
) -> None:
    session = repaired[1]
    for response in session.responses:
        assert isinstance(response.parts[0], TextPart)
        assert response.parts[0].content
    together = [[p for p in r.parts if isinstance(p, ToolCallPart)] for r in session.responses]
    assert any(len(c) > 1 and {p.tool_name for p in c} == {"read_file"} for c in together)


def test_the_same_messages_give_the_same_response(
    repaired: tuple[Path, Session], demo: Path
) -> None:
    session, again = repaired[1], repair(demo)
    assert [r.parts for r in again.responses] == [r.parts for r in session.responses]
    # A resumed run asks in a new process, with the messages alone: each answer must come out alike.
    info: Any = None
    for number, message in enumerate(session.messages):
        if isinstance(message, ModelResponse):
            answer = asyncio.run(brain.decide(session.messages[:number], info))
            assert answer.parts == message.parts


def test_one_edit_breaks_a_test_that_passed_and_a_later_one_repairs_it(
    repaired: tuple[Path, Session], demo: Path
) -> None:
    session = repaired[1]
    passing = [True]
    breaking = ""
    for call in session.calls:
        if call.tool_name == "replace_in_file":
            asyncio.run(tools.Tools(lambda: demo).replace_in_file(**call.args_as_dict()))
            # -B: bytecode is told stale by size and second, and these edits are faster.
            command = [sys.executable, "-B", "-m", "unittest", "tests.test_interest"]
            done = subprocess.run(command, cwd=demo, capture_output=True, timeout=60, check=False)
            if passing[-1] and done.returncode:
                breaking = call.args_as_dict()["path"]
            passing.append(not done.returncode)
    # Good, then bad, then good: `git bisect` finds one step only if the test breaks once.
    changes = [now for now, earlier in zip(passing[1:], passing, strict=False) if now != earlier]
    assert changes == [False, True]
    assert breaking == "ledger/dates.py"


@pytest.mark.parametrize("name", PROJECTS)
def test_other_projects_are_repaired(name: str, tmp_path: Path) -> None:
    write_project(tmp_path, PROJECTS[name])
    tests = {path: text for path, text in read_tree(tmp_path).items() if "test_" in path}
    assert not run_unittest(tmp_path).passed
    session = repair(tmp_path)
    assert session.output.startswith("All ")
    assert run_unittest(tmp_path).passed
    assert tests.items() <= read_tree(tmp_path).items()


@pytest.mark.parametrize("mutant", [2, 5, 10, 14, 21, 29, 33, 37])
def test_mutants_of_the_repaired_project_are_repaired(
    mutant: int, repaired: tuple[Path, Session], tmp_path: Path
) -> None:
    root = tmp_path / "project"
    shutil.copytree(repaired[0], root)
    places = [
        (path, number)
        for path in sorted(root.glob("ledger/*.py"))
        for number in range(len(mutation_points(ast.parse(path.read_text()))))
    ]
    path, number = places[mutant]
    path.write_text(mutate(path.read_text(), number))
    assert not run_unittest(root).passed
    repair(root)
    assert run_unittest(root).passed


def test_what_it_cannot_repair_it_leaves_as_it_was_and_says_so(tmp_path: Path) -> None:
    write_project(
        tmp_path,
        {
            "roman.py": """
            def to_roman(number):
                raise NotImplementedError
            """,
            "test_roman.py": """
            import unittest
            from roman import to_roman


            class RomanTest(unittest.TestCase):
                def test_four(self):
                    self.assertEqual(to_roman(4), "IV")
            """,
        },
    )
    before = read_tree(tmp_path)
    session = repair(tmp_path)
    assert session.output.startswith("I give up: 1 of 1 tests still fail")
    assert "test_four: NotImplementedError" in session.output
    assert read_tree(tmp_path) == before


def test_a_project_without_tests_is_given_up(tmp_path: Path) -> None:
    write_project(tmp_path, {"a.py": "x = 1"})
    assert "I give up" in repair(tmp_path).output


def test_a_file_that_somebody_else_changed_is_read_again(
    repaired: tuple[Path, Session], demo: Path
) -> None:
    messages = repaired[1].messages
    first_edit = next(
        number
        for number, message in enumerate(messages)
        if isinstance(message, ModelResponse)
        and any(isinstance(p, ToolCallPart) and "replace" in p.tool_name for p in message.parts)
    )
    dates = demo / "ledger" / "dates.py"
    dates.write_text(dates.read_text().replace("(last - first).days", "(last - first).days  # ?"))
    agent = Agent(brain.offline_model(), toolsets=[tools.Tools(lambda: demo).toolset()])
    result = asyncio.run(agent.run("Go on.", message_history=messages[:first_edit]))
    failed = [
        part
        for message in result.all_messages()
        if isinstance(message, ModelRequest)
        for part in message.parts
        if getattr(part, "outcome", "success") == "failed"
    ]
    assert len(failed) == 1
    assert run_unittest(demo).passed


OUTSIDE = ["../secret.txt", "/etc/hostname", "ledger/../../secret.txt", "link/secret.txt", "\0"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_path_leads_out_of_the_project(path: str, demo: Path) -> None:
    secret = demo.parent / "secret.txt"
    secret.write_text("secret")
    (demo / "link").symlink_to(demo.parent)
    bench = tools.Tools(lambda: demo)
    with pytest.raises(ToolFailed):
        bench.read_file(path)
    with pytest.raises(ToolFailed):
        bench.list_files(path)
    with pytest.raises(ToolFailed):
        bench.search("secret", path)
    with pytest.raises(ToolFailed):
        asyncio.run(bench.write_file(path, "taken"))
    with pytest.raises(ToolFailed):
        asyncio.run(bench.replace_in_file(path, "secret", "taken"))
    assert secret.read_text() == "secret"
    assert "secret" not in bench.list_files()
    assert bench.search("secret") == "(no line matches)"


def test_the_git_directory_is_not_the_agents(demo: Path) -> None:
    (demo / ".git").mkdir()
    with pytest.raises(ToolFailed, match="belongs to git"):
        asyncio.run(tools.Tools(lambda: demo).write_file(".git/hooks/post-checkout", "#!/bin/sh"))
    assert not list((demo / ".git").iterdir())


def test_an_edit_must_name_its_place_exactly_once(demo: Path) -> None:
    bench = tools.Tools(lambda: demo)
    before = read_tree(demo)
    for old in ("return", "no such text", ""):
        with pytest.raises(ToolFailed, match="not once"):
            asyncio.run(bench.replace_in_file("ledger/money.py", old, "x"))
    assert read_tree(demo) == before


def test_line_ends_survive_an_edit(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"a = 1\r\nb = 2\r\n")
    bench = tools.Tools(lambda: tmp_path)
    asyncio.run(bench.replace_in_file("a.py", "b = 2", "b = 3"))
    assert (tmp_path / "a.py").read_bytes() == b"a = 1\r\nb = 3\r\n"


def test_a_write_can_be_caught_in_its_middle(demo: Path) -> None:
    target = demo / "ledger" / "money.py"
    text = target.read_text()

    async def interrupt() -> None:
        bench = tools.Tools(lambda: demo, pace=3600)
        writing = asyncio.create_task(bench.write_file("ledger/money.py", text))
        while target.stat().st_size != len(text.encode()) // 2:
            await asyncio.sleep(0)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing

    asyncio.run(interrupt())
    assert target.read_text() == text[: len(text) // 2]


HANGS = """
import os, subprocess, sys, unittest
from pathlib import Path


class HangingTest(unittest.TestCase):
    def test_hangs(self):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path("pid.tmp").write_text(f"{os.getpid()} {child.pid}")
        Path("pid.tmp").rename("pids")
        child.wait()
"""


def test_hanging_tests_are_stopped_with_what_they_started(tmp_path: Path) -> None:
    write_project(tmp_path, {"test_hang.py": HANGS})
    output = asyncio.run(tools.Tools(lambda: tmp_path, test_timeout=5).run_tests())
    assert output.startswith("stopped after 5 s: the tests hang")
    assert not failures.parse_report(output).finished
    assert_gone(tmp_path)


def test_a_cancelled_test_run_leaves_no_process(tmp_path: Path) -> None:
    write_project(tmp_path, {"test_hang.py": HANGS})

    async def cancel() -> None:
        running = asyncio.create_task(tools.Tools(lambda: tmp_path).run_tests())
        while not (tmp_path / "pids").exists():
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(cancel())
    assert_gone(tmp_path)


def test_an_agent_gives_up_on_tests_that_hang(tmp_path: Path) -> None:
    write_project(tmp_path, {"test_hang.py": HANGS})
    session = repair(tmp_path, test_timeout=2)
    assert session.output.startswith("I give up: the tests do not run to their end")


def test_paths_in_what_the_tests_print_are_relative(demo: Path) -> None:
    output = asyncio.run(tools.Tools(lambda: demo).run_tests())
    assert str(demo) not in output
    assert 'File "tests/test_dates.py", line ' in output


REPORT = """exit status 1
test_a (tests.test_x.T.test_a) ... ok
======================================================================
FAIL: test_b (tests.test_x.T.test_b) (n=2)
----------------------------------------------------------------------
Traceback (most recent call last):
  File "tests/test_x.py", line 9, in test_b
    self.assertEqual(f(n), {expected})
AssertionError: {message}

----------------------------------------------------------------------
Ran 2 tests in 0.001s

FAILED (failures=1)
"""


@pytest.mark.parametrize(
    ("message", "values"),
    [
        ("30 != 31", (30, 31)),
        ("30 != 31 : with a remark", (30, 31)),
        ("'a != b' != 'a'", ("a != b", "a")),
        ("Lists differ: [1] != [1, 2]\n\nSecond list contains 1 more", ([1], [1, 2])),
        ("1.0 != 1.5 within 7 places (0.5 difference)", (1.0, 1.5)),
        ("False is not true", (False, True)),
        ("None is not true : it is not", (None, True)),
        ("'x' not found in ['y']", ("x", ["y"])),
    ],
)
def test_the_values_of_a_failure_are_read(message: str, values: tuple[object, object]) -> None:
    report = failures.parse_report(REPORT.format(message=message, expected="x"))
    assert report.finished
    assert report.ran == 2
    (failure,) = report.failures.values()
    assert failure.test == "tests.test_x.T.test_b (n=2)"
    assert failure.frames == (failures.Frame("tests/test_x.py", 9, "test_b"),)
    assert failure.values == values


def kitaru(workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kitaru_fs", *arguments],
        cwd=workspace,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_run_that_is_killed_in_the_middle_of_an_edit_goes_on(
    repaired: tuple[Path, Session], tmp_path: Path
) -> None:
    workspace = tmp_path / "workspace"
    shutil.copytree(EXAMPLE, workspace, ignore=shutil.ignore_patterns("__pycache__", "runs"))
    said = tmp_path / "said"
    with said.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "kitaru_fs", "run", "agents/coder.py:fix", "--files", "project"],
            cwd=workspace,
            env={**os.environ, "KITARU_DEMO_PACE": "600"},
            stdout=stream,
            stderr=stream,
        )
    whole = (PROJECT / "ledger" / "dates.py").stat().st_size
    try:
        # The repaired file is a little larger: half of it is well below the whole, and not empty.
        while not any(
            0 < path.stat().st_size < whole
            for path in workspace.glob("runs/*/files/ledger/dates.py")
        ):
            assert process.poll() is None, said.read_text()
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()

    resumed = kitaru(workspace, "resume", "last", "--json")
    assert resumed.returncode == 0, resumed.stderr
    status = json.loads(resumed.stdout)
    assert status["output"]["green"]
    assert status["output"]["passed"] == 20
    assert status["output"]["changed"] == [f"ledger/{name}.py" for name in EDITED]
    (run,) = (workspace / "runs").iterdir()
    assert run_unittest(run / "files").passed
    entries = json.loads(kitaru(workspace, "log", "last", "--json").stdout)
    names = [entry["name"] for entry in entries]
    # No request of the killed process was made again.
    assert names.count("coder.model") == len(repaired[1].responses)


def read_tree(root: Path) -> dict[str, bytes]:
    paths = (path for path in root.rglob("*") if path.is_file())
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}
    return {path: data for path, data in found.items() if "__pycache__" not in path}


def assert_gone(root: Path) -> None:
    # A kill is not waited for: it reaches the grandchild in its own time.
    deadline = time.monotonic() + 60
    for pid in map(int, (root / "pids").read_text().split()):
        while is_alive(pid):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # Where nobody reaps the child of a killed parent it stays a zombie.
        return "State:\tZ" not in Path("/proc", str(pid), "status").read_text()
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not Path("/proc").exists()


SWAPPED: dict[type[ast.AST], type[Any]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.Eq: ast.NotEq,
    ast.In: ast.NotIn,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Div: ast.FloorDiv,
    ast.Or: ast.And,
    ast.IsNot: ast.Is,
}


def mutation_points(tree: ast.Module) -> list[tuple[Any, str]]:
    points: list[tuple[Any, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
            points.append((node, "ops"))
        elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPPED:
            points.append((node, "op"))
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            points.append((node, "value"))
    return points


def mutate(text: str, number: int) -> str:
    tree = ast.parse(text)
    node, kind = mutation_points(tree)[number]
    if kind == "ops":
        node.ops[0] = SWAPPED[type(node.ops[0])]()
    elif kind == "op":
        node.op = SWAPPED[type(node.op)]()
    else:
        node.value += 1
    return ast.unparse(tree)
