"""A model that needs no key: a small program-repair agent behind Pydantic AI's `FunctionModel`.

It reads failing tests, doubts the code that they reach, tries the repair that fits best, runs the
tests, keeps what helps and puts back what does not. It knows the common small mistakes (see
`rules` and `evidence`) and nothing about any project. It is no match for a language model; it is
here so that the example does honest work offline.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from .evidence import Evidence, gather
from .failures import Failure, Report
from .repairs import Repair, difference, repairs
from .source import Needs, Suspect, suspects
from .world import State, World, recall

MAX_TRIALS = 80
WIDTHS = (6, 15, 40)
"""Repairs tried for each failing test: a few for each first, more only if that leads nowhere."""
MAX_TARGETS = 8
"""Failing tests that are looked at together."""
MAX_READS = 8
MAX_REFUSED = 5


@dataclass(frozen=True)
class Step:
    """What to say, and the tools to call; without calls it is the end."""

    text: str
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()


@dataclass(frozen=True)
class Trial:
    """A repair, tried in a state for the sake of a failing test."""

    base: State
    evidence: Evidence
    repair: Repair


@dataclass
class Search:
    """A depth-first search over the states of the project, as far as the tests have answered."""

    world: World
    walked: set[State] = field(default_factory=set[State])
    refuted: set[tuple[str, tuple[str, ...]]] = field(
        default_factory=set[tuple[str, tuple[str, ...]]]
    )
    trials: dict[State, Trial] = field(default_factory=dict[State, Trial])
    best: State = frozenset()

    def next_step(self) -> Step:
        """The step to take now."""
        world = self.world
        here = world.state
        if world.refused > MAX_REFUSED:
            return Step("I give up: the files change under me, and my edits do not apply.")
        if world.listed is None:
            text = "I look at what is there and run the tests to see what fails."
            return Step(text, (("list_files", {"path": "."}), ("run_tests", {})))
        if here not in world.outcomes:
            return Step("I run the tests to see where that leaves us.", (("run_tests", {}),))
        start = next(iter(world.outcomes))
        self.best = start
        for width in WIDTHS:
            self.walked = {start}
            if step := self._explore(start, width):
                return step
        if here != self.best:
            text = f"{self._verdict(here)}I have no more ideas, and go back to the best state."
            return Step(text, tuple(self._edits(world.current, world.files(self.best))))
        return Step(self._surrender())

    def _explore(self, state: State, width: int) -> Step | None:
        world = self.world
        report = world.outcomes[state]
        files = world.files(state)
        if len(report.failures) < len(world.outcomes[self.best].failures):
            self.best = state
        if report.passed:
            return Step(self._success(state, report))
        targets: list[tuple[Failure, list[Suspect]]] = []
        missing: dict[str, None] = {}
        for failure in list(report.failures.values())[:MAX_TARGETS]:
            found = suspects(failure, files, world.listed or frozenset())
            if isinstance(found, Needs):
                missing |= dict.fromkeys(found.paths)
            else:
                targets.append((failure, found))
        if missing:
            return self._read(state, report, list(missing)[:MAX_READS])
        # The failure that reaches the least code first: it says the most about where the fault is.
        for failure, found in sorted(targets, key=lambda target: len(target[1])):
            evidence = gather(failure, files)
            broken_by = self._broken_by(state, failure.test)
            for repair in repairs(found, evidence, files, broken_by)[:width]:
                step = self._consider(Trial(state, evidence, repair), width)
                if step is not None:
                    return step
        return None

    def _consider(self, trial: Trial, width: int) -> Step | None:
        world, state = self.world, trial.base
        test = trial.evidence.failure.test
        mark = test, trial.repair.identity
        child = world.changed({**world.files(state), trial.repair.path: trial.repair.text})
        if mark in self.refuted or child in self.walked:
            return None
        self.walked.add(child)
        if child not in world.outcomes:
            return self._try(trial) if len(world.outcomes) <= MAX_TRIALS else None
        self.trials[child] = trial
        if not helps(world.outcomes[state], world.outcomes[child], test):
            self.refuted.add(mark)
            return None
        return self._explore(child, width)

    def _broken_by(self, state: State, test: str) -> str:
        """The name of the code whose repair, on the way to a state, broke a test."""
        for trial in reversed(self._kept(state)):
            if test not in self.world.outcomes[trial.base].failures:
                return _short(trial.repair.where)
        return ""

    def _read(self, state: State, report: Report, paths: list[str]) -> Step:
        text = f"{self._verdict(state)}I read what those import, too."
        if self.world.last_call == "run_tests":
            text = f"{self._verdict(state)}{len(report.failures)} of {report.ran} tests fail "
            text += f"({_listing(report.failures)}). I read those tests and the code they fail in."
        return Step(text, tuple(("read_file", {"path": path}) for path in paths))

    def _try(self, trial: Trial) -> Step:
        world = self.world
        base = world.files(trial.base)
        back = list(self._edits(world.current, base))
        verdict = self._verdict(world.state)
        repair, failure = trial.repair, trial.evidence.failure
        text = verdict
        if back:
            rejected = self._rejected(world.state)
            text += "I put that back. " if rejected else "I see no way on, and go back. "
        text += f"{_short(failure.test)}: {trial.evidence.said}. "
        if broken_by := self._broken_by(trial.base, failure.test):
            text += f"It passed until I changed {broken_by}, so I look at what uses that. "
        text += f"I try {repair.what} in {repair.where} ({repair.path}, line {repair.line})."
        edits = self._edits(base, {**base, repair.path: repair.text})
        return Step(text, (*back, *edits))

    def _verdict(self, state: State) -> str:
        """What came of the last trial, if this state is one."""
        trial = self.trials.get(state)
        if trial is None or self.world.last_call != "run_tests":
            return ""
        before, after = self.world.outcomes[trial.base], self.world.outcomes[state]
        test = trial.evidence.failure.test
        if not after.finished:
            return "With that the tests do not even run to their end. "
        broken = [name for name in after.failures if name not in before.failures]
        if helps(before, after, test):
            fixed = [name for name in before.failures if name not in after.failures]
            text = f"That fixes {_listing(fixed)}" if fixed else "That gets further"
            if broken:
                text += f", but breaks {_listing(broken)}, which passed before: that comes later"
            return f"{text}. "
        if broken:
            return f"That breaks {_listing(broken)}. "
        return f"That does not help: {after.failures[test].brief}. "

    def _rejected(self, state: State) -> bool:
        trial = self.trials.get(state)
        if trial is None:
            return False
        before, after = self.world.outcomes[trial.base], self.world.outcomes[state]
        return not helps(before, after, trial.evidence.failure.test)

    def _edits(
        self, now: dict[str, str], then: dict[str, str]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for path in sorted(now):
            if now[path] != then.get(path, now[path]):
                old, new = difference(now[path], then[path])
                yield "replace_in_file", {"path": path, "old": old, "new": new}

    def _kept(self, state: State) -> list[Trial]:
        kept: list[Trial] = []
        while trial := self.trials.get(state):
            kept.append(trial)
            state = trial.base
        return kept[::-1]

    def _success(self, state: State, report: Report) -> str:
        lines = [f"All {report.ran} tests pass, after {self.world.test_runs} runs of the tests."]
        lines += [
            f"- {t.repair.path}, {t.repair.where}: {t.repair.what}" for t in self._kept(state)
        ]
        return "\n".join(lines)

    def _surrender(self) -> str:
        report = self.world.outcomes[self.best]
        if not report.finished and not report.failures:
            return "I give up: the tests do not run to their end, and name no test that fails."
        if not report.ran:
            return "I give up: there are no tests to go by."
        tried = len(self.world.outcomes) - 1
        lines = [
            f"I give up: {len(report.failures)} of {report.ran} tests still fail after {tried} "
            "repairs tried. I know only small, common mistakes, and this is none of them."
        ]
        lines += [f"- {_short(f.test)}: {f.brief}" for f in report.failures.values()]
        lines += [f"Kept: {t.repair.path}, {t.repair.what}" for t in self._kept(self.best)]
        return "\n".join(lines)


def helps(before: Report, after: Report, test: str) -> bool:
    """Whether a repair made for a test is worth keeping.

    It is if the test passes and no more tests fail than did (another one may have broken: it is
    repaired in its turn), if fewer fail and none is new, or if the test gets further than it did.
    """
    if not after.finished or after.ran < before.ran:
        return False
    old, new = before.failures, after.failures
    if test not in new:
        return len(new) <= len(old)
    if new.keys() < old.keys():
        return True
    return new.keys() <= old.keys() and _reached(new[test]) > _reached(old[test])


async def decide(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """The model: from all that was said so far, what to do next."""
    world = recall(messages)
    step = Search(world).next_step()
    calls = [
        # Ids that are counted, not drawn, so that the same messages give the same response.
        ToolCallPart(name, args, tool_call_id=f"call-{world.calls + number}")
        for number, (name, args) in enumerate(step.calls, 1)
    ]
    return ModelResponse(parts=[TextPart(step.text), *calls])


def offline_model() -> FunctionModel:
    """A model for `Agent(...)` that runs here, without a key and without a network."""
    return FunctionModel(decide, model_name="offline-repair")


def _reached(failure: Failure) -> int:
    return failure.frames[0].line if failure.frames else 0


def _short(test: str) -> str:
    return test.rpartition(".")[2]


def _listing(tests: Any) -> str:
    names = [_short(test) for test in tests]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
