"""What-if: a fork has the commits before a step and goes on live; the run it came from stays."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cli_program import Program
from flowbench import FlowBench, listing
from plain_git import git

from kitaru_fs import Run, files, flow, step, this_step, uuid4
from kitaru_fs.errors import (
    AmbiguousError,
    ConflictError,
    NotFoundError,
    RunDamagedError,
    UsageError,
)


def research(bench: FlowBench) -> Any:
    """A flow of three steps, each of which depends on the one before."""

    @step
    def search(topic: str) -> list[str]:
        bench.did(f"search {topic}")
        (files() / "hits.md").write_text(topic)
        return [topic, "more"]

    @step
    def plan(hits: list[str]) -> str:
        bench.did(f"plan {','.join(hits)}")
        return f"plan of {len(hits)}"

    @step
    def build(how: str) -> int:
        bench.did(f"build {how}")
        (files() / "built.md").write_text(how)
        return len(how)

    def body() -> int:
        return build(plan(search("git")))

    return body


@pytest.fixture
def done(bench: FlowBench) -> Run:
    """A completed run of `research`."""
    bench.start(research(bench))
    bench.forget()
    return bench.run


def is_clean(run: Run) -> bool:
    return (
        git(run.path, "status", "--porcelain") == ""
        and git(run.path, "fsck", "--strict", "--no-dangling") == ""
    )


def kinds(run: Run) -> list[str]:
    return [f"{line.kind} {line.name}" for line in run.log() if line.kind != "fork"]


# What it begins with


def test_the_commits_before_the_step_are_the_same_and_the_rest_is_live(bench, done):
    before = [line.commit for line in done.log()]
    fork = done.fork("plan")
    assert fork.status == "interrupted"
    assert [line.commit for line in fork.log()][:2] == before[:2]
    assert fork.log()[2].subject == f"fork 2: from {done.id}"
    assert (fork.path / "files" / "hits.md").read_text() == "git"
    assert not (fork.path / "files" / "built.md").exists()
    assert is_clean(fork)
    assert bench.done == []
    assert fork.resume() == 9
    assert bench.done == ["plan git,more", "build plan of 2"]
    assert kinds(fork.refresh()) == [
        *("start main", "step search", "resume asked", "step plan", "step build"),
        "end completed",
    ]
    assert [line.commit for line in done.refresh().log()] == before
    assert is_clean(fork)


def test_the_run_that_it_is_made_from_is_not_written(done):
    before = listing(done.path)
    done.fork("plan")
    after = listing(done.path)
    # A hard link changes no more than how many names a file has.
    assert after == before


def test_a_fork_from_the_start_keeps_what_was_asked_and_makes_every_call_anew(bench, done):
    fork = done.fork("0")
    assert fork.resume() == 9
    assert bench.done == ["search git", "plan git,more", "build plan of 2"]


def test_without_a_step_a_fork_goes_on_where_the_run_stood(bench, done):
    fork = done.fork()
    assert [line.kind for line in fork.log()] == ["start", "step", "step", "step", "fork"]
    assert fork.resume() == 9
    assert bench.done == []


def test_every_mode_link_and_empty_directory_is_there(bench):
    @step
    def make() -> None:
        root = files()
        (root / "secret").write_text("s")
        (root / "secret").chmod(0o600)
        (root / "tool").write_text("#!/bin/sh\n")
        (root / "tool").chmod(0o755)
        (root / "empty" / "deep").mkdir(parents=True)
        (root / "closed").mkdir()
        (root / "closed" / "in").write_text("x")
        (root / "closed").chmod(0o500)
        (root / "link").symlink_to("nowhere")
        (root / os.fsdecode(b"odd\xff\nname")).write_text("o")
        git(root, "init", "-q", "app")
        (root / "app" / "x").write_text("1")
        git(root / "app", "add", "x")

    @step
    def last() -> None: ...

    def body() -> None:
        make()
        last()

    bench.start(body)
    run = bench.run
    fork = run.fork("last")

    def modes(run: Run) -> dict[str, tuple[int, str]]:
        found: dict[str, tuple[int, str]] = {}
        for path in sorted((run.path / "files").rglob("*")):
            content = "" if path.is_dir() or path.is_symlink() else path.read_bytes().hex()
            found[str(path.relative_to(run.path))] = (path.lstat().st_mode, content)
        return found

    assert modes(fork) == modes(run)
    assert git(fork.path / "files" / "app", "status", "--porcelain") == "A  x\n"
    assert is_clean(fork)


def test_it_can_be_rewound_to_before_it_was_forked(bench, done):
    fork = done.fork("build")
    move = fork.rewind("search")
    assert move.step == 1
    assert fork.refresh().resume() == 9
    assert bench.done == ["plan git,more", "build plan of 2"]


def test_a_fork_of_a_fork(bench, done):
    second = done.fork("build").fork("search")
    assert second.resume() == 9
    assert second.refresh().log()[1].kind == "fork"
    assert is_clean(second)


def test_it_lives_without_the_run_that_it_came_from(done):
    fork = done.fork("build")
    shutil.rmtree(done.path)
    assert fork.refresh().resume() == 9
    assert is_clean(fork)


def test_what_no_commit_holds_is_not_copied(bench, done):
    (done.path / "files" / ".env").write_text("TOKEN=x")
    done.rewind("plan")
    fork = done.refresh().fork("search")
    assert not (fork.path / "files" / ".env").exists()


# Replaced outputs


def test_a_replaced_output_is_what_the_flow_gets_and_its_files_stay(bench, done):
    fork = done.fork("search", set={"search": ["other"]}, identity=("Ada", "ada@example.org"))
    assert (fork.path / "files" / "hits.md").read_text() == "git"
    assert git(fork.path, "log", "-1", "--format=%an %s") == "Ada step 2: search\n"
    shown = fork.show("search")
    assert shown.output == ["other"]
    assert shown.entry.source == {
        "run": done.id,
        "step": 1,
        "commit": done.resolve("search").commit.hex(),
    }
    assert fork.resume() == 9
    assert bench.done == ["plan other", "build plan of 1"]


def test_what_follows_an_earlier_replacement_is_live(bench, done):
    fork = done.fork("build", set={"search": []})
    fork.resume()
    assert bench.done == ["plan ", "build plan of 0"]


def test_two_replacements_and_what_is_between_them_is_live(bench):
    @step
    def one() -> int:
        return 1

    @step
    def between(number: int) -> int:
        bench.did(f"between {number}")
        return number

    @step
    def two(number: int) -> int:
        bench.did(f"two {number}")
        return number

    def body() -> list[int]:
        first = one()
        middle = between(first)
        return [first, middle, two(middle), two(7)]

    assert bench.start(body) == [1, 1, 1, 7]
    bench.forget()
    # The arguments of the second one change with the first: it is known by its place.
    fork = bench.run.fork("two#2", set={"one": 5, "two#1": 20})
    assert fork.resume() == [5, 5, 20, 7]
    assert bench.done == ["between 5", "two 7"]
    assert [line.kind for line in fork.refresh().log()].count("step") == 4
    # It is in the journal now: it is replayed, not given again.
    again = fork.refresh().fork("two#2")
    assert again.resume() == [5, 5, 20, 7]
    assert is_clean(fork)


def test_a_replacement_among_equal_steps_that_overlap_is_known_by_its_arguments(bench):
    @step
    async def ask(name: str) -> str:
        bench.did(name)
        return name.upper()

    async def body() -> list[str]:
        return list(await asyncio.gather(ask("a"), ask("b"), ask("c")))

    bench.start(body)
    bench.forget()
    inputs = {line.step: bench.entry(line.step).input for line in bench.run.log() if line.step}
    number = next(step for step, given in inputs.items() if given == {"name": "b"})
    first = min(step for step, given in inputs.items() if given and step != number)
    # Whichever committed first: `b` gets what was set for it.
    fork = bench.run.fork(set={str(number): "given", str(first): "first"})
    result = fork.resume()
    assert result[1] == "given"
    assert sorted(result).count("first") == 1
    assert len(bench.done) == 1


def test_a_failed_step_can_be_replaced_by_what_it_should_have_returned(bench):
    @step
    def fragile() -> int:
        raise ValueError("no")

    def body() -> int:
        return fragile()

    with pytest.raises(ValueError, match="no"):
        bench.start(body)
    assert bench.run.fork("fragile", set={"fragile": 3}).resume() == 3


def test_what_the_flow_read_before_the_replaced_step_is_read_again(bench):
    seen: list[str] = []

    @step
    def named(name: str) -> str:
        return name

    def body() -> str:
        name = str(uuid4())
        seen.append(name)
        return named(name)

    bench.start(body)
    assert bench.run.fork(set={"named": "set"}).resume() == "set"
    assert seen[0] == seen[1]


@dataclass
class Hit:
    title: str
    score: float


def test_a_value_of_the_steps_type_or_json_that_fits_it(bench):
    @step
    def best() -> Hit:
        return Hit("a", 1.0)

    def body() -> str:
        found = best()
        assert isinstance(found, Hit)
        return f"{found.title} {found.score}"

    bench.start(body)
    run = bench.run
    assert run.fork(set={"best": Hit("b", 2.0)}).resume() == "b 2.0"
    assert run.fork(set={"best": {"title": "c", "score": 3}}).resume() == "c 3.0"
    with pytest.raises(UsageError, match="does not fit what 'best' returns"):
        run.fork(set={"best": {"title": "c"}})
    with pytest.raises(UsageError, match="does not fit"):
        run.fork(set={"best": object()})


@pytest.mark.parametrize(
    ("at", "given", "error"),
    [
        ("nosuch", {}, NotFoundError),
        ("99", {}, NotFoundError),
        ("build", {"nosuch": 1}, NotFoundError),
        ("build", {"search": "no list"}, UsageError),
        ("search", {"build": 1}, UsageError),
        ("build", {"start": 1}, UsageError),
        ("build", {"search": [], "1": []}, UsageError),
        ("build", {"search": [], "build": 1}, UsageError),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    bench, done, at, given, error
) -> None:
    before = listing(bench.root / "runs")
    with pytest.raises(error):
        done.fork(at, set=given)
    assert listing(bench.root / "runs") == before


def test_an_ambiguous_step_lists_the_candidates(bench):
    @step
    def same(number: int) -> int:
        return number

    def body() -> int:
        return same(1) + same(2)

    bench.start(body)
    with pytest.raises(AmbiguousError, match=r"same#1 .*same#2"):
        bench.run.fork("same")
    with pytest.raises(AmbiguousError, match=r"same#1 .*same#2"):
        bench.run.fork("2", set={"same": 1})


def test_a_commit_of_a_human_is_no_step(bench, done):
    (done.path / "files" / "mine").write_text("mine")
    git(done.path, "add", "files/mine")
    git(done.path, "commit", "-qm", "mine")
    with pytest.raises(ConflictError, match="human made"):
        done.refresh().fork(git(done.path, "rev-parse", "HEAD").strip())


# A run of its own


def test_idempotency_keys_are_its_own_and_its_start_key_is_nobodys(bench):
    keys: list[str] = []

    @step
    def send() -> None:
        keys.append(this_step().idempotency_key)

    bench.start(send)
    run = bench.run
    fork = run.fork("send")
    fork.resume()
    assert len(set(keys)) == 2
    request = json.loads((fork.path / "run.json").read_text())
    assert request["run"] == fork.id
    assert request["fork"] == {
        "run": run.id,
        "step": 1,
        "commit": run.resolve("0").commit.hex(),
    }


def test_children_are_not_shared(bench):
    @step
    async def work(number: int) -> int:
        bench.did(f"work {number}")
        return number

    @flow
    async def child(number: int) -> int:
        return await work(number)

    async def body() -> list[int]:
        return [await child(1), await child(2)]

    bench.start(body)
    # Both children are runs beside it; the parent is the oldest.
    parent = bench.workspace.runs()[-1]
    bench.forget()
    fork = parent.fork("child#2")
    assert fork.resume() == [1, 2]
    # The second one is a run of the fork's own.
    assert bench.done == ["work 2"]
    mine = [
        run
        for run in bench.workspace.runs()
        if json.loads((run.path / "run.json").read_text()).get("parent", {}).get("run") == fork.id
    ]
    assert len(mine) == 1


def test_attempts_before_the_step_do_not_count(bench):
    attempts: list[int] = []

    @step(retries=1, backoff=0)
    def shaky() -> int:
        attempts.append(this_step().attempt)
        if len(attempts) in (1, 3):
            raise ValueError("once")
        return 1

    bench.start(shaky)
    fork = bench.run.fork("shaky")
    assert [line.kind for line in fork.log()] == ["start", "failed", "fork"]
    assert fork.resume() == 1
    assert attempts == [1, 2, 1, 2]


# What may be going on with the run that it is made from


def test_a_run_that_is_being_driven_is_only_read(bench):
    reached, go_on = threading.Event(), threading.Event()

    @step
    def early(number: int) -> int:
        (files() / f"{number}").write_text("x" * number)
        return number

    @step
    def slow() -> int:
        (files() / "torn").write_text("half")
        if not reached.is_set():
            reached.set()
            assert go_on.wait(60)
        return 0

    def body() -> int:
        return sum(early(number) for number in range(30)) + slow()

    handle = bench.handle(body)
    assert reached.wait(60)
    fork = bench.run.fork("early#20")
    go_on.set()
    assert asyncio.run(handle.result()) == 435
    assert not (fork.path / "files" / "torn").exists()
    assert fork.resume() == 435
    assert is_clean(fork)
    assert is_clean(bench.workspace.run(handle.id))


def test_a_crashed_run_is_forked_with_what_only_its_log_holds(bench):
    @step
    def early(number: int) -> int:
        bench.did(number)
        (files() / f"{number}").write_text("x" * number)
        return number

    @step
    def last() -> int:
        (files() / "torn").write_text("half")
        bench.die()
        return 0

    def body() -> int:
        return sum(early(number) for number in range(40)) + last()

    bench.crash(body)
    run = bench.run
    before = listing(run.path)
    bench.forget()
    fork = run.fork("early#39")
    assert listing(run.path) == before
    assert not (fork.path / "files" / "torn").exists()
    assert bench.resume(body) == 780
    assert bench.done == ["38", "39"]
    assert is_clean(fork)
    # What the other did later stays its own: it recovers as if nothing had been forked.
    assert run.resume() == 780
    assert is_clean(run)


def test_what_is_shown_of_the_journal_is_never_written_through_to_the_other(bench, done):
    fork = done.fork("build")
    shown = "journal/0000/000001-search.json"
    original = (done.path / shown).read_bytes()
    assert (fork.path / shown).stat().st_ino == (done.path / shown).stat().st_ino
    fork.rewind("0")
    fork.refresh().resume()
    assert (done.path / shown).read_bytes() == original
    assert is_clean(done)


def test_a_journal_that_somebody_changed_is_shown_as_it_is_in_the_commit(done):
    shown = "journal/0000/000001-search.json"
    (done.path / shown).write_text("{}")
    fork = done.fork("build")
    assert "search" in (fork.path / shown).read_text()
    assert is_clean(fork)


def test_a_missing_object_is_named_and_nothing_is_left(bench, done):
    tree = git(done.path, "rev-parse", "HEAD:files").strip()
    packs = list((done.path / ".git" / "objects" / "pack").glob("*.pack"))
    for pack in packs:
        moved = pack.with_suffix(".moved")
        pack.rename(moved)
        pack.with_suffix(".idx").unlink()
        with open(moved, "rb") as content:
            subprocess.run(
                ["git", "unpack-objects", "-q"], cwd=done.path, stdin=content, check=True
            )
    (done.path / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    before = sorted(os.listdir(bench.root / "runs"))
    with pytest.raises(RunDamagedError, match=tree):
        done.fork()
    assert sorted(os.listdir(bench.root / "runs")) == before


# The command


@pytest.fixture
def kitaru(tmp_path: Path) -> Program:
    return Program(tmp_path)


def test_the_command_prints_the_new_runs_id(kitaru):
    kitaru.good("run", "letter", "times=2")
    [run] = kitaru.runs
    made = kitaru.good("fork", f"{run.name}@2").strip()
    assert made in os.listdir(run.parent)
    assert kitaru.good("resume", made) == "letters for world: 2\n"
    state = json.loads(kitaru.good("fork", "@1", "--json", cwd=run))
    assert (state["status"], state["step"]) == ("interrupted", 1)


def test_the_command_runs_it_at_once_with_other_arguments_and_outputs(kitaru):
    kitaru.good("run", "letter", "times=2")
    [run] = kitaru.runs
    at = f"{run.name}@1"
    assert kitaru.good("fork", at, "--input", '{"name": "Ada"}', "--run") == "letters for Ada: 2\n"
    done = kitaru("fork", at, "--set", "write#1=plain text", "--run", "--json")
    assert done.status == 0
    assert done.json["output"] == "letters for world: 2"
    show = json.loads(kitaru.good("show", f"{done.json['run']}@write#1", "--json"))
    assert show["output"] == "plain text"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "write#1"], "is not NAME=JSON"),
        (["--set", "=1"], "is not NAME=JSON"),
        (["--set", "write#1=3"], "does not fit what 'write' returns"),
        (["--set", "write#1=a", "--set", "write#1=b"], "given twice"),
        (["--input", '{"name": 3}'], "'name' does not fit"),
        (["--input", '{"nosuch": 3}'], "nosuch"),
        (["--input", "[]"], "no JSON object"),
    ],
)
def test_wrong_use_is_one_sentence_and_makes_no_run(kitaru, arguments, said):
    kitaru.good("run", "letter")
    [run] = kitaru.runs
    done = kitaru("fork", f"{run.name}@1", *arguments)
    assert done.status == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert kitaru.runs == [run]
