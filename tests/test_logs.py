"""What a run printed: caught as it is printed, kept by the step, there after any death."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys

import pytest
from cli_program import Program
from plain_git import git

FLOWS = """
import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

from kitaru_fs import files, flow, step


def tell(word):
    if "TEST_GATE" in os.environ:
        os.write(int(os.environ["TEST_GATE"]), word.encode() + b"\\n")


def wait_for(name):
    place = Path(os.environ["TEST_PLACE"]) / name
    while not place.exists():
        time.sleep(0.01)


@step
def speak(word: str) -> str:
    print("python:", word)
    subprocess.run(f"echo shell: {word}; echo error: {word} >&2", shell=True, check=True)
    print("python again:", word, file=sys.stderr)
    return word


@flow
def talk() -> int:
    print("the flow begins")
    speak("one")
    speak("two")
    os.system("echo the flow ends")
    return 2


@step
def dies() -> int:
    print("last words", flush=True)
    if not Path(os.environ["TEST_PLACE"], "fixed").exists():
        os.system("printf 'no line end'")
        os.kill(os.getpid(), 9)
    return 1


@flow
def mortal() -> int:
    print("hello")
    speak("one")
    return dies()


both = asyncio.Barrier(2)


@step
async def overlapping(word: str) -> str:
    print(word, "begins")
    await both.wait()
    print(word, "goes on")
    if word == "left":
        await (await asyncio.create_subprocess_shell("echo whose is this")).wait()
    await both.wait()
    return word


@flow
async def overlap() -> int:
    await asyncio.gather(overlapping("left"), overlapping("right"))
    return 2


@step
def much(number: int) -> int:
    print(f"number {number}: " + "x" * 2000)
    return number


@flow
def chatter(times: int) -> int:
    for number in range(times):
        much(number)
    return times


@step
def slow() -> int:
    print("slow begins")
    tell(str(os.getpid()))
    wait_for("go")
    print("slow ends")
    subprocess.run(["echo", "and its child"], check=True)
    return 1


@flow
def slowly() -> int:
    return slow()


@flow
def parent() -> int:
    print("parent speaks")
    return talk()


@step
def odd() -> int:
    sys.stdout.buffer.write(b"raw \\xff bytes\\n")
    print("\\x1b[31mred\\x1b[0m and \\x1b]0;title\\x07plain")
    print("10%\\r20%\\r100%")
    os.write(1, b"\\x1e not a frame\\n")
    return 1


@flow
def oddly() -> int:
    return odd()


@step
def indiscreet() -> int:
    print("given:", os.environ["SERVICE_TOKEN"])
    os.environ["LATER_API_KEY"] = "loaded-from-a-file-0123456789"
    subprocess.run("echo loaded: $LATER_API_KEY; echo fine", shell=True, check=True)
    print("order number 4711-0815")
    sys.stdout.write("x" * 70000 + os.environ["SERVICE_TOKEN"] + "y" * 70000)
    return 1


@flow
def tells() -> int:
    return indiscreet()


@step
def leaves_one() -> int:
    subprocess.Popen(
        'echo at first; while [ ! -e "$TEST_PLACE/go" ]; do sleep 0.02; done; echo at last',
        shell=True,
    )
    return 1


@flow
def leaves() -> int:
    return leaves_one()


@step
def in_the_way() -> int:
    print("this is lost", flush=True)
    wait_for("more")
    print("this may be too", flush=True)
    wait_for("go")
    print("this is kept")
    return 1


@flow
def refused() -> int:
    place = files().parent / ".git" / "kitaru" / "log"
    place.write_text("in the way")
    return in_the_way()
"""


@pytest.fixture
def kitaru(tmp_path):
    program = Program(tmp_path)
    (program.workspace / "agents" / "letters.py").write_text(FLOWS)
    program.environment["TEST_PLACE"] = str(tmp_path)
    return program


def printed(kitaru, *words):
    """What a run printed, by the step; pieces of one step together."""
    found: dict[str, str] = {}
    for piece in kitaru("logs", *words, "--json").json:
        name = f"{piece['name']}@{piece['step']}" if piece["name"] else "flow"
        found[name] = found.get(name, "") + piece["text"]
    return found


def words_of(word):
    return f"python: {word}\nshell: {word}\nerror: {word}\npython again: {word}\n"


class TestWhatIsPrinted:
    def test_is_kept_by_the_step_and_shown_on_stderr_in_order(self, kitaru):
        done = kitaru("run", "talk")

        assert done.out == "2\n"
        shown = [line for line in done.err.splitlines() if not line.startswith(("run ", "  "))]
        assert shown == [
            "the flow begins",
            "begins speak",
            *words_of("one").splitlines(),
            shown[6],
            "begins speak",
            *words_of("two").splitlines(),
            shown[12],
            "the flow ends",
        ]
        assert shown[6].startswith("step 1: speak")
        assert printed(kitaru, "last") == {
            "flow": "the flow begins\nthe flow ends\n",
            "speak@1": words_of("one"),
            "speak@2": words_of("two"),
        }

    def test_is_shown_with_headings_and_for_one_step_alone(self, kitaru):
        kitaru.good("run", "talk")

        text = kitaru.good("logs", "last")
        assert text.splitlines()[:3] == [
            "==> the flow <==",
            "the flow begins",
            "==> step 1: speak <==",
        ]
        assert kitaru.good("logs", "last@2") == words_of("two")
        assert kitaru("logs", "last@9").status == 2
        assert kitaru("logs", "last@2", "-f").status == 2

    def test_is_in_no_commit_and_goes_with_a_copy(self, kitaru):
        kitaru.good("run", "talk")
        [run] = kitaru.runs

        assert git(run, "status", "--porcelain") == ""
        assert (
            git(run, "log", "--all", "--oneline", "-S", "python again", "--", ".", ":!code") == ""
        )
        copy = kitaru.runs[0].with_name("a-copy")
        shutil.copytree(run, copy, symlinks=True)
        assert printed(kitaru, "a-copy")["speak@1"] == words_of("one")

    def test_by_steps_that_overlap_is_told_apart_as_far_as_it_can_be(self, kitaru):
        kitaru.good("run", "overlap")

        pieces = kitaru("logs", "last", "--json").json
        by_commit: dict[str | None, str] = {}
        for piece in pieces:
            by_commit[piece["commit"]] = by_commit.get(piece["commit"], "") + piece["text"]
        assert by_commit.pop(None) == "whose is this\n"
        assert sorted(by_commit.values()) == [
            f"{word} begins\n{word} goes on\n" for word in ("left", "right")
        ]

    def test_in_a_child_run_is_the_childs(self, kitaru):
        kitaru.good("run", "parent")

        parent, child = kitaru.runs
        assert printed(kitaru, parent.name) == {"flow": "parent speaks\nthe flow ends\n"}
        assert printed(kitaru, child.name) == {
            "flow": "the flow begins\n",
            "speak@1": words_of("one"),
            "speak@2": words_of("two"),
        }

    def test_in_odd_bytes_and_colours_is_kept_as_plain_text(self, kitaru):
        done = kitaru("run", "oddly")

        assert "\x1b[31mred" in done.err
        assert kitaru.good("logs", "last@odd").split("\n") == [
            "raw \\xff bytes",
            "red and plain",
            "100%",
            "\x1e not a frame",
            "",
        ]

    def test_is_kept_without_secrets(self, kitaru):
        (kitaru.workspace / "kitaru.toml").write_text("[redact]\npatterns = ['\\d{4}-\\d{4}']\n")
        token = "a-token-that-nobody-may-see-" + "0123456789" * 300
        done = kitaru("run", "tells", SERVICE_TOKEN=token)

        assert f"given: {token}" in done.err  # whoever runs it may see it
        text = kitaru.good("logs", "last@indiscreet")
        assert text.startswith(
            "given: {kitaru:secret:SERVICE_TOKEN}\nloaded: {kitaru:secret:LATER_API_KEY}\nfine\n"
        )
        assert "4711-0815" not in text
        assert text.count("{kitaru:secret:SERVICE_TOKEN}") == 2
        assert "0123456789" not in text


class TestAfterADeath:
    def test_the_last_words_are_there_and_what_is_replayed_is_not_shown_twice(
        self, kitaru, tmp_path
    ):
        assert kitaru("run", "mortal").status == -signal.SIGKILL
        assert printed(kitaru, "last") == {
            "flow": "hello\n",
            "speak@1": words_of("one"),
            "dies@None": "last words\nno line end",
        }

        (tmp_path / "fixed").touch()
        kitaru.good("resume", "last")
        assert printed(kitaru, "last") == {
            "flow": "hello\n",
            "speak@1": words_of("one"),
            "dies@None": "last words\nno line end",
            "dies@3": "last words\n",
        }
        assert printed(kitaru, "last", "--replayed")["flow"] == "hello\nhello\n"

    def test_of_the_keeper_nothing_fails_and_nothing_more_is_lost(self, kitaru, tmp_path):
        started = kitaru.start("run", "slowly")
        runner = int(started.told())
        for child in children(runner):
            os.kill(child, signal.SIGKILL)
        (tmp_path / "go").touch()

        done = started.end()
        assert (done.status, done.out) == (0, "1\n")
        assert "slow ends\nand its child\n" in done.err
        assert "slow ends\nand its child\n" in "".join(printed(kitaru, "last").values())

    def test_of_the_run_what_a_step_left_running_still_speaks(self, kitaru, tmp_path):
        started = kitaru.start("run", "leaves")
        assert started.process.stdout is not None
        assert started.process.stdout.readline() == "1\n"
        assert started.process.wait() == 0
        (tmp_path / "go").touch()

        # Who keeps the log has stderr open until nobody prints any more.
        assert "at last" in started.end().err
        assert "".join(printed(kitaru, "last").values()) == "at first\nat last\n"


class TestBounds:
    def test_the_oldest_goes(self, kitaru):
        (kitaru.workspace / "kitaru.toml").write_text('[logs]\nmax_size = "40KB"\n')
        kitaru.good("run", "chatter", "times=60")

        [run] = kitaru.runs
        kept = list((run / ".git" / "kitaru" / "log").iterdir())
        assert 20_000 < sum(path.stat().st_size for path in kept) <= 40_000
        numbers = [int(text.split()[1][:-1]) for text in printed(kitaru, "last").values()]
        assert numbers == list(range(numbers[0], 60))
        assert numbers[0] > 20

    def test_a_disk_that_refuses_is_said_and_fails_nothing(self, kitaru, tmp_path):
        started = kitaru.start("run", "refused")
        assert started.process.stderr is not None
        while started.process.stderr.readline() != "this is lost\n":
            pass
        (tmp_path / "more").touch()
        # Shown after what came before it was to be written.
        assert started.process.stderr.readline() == "this may be too\n"
        (kitaru.runs[0] / ".git" / "kitaru" / "log").unlink()
        (tmp_path / "go").touch()

        assert started.end().status == 0
        text = kitaru.good("logs", "last")
        assert "bytes were not kept" in text
        assert "this is kept" in text


class TestFollowing:
    def test_shows_what_comes_and_ends_with_the_run(self, kitaru, tmp_path):
        running = kitaru.start("run", "slowly")
        running.told()
        following = kitaru.start("logs", "last", "-f")
        assert following.process.stdout is not None
        assert following.process.stdout.readline() == "==> slow <==\n"
        assert following.process.stdout.readline() == "slow begins\n"
        (tmp_path / "go").touch()

        assert running.end().status == 0
        done = following.end()
        assert (done.status, done.out) == (0, "slow ends\nand its child\n")

    def test_takes_json_lines(self, kitaru):
        kitaru.good("run", "talk")

        lines = kitaru.good("logs", "last", "-f", "--json").splitlines()
        assert '"text": "the flow begins\\n"' in lines[0]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ptys differ")
def test_a_terminal_shows_prints_above_what_runs(kitaru):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        kitaru.command("run", "talk"),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        cwd=kitaru.workspace,
        env=kitaru.environment | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 65536):
            shown += data
    except OSError:
        pass  # the other end is closed
    os.close(ours)
    out, _ = process.communicate()

    assert (process.returncode, out) == (0, b"2\n")
    assert b"the flow begins\r\n" in shown
    assert b"shell: one\r\n" in shown
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")  # the cursor is back
    assert printed(kitaru, "last")["speak@1"] == words_of("one")


def children(pid):
    """The child processes of a process."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    pairs = [line.split() for line in listed.splitlines()]
    return [int(child) for child, parent in pairs if int(parent) == pid]
