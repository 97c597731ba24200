"""What is swept: a run in some state, and the action whose every storage call is a point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .bench import Bench, Expected, Plan, expect
from .checks import git
from .moves import AT, check_forked, check_moved
from .worker import Outcome, Worker

__all__ = ["SCENARIOS", "Prepared", "Scenario", "scenario"]

SMALL: Plan = [
    {"do": [["write", "notes.md", "one\n"], ["write", "src/a.py", "a = 1\n"], ["mkdir", "empty"]]},
    {"flow": [["write", "from-flow", "0\n"]], "do": [["append", "notes.md", "two\n"]]},
    {
        "do": [
            ["append", "notes.md", "three\n"],
            ["write", "src/b.py", "b = 2\n"],
            ["chmod", "src/a.py", 0o600],
            ["trip", "half-way"],
            ["unlink", "from-flow"],
            ["symlink", "link", "notes.md"],
        ]
    },
    {"do": [["rename", "src", "lib"], ["write", "notes.md", "four\n"], ["rmtree", "empty"]]},
]

# Six of these fill the log: 220 kB that do not compress, and a file past the log.
LARGE: Plan = [
    {"do": [["random", f"blob-{number}", 220_000, number], ["write", "count", f"{number}\n"]]}
    for number in range(4)
] + [
    {"do": [["random", "blob-4", 220_000, 4], ["random", "large", 400_000, 9]]},
    {"do": [["random", f"wide-{number}", 250_000, 20 + number] for number in range(5)]},
    {"do": [["write", "count", "done\n"]]},
]

RETRIED: Plan = [
    {"do": [["write", "notes.md", "one\n"]]},
    {
        "do": [
            ["append", "notes.md", "two\n"],
            ["write", "dir/left", "left\n"],
            ["fail", 1],
            ["write", "dir/good", "good\n"],
        ]
    },
    {"do": [["append", "notes.md", "x\n"], ["fail", 9]], "handled": True},
    {"do": [["append", "notes.md", "three\n"]]},
]


@dataclass(frozen=True)
class Prepared:
    """A workspace that is copied for each point: its run (None before there is one), and what an
    uninterrupted execution leaves."""

    bench: Bench
    run: str | None
    expected: Expected


@dataclass(frozen=True)
class Scenario:
    """A sweep.

    Attributes:
        name: A word or two.
        about: What is killed.
        prepare: Makes the workspace.
        approach: Brings a copy of it to where the sweep begins (a crash does not survive a copy).
        act: The action: its storage calls count, from the start or from a `fire` trip on.
        given: What the action takes beside the run.
        check: What must hold when it ended badly; by default, that the run completes exactly.
    """

    name: str
    about: str
    plan: Plan
    prepare: Callable[[Worker, Bench], str | None]
    act: str
    trips: tuple[tuple[str, str], ...] = ()
    fire: bool = False
    approach: Callable[[Worker, Bench, str], None] | None = None
    given: Mapping[str, str] = field(default_factory=dict[str, str])
    check: Callable[[Worker, Bench, Prepared], list[str]] | None = None

    def make(self, worker: Worker, root: Path) -> Prepared:
        """Makes the workspace in a new directory."""
        bench = Bench.make(root, self.plan)
        run = self.prepare(worker, bench)
        return Prepared(bench, run, expect(self.plan))

    def approach_in(self, worker: Worker, bench: Bench, run: str | None) -> None:
        """Brings a copy to where the sweep begins."""
        if self.approach is not None and run is not None:
            self.approach(worker, bench, run)

    def calls(
        self, worker: Worker, prepared: Prepared, root: Path, broken: str | None = None
    ) -> list[str]:
        """Returns the storage calls of the action, `NAME PATH` each, made in a copy at `root`."""
        bench = prepared.bench.copy(root)
        self.approach_in(worker, bench, prepared.run)
        trace = root / "trace"
        shim = {"at": 0, "action": "count", "trace": str(trace), "broken": broken}
        self.perform(worker, bench, prepared.run, shim)
        lines = trace.read_text(errors="surrogateescape").splitlines()
        return [" ".join(line.split("\t")[1:]) for line in lines]

    def perform(
        self, worker: Worker, bench: Bench, run: str | None, shim: dict[str, Any]
    ) -> Outcome:
        """Runs the action with the shim planned."""
        for name, what in self.trips:
            bench.trip(name, what)
        arguments: dict[str, Any] = {} if run is None else {"run": run}
        planned = {**shim, "fire": self.fire}
        return worker.run(self.act, bench.root, shim=planned, **arguments, **self.given)


def _nothing(worker: Worker, bench: Bench) -> None:
    (bench.root / "runs").mkdir()


def _created(worker: Worker, bench: Bench) -> str:
    return str(worker.run("create", bench.root).unwrap())


def _stopped(at: str) -> Callable[[Worker, Bench], str]:
    """A run that was stopped in order where the flow comes by a trip."""

    def prepare(worker: Worker, bench: Bench) -> str:
        bench.trip(at, "interrupt")
        outcome = worker.run("start", bench.root)
        assert "KeyboardInterrupt" in outcome.error, outcome
        return bench.only_run()

    return prepare


def _checked_out(step: int) -> Callable[[Worker, Bench], str]:
    """A completed run, in which a human checked an earlier step's commit out."""

    def prepare(worker: Worker, bench: Bench) -> str:
        worker.run("start", bench.root).unwrap()
        run = bench.only_run()
        commits = git(bench.run_path(run), "log", "--reverse", "--format=%H").split()
        git(bench.run_path(run), "checkout", "-q", commits[step])
        bench.forget()
        return run

    return prepare


def _completed(worker: Worker, bench: Bench) -> str:
    worker.run("start", bench.root).unwrap()
    bench.forget()
    return bench.only_run()


def _rewound(worker: Worker, bench: Bench) -> str:
    run = _completed(worker, bench)
    worker.run("rewind", bench.root, run=run, at=AT).unwrap()
    return run


def _undone(worker: Worker, bench: Bench) -> str:
    run = _rewound(worker, bench)
    worker.run("undo", bench.root, run=run).unwrap()
    return run


def _die_in_step(worker: Worker, bench: Bench, run: str) -> None:
    bench.trip("half-way")
    assert worker.run("resume", bench.root, run=run).killed


def _die_in_commit(worker: Worker, bench: Bench, run: str) -> None:
    """Dies with a step's record in the log, its objects half written and no ref moved."""
    bench.trip("half-way", "fire")
    shim = {"at": 12, "action": "kill", "fire": False}
    assert worker.run("resume", bench.root, run=run, shim=shim).killed


SCENARIOS = [
    Scenario(
        "create", "making a run's directory and first commit", SMALL, _nothing, "create", fire=True
    ),
    Scenario(
        "step",
        "one step with file changes, to the end of the flow",
        SMALL,
        _created,
        "resume",
        trips=(("before-2", "fire"),),
    ),
    Scenario(
        "burst",
        "quick steps that are published together, by a thread",
        SMALL,
        _created,
        "burst",
        trips=(("before-1", "fire"),),
    ),
    Scenario(
        "log reset",
        "steps that fill the log, go past it, and spill into packs",
        LARGE,
        _created,
        "resume",
        trips=(("before-4", "fire"),),
    ),
    Scenario(
        "failed attempt",
        "attempts that fail, are kept aside and put back",
        RETRIED,
        _created,
        "resume",
        trips=(("before-1", "fire"),),
    ),
    Scenario(
        "recovery",
        "taking up a run that died in a step",
        SMALL,
        _stopped("before-2"),
        "resume",
        fire=True,
        approach=_die_in_step,
    ),
    Scenario(
        "recovery of a commit",
        "taking up a run that died in a commit",
        SMALL,
        _stopped("before-2"),
        "resume",
        fire=True,
        approach=_die_in_commit,
    ),
    Scenario(
        "orderly stop",
        "Ctrl-C in a step",
        SMALL,
        _stopped("before-2"),
        "resume",
        trips=(("half-way", "interrupt"),),
        fire=True,
    ),
    Scenario(
        "checkout",
        "resuming after a human's git checkout of an earlier step",
        SMALL,
        _checked_out(2),
        "resume",
        fire=True,
    ),
]


SCENARIOS += [
    Scenario(
        "rewind",
        "putting a completed run to an earlier step",
        SMALL,
        _completed,
        "rewind",
        fire=True,
        given={"at": AT},
        check=check_moved,
    ),
    Scenario("undo", "taking a rewind back", SMALL, _rewound, "undo", fire=True, check=check_moved),
    Scenario("redo", "doing a rewind again", SMALL, _undone, "redo", fire=True, check=check_moved),
    Scenario(
        "fork",
        "making a run out of a step of another",
        SMALL,
        _completed,
        "fork",
        fire=True,
        given={"at": "4"},
        check=check_forked,
    ),
]


def scenario(name: str) -> Scenario:
    """Returns the scenario of a name."""
    (found,) = [one for one in SCENARIOS if one.name == name]
    return found
