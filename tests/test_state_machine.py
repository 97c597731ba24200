"""Steps, failures, kills, edits, rewinds, undos, redos, forks, moves by plain git, clones and
copies, in any order, on real git.

The model is what a run's commits hold and what must be on disk. `pytest --hypothesis-profile=long`
runs it for long.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from harness import Bench, Outcome, Worker, build_shim, check_clean, describe, git
from harness.bench import ATTEMPTS
from harness.scripted import Tree, digest, perform, read_tree
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

IDENTITY = ["Ada Lovelace", "ada@example.org"]
PATHS = st.sampled_from(["a", "b", "d/x", "d/y", "e/f/g"])
TEXTS = st.text("xyz\n", max_size=6)

# What a step or a human does to files/; none fails, whatever is there.
OPERATIONS = st.one_of(
    st.tuples(st.just("write"), PATHS, TEXTS),
    st.tuples(st.just("unlink"), PATHS),
    st.tuples(st.just("rmtree"), st.sampled_from(["d", "e"])),
    st.tuples(st.just("mkdir"), st.sampled_from(["empty", "d/empty"])),
    st.tuples(st.just("symlink"), st.just("link"), PATHS),
    st.tuples(st.just("random"), st.just("blob"), st.integers(1, 300_000), st.integers(0, 3)),
).map(list)
CHANGES = st.lists(OPERATIONS, min_size=1, max_size=4)


class State(NamedTuple):
    """What a commit holds: what its steps did, what they returned, and `files/`."""

    plan: tuple[dict[str, Any], ...]
    results: tuple[str, ...]
    tree: Tree

    def then(self, spec: dict[str, Any], result: str, tree: Tree) -> State:
        """Returns the state after one more step."""
        return State((*self.plan, spec), (*self.results, result), tree)


@contextmanager
def _materialized(tree: Tree) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for path, (kind, mode, content) in sorted(tree.items()):
            if kind == "dir":
                (root / path).mkdir(mode=mode)
            elif kind == "link":
                (root / path).symlink_to(content.decode())
            else:
                (root / path).write_bytes(content)
                (root / path).chmod(mode)
        yield root


def after(state: State, spec: dict[str, Any]) -> State:
    """Returns the state after one more step."""
    number, before = len(state.results), digest(state.tree)
    failures = max((item[1] for item in spec["do"] if item[0] == "fail"), default=0)
    if failures >= ATTEMPTS:
        return state.then(spec, f"{number} attempt {ATTEMPTS} fails", state.tree)
    with _materialized(state.tree) as root:
        perform(root, [item for item in spec["do"] if item[0] not in ("fail", "trip")])
        return state.then(spec, f"{number} {before}", read_tree(root))


def with_unseen(committed: Tree, found: Tree) -> Tree:
    """Returns what a directory is taken for after a checkout, with the commit's directories that
    git does not see: that they are gone says nothing of who removed them."""
    result = dict(found)
    for path, item in sorted(committed.items()):
        seen = any(
            other.startswith(f"{path}/") and committed[other][0] != "dir" for other in committed
        )
        parent = path.rpartition("/")[0]
        if item[0] == "dir" and not seen and (not parent or result.get(parent, ("",))[0] == "dir"):
            result.setdefault(path, item)
    return result


def _is_outcome(line: dict[str, Any]) -> bool:
    return line["kind"] == "step" or (line["kind"] == "failed" and line["attempt"] == ATTEMPTS)


class Runs(RuleBasedStateMachine):
    """One run, followed through whatever happens to it."""

    worker: Worker

    def __init__(self) -> None:
        super().__init__()
        base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="kitaru-", dir=base)).resolve()
        self.bench = Bench.make(self.folder / "workspace", [])
        self.plan: list[dict[str, Any]] = []
        self.head = State((), (), {})
        self.commits: dict[str, State] = {}
        self.edited: Tree | None = None
        self.found: Tree | None = None
        self.crashed = self.moved = False
        self.undoable: str | None = None
        self.redoable: str | None = None
        self.copies = 0
        self.theirs: set[str] = set()

    def teardown(self) -> None:
        if hasattr(self, "run"):
            problems = check_clean(self.path) if not (self.crashed or self.edited) else []
            assert problems == []
        shutil.rmtree(self.folder)

    @property
    def path(self) -> Path:
        return self.bench.run_path(self.run)

    @initialize()
    def create(self) -> None:
        self.run = str(self.worker.run("create", self.bench.root).unwrap())
        self._learn()
        self._resume()

    # What a process does

    @rule(do=CHANGES)
    def step(self, do: list[list[Any]]) -> None:
        self._plan({"do": do})
        self._resume()

    @rule(do=CHANGES, more=CHANGES)
    def two_steps(self, do: list[list[Any]], more: list[list[Any]]) -> None:
        self._plan({"do": do}, {"do": more})
        self._resume()

    @rule(do=CHANGES, times=st.integers(1, ATTEMPTS))
    def failing_step(self, do: list[list[Any]], times: int) -> None:
        self._plan({"do": [*do, ["fail", times]], "handled": True})
        self._resume()

    @precondition(lambda self: self.edited is None)
    @rule(do=CHANGES, more=CHANGES)
    def kill_in_a_step(self, do: list[list[Any]], more: list[list[Any]]) -> None:
        self._plan({"do": [*do, ["trip", "here"], *more]})
        self.bench.trip("here")
        assert self._drive().killed
        self._forget_trip()
        self._died()

    @precondition(lambda self: self.edited is None and build_shim() is not None)
    @rule(do=CHANGES, at=st.integers(1, 250), action=st.sampled_from(["kill", "tear"]))
    def kill_at_a_storage_call(self, do: list[list[Any]], at: int, action: str) -> None:
        self._plan({"do": do})
        killed = self._drive(shim={"at": at, "action": action}).killed
        self._forget_trip()
        if killed:
            self._died()
        else:
            self.crashed = False
            self._learn()

    @rule()
    def resume(self) -> None:
        self._resume()

    @precondition(lambda self: self.crashed)
    @rule()
    def resume_and_keep_files(self) -> None:
        kept = self.bench.files(self.run)
        if kept != self.head.tree:
            self.edited = kept
        self._resume(keep_files=True)

    @precondition(lambda self: len(self.head.results) > 0)
    @rule()
    def diverge(self) -> None:
        # Taking a clone up gives it the tips that it lacks.
        self.worker.run("recover", self.bench.root, run=self.run).unwrap()
        refs = self._refs()
        files = self.bench.files(self.run)
        plan, self.plan = self.plan, [{"do": [["write", "other", "other"]]}, *self.plan[1:]]
        outcome = self._drive()
        self.plan = plan
        self._forget_trip()
        assert "DivergenceError" in outcome.error, outcome
        assert describe(files, self.bench.files(self.run)) == ""
        assert self._refs() == refs

    # Moves

    @precondition(lambda self: len(self.commits) > 1)
    @rule(data=st.data())
    def rewind(self, data: st.DataObject) -> None:
        commit = data.draw(st.sampled_from(self._known_commits()))
        outcome = self._move("rewind", at=commit)
        if outcome.error:
            assert "ConflictError" in outcome.error, outcome
            assert commit == self._head()
            return
        before, after = outcome.value
        assert after == commit
        self._moved(before, after)
        self.undoable, self.redoable = before, None

    @rule()
    def undo(self) -> None:
        here = self._head()
        outcome = self._move("undo")
        if outcome.error:
            assert "ConflictError" in outcome.error, outcome
            assert self.undoable is None
            self._settled()
            return
        before, after = outcome.value
        if before != here:
            # A human's edit is taken back before what came before it.
            assert after == here
        elif self.undoable is not None:
            assert after == self.undoable
        self._moved(before, after)
        self.undoable, self.redoable = None, before

    @rule()
    def redo(self) -> None:
        edited = self.edited is not None
        outcome = self._move("redo")
        if outcome.error:
            assert "ConflictError" in outcome.error, outcome
            assert self.redoable is None or edited
            self._settled()
            return
        before, after = outcome.value
        assert self.redoable in (None, after)
        self._moved(before, after)
        self.undoable = self.redoable = None

    @precondition(lambda self: self.edited is None and build_shim() is not None)
    @precondition(lambda self: len(self.commits) > 1)
    @rule(data=st.data(), at=st.integers(1, 140), action=st.sampled_from(["kill", "tear"]))
    def kill_in_a_rewind(self, data: st.DataObject, at: int, action: str) -> None:
        here = self._head()
        commit = data.draw(st.sampled_from(self._known_commits()))
        outcome = self._move("rewind", at=commit, shim={"at": at, "action": action})
        if not outcome.killed:
            if not outcome.error:
                self._moved(*outcome.value)
                self.undoable, self.redoable = here, None
            return
        self.crashed, self.undoable, self.redoable = True, None, None
        now = self._head()
        assert now in (here, commit)
        self.head = self.commits[now]
        self.moved = False

    @precondition(lambda self: len(self.head.results) > 0)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        lines = self._lines()
        steps = [line for line in lines if _is_outcome(line)]
        number = data.draw(st.integers(0, len(steps) - 1))
        line = steps[number]
        given = data.draw(st.sampled_from([None, "given"]))
        before = (self._refs(), self.bench.files(self.run))
        name = self.worker.run(
            "fork",
            self.bench.root,
            run=self.run,
            at=line["commit"],
            given=None if given is None else {line["commit"]: given},
        ).unwrap()
        assert (self._refs(), self.bench.files(self.run)) == before
        self.run, self.crashed, self.moved, self.edited = name, False, False, None
        self.undoable = self.redoable = None
        self.theirs.clear()
        kept = [one["commit"] for one in lines[: lines.index(line)]]
        made = self._lines()
        assert [one["commit"] for one in made[: len(kept)]] == kept
        state = self.commits[kept[-1]]
        assert len(state.results) == number
        self.commits[made[len(kept)]["commit"]] = state
        if given is not None:
            replaced = self.commits[line["commit"]]
            state = state.then(replaced.plan[-1], given, replaced.tree)
            self.commits[made[-1]["commit"]] = state
        self.head = state
        self.plan = list(state.plan)
        assert describe(self.head.tree, self.bench.files(self.run)) == ""
        assert check_clean(self.path) == []

    # What a human does

    @precondition(lambda self: self.edited is None)
    @rule(do=CHANGES)
    def edit(self, do: list[list[Any]]) -> None:
        # A clone of a run without files has no directory for them.
        (self.path / "files").mkdir(exist_ok=True)
        perform(self.path / "files", do)
        found = self.bench.files(self.run)
        if self.moved:
            found = with_unseen(self.head.tree, found)
        if not self.crashed and found != self.head.tree:
            self.edited = found

    @precondition(lambda self: self.edited is None and len(self.commits) > 1)
    @rule(data=st.data(), how=st.sampled_from(["checkout", "reset", "switch", "branch"]))
    def move(self, data: st.DataObject, how: str) -> None:
        # A killed git leaves its locks, and a killed kitaru may: recovery clears them.
        self._complete_commits()
        commits = git(self.path, "log", "--first-parent", "--format=%H").split()
        commit = data.draw(st.sampled_from(commits))
        if how == "branch":
            shown = "--format=%(refname:short) %(objectname)"
            refs = git(self.path, "for-each-ref", shown, "refs/heads").splitlines()
            ours = [line.split() for line in refs if line.split()[1] not in self.theirs]
            branch, _ = data.draw(st.sampled_from(ours))
            git(self.path, "switch", "-q", "--force", branch)
            commit = git(self.path, "rev-parse", "HEAD").strip()
        elif how == "checkout":
            git(self.path, "checkout", "-q", "--force", commit)
        elif how == "reset":
            git(self.path, "reset", "-q", "--hard", commit)
        else:
            self.copies += 1
            git(self.path, "switch", "-q", "--force", "-c", f"mine-{self.copies}", commit)
        self.head = self.commits[commit]
        self.plan = list(self.head.plan)
        self.moved, self.undoable, self.redoable = True, None, None

    @precondition(lambda self: len(self.commits) > 1)
    @rule(data=st.data(), logged=st.booleans())
    def move_another_branch(self, data: st.DataObject, logged: bool) -> None:
        if len(git(self.path, "for-each-ref", "refs/heads").splitlines()) == 1:
            self.rewind(data)
        self._complete_commits()
        here = git(self.path, "rev-parse", "--symbolic-full-name", "HEAD").strip()
        refs = git(self.path, "for-each-ref", "--format=%(refname)", "refs/heads").split()
        others = [name for name in refs if name != here]
        if not others:
            return
        name = data.draw(st.sampled_from(others))
        tree, parent = f"{name}^{{tree}}", data.draw(st.sampled_from([name, f"{name}~1"]))
        self.copies += 1
        command = ["commit-tree", "-m", f"Mine {self.copies}", "-p", parent, tree]
        commit = git(self.path, *command).strip()
        if logged:
            git(self.path, "update-ref", name, commit)
        else:
            git(self.path, "-c", "core.logAllRefUpdates=false", "update-ref", name, commit)
        # What a human takes a branch away from is theirs to lose.
        self.theirs &= self._reachable()
        self.theirs.add(commit)

    @rule()
    def clone(self) -> None:
        # What a killed process has not published is in its log alone, and git does not see it.
        self._complete_commits()
        self.copies += 1
        name = f"clone-{self.copies}"
        git(self.bench.root / "runs", "clone", "-q", self.run, name)
        self.run, self.crashed, self.moved, self.edited = name, False, True, None
        self.undoable = self.redoable = None
        self.plan = list(self.head.plan)
        self.theirs.clear()

    @rule()
    def copy(self) -> None:
        self.copies += 1
        name = f"copy-{self.copies}"
        subprocess.run(["cp", "-a", self.path, self.bench.run_path(name)], check=True)
        self.run = name

    # What must hold

    @invariant()
    def reading_tells_the_truth(self) -> None:
        if not hasattr(self, "run"):
            return
        found = self.worker.run("read", self.bench.root, run=self.run).unwrap()
        assert found["state"]["status"] == "interrupted"
        kinds = Counter(line["kind"] for line in found["log"])
        handled = sum(
            line["kind"] == "failed" and line["attempt"] == ATTEMPTS for line in found["log"]
        )
        assert kinds["step"] + handled == len(self.head.results)
        # No commit is ever unreachable, a human's no more than ours.
        assert self.theirs <= self._reachable()

    def _reachable(self) -> set[str]:
        return set(git(self.path, "rev-list", "--all").split())

    def _move(self, action: str, **how: Any) -> Outcome:
        self.found = self.bench.files(self.run)
        return self.worker.run(action, self.bench.root, run=self.run, **how)

    def _moved(self, before: str, after: str) -> None:
        """Follows a move: what a human had edited is in the commit where the run stood."""
        self._know_edit(before)
        self.head = self.commits[after]
        self.plan = list(self.head.plan)
        self._settled(after)

    def _settled(self, commit: str | None = None) -> None:
        """What holds when a command that moves a run has ended, whether it moved it or not."""
        if commit is None:
            commit = self._head()
            self._know_edit(commit)
            self.head = self.commits[commit]
        assert self._head() == commit
        self.crashed = self.moved = False
        self.edited = None
        assert describe(self.head.tree, self.bench.files(self.run)) == ""
        assert git(self.path, "symbolic-ref", "HEAD").startswith("refs/heads/")

    def _know_edit(self, commit: str) -> None:
        if commit not in self.commits:
            # A process that died before it had begun to drive the run is no crash.
            edited = self.edited if not self.crashed else self.found
            assert edited is not None
            self.commits[commit] = self.head._replace(tree=edited)

    def _head(self) -> str:
        return str(self.worker.run("where", self.bench.root, run=self.run).unwrap()["head"])

    def _lines(self) -> list[dict[str, Any]]:
        return self.worker.run("read", self.bench.root, run=self.run).unwrap()["log"]

    def _known_commits(self) -> list[str]:
        """The commits of every branch of the run."""
        found = self.worker.run("every", self.bench.root, run=self.run).unwrap()
        assert set(found) <= self.commits.keys() | self.theirs
        return [commit for commit in found if commit not in self.theirs]

    def _plan(self, *specs: dict[str, Any]) -> None:
        self.plan += specs

    def _drive(self, **how: Any) -> Outcome:
        self.bench.set_plan(self.plan)
        self.bench.trip("end", "interrupt")
        self.found = self.bench.files(self.run)
        return self.worker.run("resume", self.bench.root, run=self.run, identity=IDENTITY, **how)

    def _complete_commits(self) -> None:
        if self.crashed:
            self.worker.run("recover", self.bench.root, run=self.run).unwrap()

    def _forget_trip(self) -> None:
        (self.bench.root / "trips" / "end").unlink(missing_ok=True)

    def _died(self) -> None:
        self.crashed, self.undoable, self.redoable = True, None, None
        self._learn()

    def _resume(self, **how: Any) -> None:
        """Runs the flow to where its plan ends, and stops it there in order."""
        before = self.bench.effects()
        done = len(self.head.results)
        self.undoable = self.redoable = None
        outcome = self._drive(**how)
        assert "KeyboardInterrupt" in outcome.error, outcome
        self._learn()
        self.crashed = self.moved = False
        executed = self.bench.effects() - before
        assert set(executed) == set(range(done, len(self.plan))), executed
        assert describe(self.head.tree, self.bench.files(self.run)) == ""
        assert check_clean(self.path) == []
        assert git(self.path, "symbolic-ref", "HEAD").startswith("refs/heads/")

    def _learn(self) -> None:
        """Follows the commits that came, and checks each: its steps' outputs and its files."""
        found = self.worker.run("read", self.bench.root, run=self.run).unwrap()
        lines = found["log"]
        state = self.head
        for line in lines:
            commit = line["commit"]
            if commit in self.commits:
                continue
            if line["kind"] == "edit":
                self._know_edit(commit)
                state = self.commits[commit]
                self.edited = None
            elif _is_outcome(line):
                state = after(state, self.plan[len(state.results)])
                if line["kind"] == "step":
                    assert found["outputs"][str(line["step"])] == state.results[-1]
            self.commits[commit] = state
        assert self.commits[lines[-1]["commit"]].results == state.results
        self.head = state

    def _refs(self) -> str:
        refs = git(self.path, "for-each-ref", "refs/heads", "refs/kitaru/tips")
        return refs + (self.path / ".git" / "HEAD").read_text()


class TestRuns(Runs.TestCase):
    """The machine, with one worker for all examples."""

    settings = settings(
        settings.default, stateful_step_count=10, max_examples=settings().max_examples // 3
    )

    @classmethod
    def setUpClass(cls) -> None:
        Runs.worker = Worker(shim=build_shim() is not None)

    @classmethod
    def tearDownClass(cls) -> None:
        Runs.worker.close()
