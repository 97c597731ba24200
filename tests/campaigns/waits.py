"""Runs that wait, killed at random: `python -m tests.campaigns.waits`.

A flow asks, sleeps, receives messages and calls flows that do the same, several at once. Its
process is killed with SIGKILL at random moments, again and again, and so are the commands that
reply and send: replies by `Run.answer`, by files dropped in the inbox (renamed in, or written
there), messages by `Run.send` and by files. In the end must hold:

- each question has one reply, it is one that was given to it, and the flow went on with that one;
- a reply or message that was acknowledged is in the journal; one whose sender was killed is there
  once at most, and what was dropped is somewhere, once;
- messages were received once each, in the order sent; every sleep fired once;
- no acknowledged step was executed twice; `git fsck --strict` and `git status` are clean.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from kitaru_fs import Run, Workspace, flow, receive, sleep, step, wait
from kitaru_fs.errors import KitaruError
from tests.harness import git

_PATIENCE = 300.0


def main() -> int:
    """Runs the trials; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the first trial")
    parser.add_argument("--dir", type=Path, help="where to work; a RAM disk, if there is one")
    options = parser.parse_args()
    base = options.dir or (Path("/dev/shm") if Path("/dev/shm").is_dir() else None)
    sums: Counter[str] = Counter()
    violations = 0
    begun = time.monotonic()
    for seed in range(options.seed, options.seed + options.trials):
        with tempfile.TemporaryDirectory(dir=base, prefix="kitaru-waits-") as folder:
            trial = Trial(Path(folder).resolve() / "ws", seed)
            problems = trial.run()
        sums += trial.counts
        violations += len(problems)
        for problem in problems:
            print(f"seed {seed}: {problem}", flush=True)
    seconds = time.monotonic() - begun
    counted = ", ".join(f"{count} {name}" for name, count in sorted(sums.items()))
    print(f"{options.trials} trials, {counted}; {violations} violations, {seconds:.0f} s")
    return 1 if violations else 0


# What runs


@step
async def record(what: str) -> str:
    """Notes that it was executed, then takes a moment: a kill may come in between."""
    with open(Path(os.environ["KITARU_WORKSPACE"]) / "effects", "a") as effects:
        effects.write(what + "\n")
    await asyncio.sleep(0.005)
    return what


@flow
async def child(number: int) -> list[str]:
    first = await wait("child", f"Child {number}?", schema=str)
    await record(f"child {number}: {first}")
    await sleep(0.02)
    return [first, await receive("child", schema=str)]


@flow
async def parent() -> dict[str, Any]:
    replies = [await wait(f"alone-{number}", schema=str) for number in range(3)]
    await record(f"replies {replies}")
    await sleep(0.05)
    messages = [await receive("numbers", schema=int) for _ in range(4)]
    together = await asyncio.gather(
        wait("left", schema=str),
        wait("right", schema=str),
        receive("numbers", schema=int),
        record("beside"),
        sleep(0.03),
    )
    children = await asyncio.gather(child(1), child(2))
    return {
        "replies": [*replies, together[0], together[1]],
        "messages": [*messages, together[2]],
        "children": children,
        "last": await wait("last", schema=str),
    }


# What happens to it


class Trial:
    """One run from its start to its end.

    Args:
        root: A directory that does not exist yet.
        seed: What is done at random follows from it, as far as time allows.
    """

    def __init__(self, root: Path, seed: int) -> None:
        self._dice = random.Random(seed)
        self._root = root
        (root / "agents").mkdir(parents=True)
        (root / "agents" / "w.py").write_text(
            "from tests.campaigns.waits import child, parent  # noqa: F401\n"
        )
        (root / "kitaru.toml").write_text('durability = "process"\nlinger = "100ms"\n')
        os.environ["KITARU_WORKSPACE"] = str(root)
        self._workspace = Workspace(root)
        self._id = self._workspace.create(parent, {}).name
        self._runner = 0
        self._helpers: dict[int, tuple[str, float]] = {}
        self._number = 0
        # What was given, by its token: which run and wait or topic it was for, and how it went.
        self.given: dict[str, dict[str, Any]] = {}
        self.counts: Counter[str] = Counter()

    def run(self) -> list[str]:
        """Returns the violations."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            self._reap()
            status = self._parent().status
            if not self._runner and status in ("completed", "failed", "cancelled"):
                break
            if not self._runner:
                self._runner = self._fork(self._resume)
                self.counts["processes"] += 1
            if self._dice.random() < 0.25 and len(self._helpers) < 3:
                self._help()
            if self._dice.random() < 0.06:
                self._kill(self._runner)
                self.counts["kills of runs"] += 1
            for helper in list(self._helpers):
                if self._dice.random() < 0.03:
                    self._kill(helper)
                    self.counts["kills of senders"] += 1
            time.sleep(self._dice.random() * 0.04)
        else:
            return ["it did not come to its end"]
        # Killed after its last commit, a run is brought to rest by the next process.
        self._runner = self._fork(self._resume)
        while self._helpers or self._runner:
            self._reap()
            time.sleep(0.01)
        return self._check()

    def _parent(self) -> Run:
        return self._workspace.run(self._id)

    def _resume(self) -> None:
        self._parent().resume()

    def _fork(self, action: Any) -> int:
        process = os.fork()
        if process == 0:
            status = 1
            try:
                os.setsid()
                null = os.open(os.devnull, os.O_RDWR)
                os.dup2(null, 2)
                action()
                status = 0
            except KitaruError as error:
                status = error.exit_status
            finally:
                os._exit(status)
        return process

    def _kill(self, process: int) -> None:
        if process:
            os.kill(process, signal.SIGKILL)

    def _reap(self) -> None:
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if process == 0:
                return
            if process == self._runner:
                self._runner = 0
            elif process in self._helpers:
                token, _ = self._helpers.pop(process)
                code = os.waitstatus_to_exitcode(status)
                self.given[token]["went"] = {0: "done"}.get(
                    code, "killed" if code < 0 else "refused"
                )

    def _help(self) -> None:
        """Replies to something that is open, or sends a message."""
        runs = [run for run in self._workspace.runs() if run.status not in ("completed", "failed")]
        if not runs:
            return
        run = self._dice.choice(runs)
        self._number += 1
        token = f"t{self._number}"
        try:
            questions = [one for one in run.waits if one["run"] == run.id]
        except KitaruError:
            return
        how = self._dice.choice(["python", "python", "rename", "write"])
        if questions and self._dice.random() < 0.75:
            wanted = self._dice.choice(questions)
            name, value = wanted["name"], token
            self.given[token] = {"run": run.id, "name": name, "how": how, "kind": "reply"}
        else:
            is_parent = run.id == self._id
            name, value = ("numbers", self._number) if is_parent else ("child", token)
            if is_parent and any(
                one["kind"] == "message" and one["run"] == run.id and "went" not in one
                for one in self.given.values()
            ):
                return  # the order of two senders at once is anybody's
            token = str(value)
            self.given[token] = {"run": run.id, "name": name, "how": how, "kind": "message"}
        self.counts[self.given[token]["kind"] + " attempts"] += 1
        given = self.given[token]

        def act() -> None:
            if how != "python":
                _drop(run.path / "inbox", f"{name}#{token}.json", json.dumps(value), how)
            elif given["kind"] == "reply":
                run.answer(value, wait=name)
            else:
                run.send(name, value)

        self._helpers[self._fork(act)] = (token, time.monotonic())

    # What must hold

    def _check(self) -> list[str]:
        parent_run = self._parent()
        if parent_run.status != "completed":
            return [f"it is {parent_run.status}: {parent_run.error}"]
        problems: list[str] = []
        seen: Counter[str] = Counter()
        for run in self._workspace.runs():
            problems += [f"{run.flow}: {one}" for one in self._check_run(run, seen)]
        for token, given in self.given.items():
            times = seen[token]
            if times > 1:
                problems.append(f"{token} ({given}) is there {times} times")
            if times == 0 and given["went"] == "done":
                problems.append(f"{token} ({given}) was acknowledged and is lost")
        effects = Counter((self._root / "effects").read_text().splitlines())
        problems += self._check_result(parent_run, effects)
        return problems

    def _check_run(self, run: Run, seen: Counter[str]) -> list[str]:
        problems: list[str] = []
        asked: Counter[str] = Counter()
        answered: Counter[str] = Counter()
        for line in run.log():
            shown = run.show(line.commit)
            if shown.entry.kind in ("reply", "message"):
                token = str(shown.output)
                seen[token] += 1
                given = self.given.get(token)
                if given is None or given["run"] != run.id:
                    problems.append(f"{shown.entry.kind} {token} was never given")
                elif shown.entry.kind == "reply" and given["name"] != shown.entry.name:
                    problems.append(f"reply {token} was for {given['name']}")
            if shown.entry.kind == "reply":
                answered[shown.entry.key] += 1
            if shown.entry.kind == "wait" and shown.entry.status == "waiting":
                asked[shown.entry.key] += 1
            if shown.entry.kind == "sleep" and shown.entry.status == "ok":
                asked[shown.entry.key] += 1
        problems += [f"{key} was asked {n} times" for key, n in asked.items() if n > 1]
        problems += [f"{key} was answered {n} times" for key, n in answered.items() if n > 1]
        for folder in (
            run.path / "inbox",
            run.path / "inbox/refused",
            run.path / ".git/kitaru/taken",
        ):
            for place in folder.glob("*") if folder.is_dir() else ():
                if place.name.endswith(".json"):
                    seen[str(json.loads(place.read_text()))] += 1
                elif place.name.endswith(".envelope"):
                    seen[str(json.loads(place.read_text())["value"])] += 1
        if left := git(run.path, "status", "--porcelain", check=False):
            problems.append(f"git status: {left.strip()}")
        if left := git(run.path, "fsck", "--strict", "--no-dangling", check=False):
            problems.append(f"git fsck: {left.strip()}")
        return problems

    def _check_result(self, run: Run, effects: Counter[str]) -> list[str]:
        problems: list[str] = []
        output = run.output
        replies = [shown.output for shown in _entries(run) if shown.entry.kind == "reply"]
        if sorted([*output["replies"], output["last"]]) != sorted(replies):
            problems.append(f"the flow got {output}, its replies are {replies}")
        if output["messages"] != sorted(output["messages"]):
            problems.append(f"messages out of order: {output['messages']}")
        sent = [shown.output for shown in _entries(run) if shown.entry.kind == "message"]
        numbers = [one for one in sent if isinstance(one, int)]
        if output["messages"] != numbers[: len(output["messages"])]:
            problems.append(f"received {output['messages']} of {numbers}")
        steps = Counter(shown.output for shown in _entries(run) if shown.entry.name == "record")
        problems += [f"step {what!r} was recorded {n} times" for what, n in steps.items() if n > 1]
        problems += [f"step {what!r} was not executed" for what in steps if not effects[what]]
        self.counts["executions"] += sum(effects.values())
        return problems


def _entries(run: Run) -> list[Any]:
    return [run.show(line.commit) for line in run.log()]


def _drop(inbox: Path, name: str, content: str, how: str) -> None:
    if how == "rename":
        (inbox / f".{name}").write_text(content)
        os.rename(inbox / f".{name}", inbox / name)
        return
    with open(inbox / name, "w") as file:
        file.write(content)


if __name__ == "__main__":
    sys.exit(main())
