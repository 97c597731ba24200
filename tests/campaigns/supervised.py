"""Many runs under a supervisor, both killed at random: `python -m tests.campaigns.supervised`.

Two hundred runs with waits, sleeps, messages and children are left to `kitaru up`. While they go
on, the supervisor and the processes that it starts are killed by SIGKILL, and replies and messages
come, as files or as a command brings them. Then it must hold that

- every run is completed, and those that it called; none was forgotten;
- each reply was used once, by the question that it was for; messages came once, in order;
- no step was executed again once it was committed, and each is in the journal once;
- while all wait, no process but the supervisor's two is there, and nobody has a file of a run open;
- no reply is left behind, nobody holds a run, and `git status` and `git fsck --strict` are clean,
  once `kitaru doctor` was at those that were killed after their last commit.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from kitaru_fs import Run, Workspace, flow, receive, sleep, step, wait
from kitaru_fs.clock import nonce
from tests.harness import git

# Seconds without any change after which it counts as stuck.
_PATIENCE = 180.0
_ROOT = Path(__file__).parents[2]


# What runs


@step
async def record(what: str) -> str:
    """Notes that it was executed, and returns the note: what is committed is the last one."""
    note = nonce()
    with open(Path(os.environ["KITARU_CAMPAIGN"]) / "effects", "a") as effects:
        effects.write(f"{what} {note}\n")
    await asyncio.sleep(0.01)
    return note


@flow
async def child(number: int) -> dict[str, Any]:
    await record(f"child-{number} begins")
    await sleep(0.2)
    reply = await wait("child", f"Child of {number}?", schema=str)
    await record(f"child-{number} ends")
    return {"child": reply}


@flow
async def job(number: int) -> dict[str, Any]:
    await record(f"{number} begins")
    first, *_ = await asyncio.gather(
        wait("first", f"First of {number}?", schema=str), record(f"{number} beside"), sleep(0.3)
    )
    messages = [await receive("numbers", schema=int) for _ in range(2)]
    called = await child(number) if number % 3 == 0 else {}
    await sleep(0.1 + number % 7 / 10)
    messages.append(await receive("numbers", schema=int))
    last = await wait("last", f"Last of {number}?", schema=str)
    await record(f"{number} ends")
    return {"first": first, "last": last, "messages": messages, **called}


# What happens to it


def main() -> int:
    """Runs the trials; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the first trial")
    parser.add_argument("--kills", type=float, default=1.0, help="of processes, a second")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--dir", type=Path, help="where to work; a RAM disk, if there is one")
    options = parser.parse_args()
    base = options.dir or (Path("/dev/shm") if Path("/dev/shm").is_dir() else None)
    violations = 0
    for seed in range(options.seed, options.seed + options.trials):
        begun = time.monotonic()
        folder = tempfile.mkdtemp(dir=base, prefix="kitaru-up-")
        trial = Trial(Path(folder).resolve() / "ws", seed, options)
        problems = trial.run()
        if problems:
            print(f"seed {seed}: {folder} is kept", flush=True)
        else:
            shutil.rmtree(folder)
        violations += len(problems)
        for problem in problems:
            print(f"seed {seed}: {problem}", flush=True)
        counted = ", ".join(f"{count} {name}" for name, count in sorted(trial.counts.items()))
        took = time.monotonic() - begun
        print(
            f"seed {seed}: {options.runs} runs, {counted}; "
            f"{len(problems)} violations, {took:.0f} s",
            flush=True,
        )
    return 1 if violations else 0


class Trial:
    """A workspace from its first run to its last.

    Args:
        root: A directory that does not exist yet.
        seed: What is done at random follows from it, as far as time allows.
        options: How many runs, and how many kills.
    """

    def __init__(self, root: Path, seed: int, options: argparse.Namespace) -> None:
        self._dice = random.Random(seed)
        self._root = root
        self._options = options
        (root / "agents").mkdir(parents=True)
        (root / "agents" / "w.py").write_text(
            "from tests.campaigns.supervised import child, job  # noqa: F401\n"
        )
        (root / "kitaru.toml").write_text(
            'durability = "process"\nlinger = "50ms"\n'
            f"[limits]\nconcurrency = {options.concurrency}\n"
            '[up]\nbackoff = "10ms"\ncrashes = 10000\n'
        )
        os.environ["KITARU_CAMPAIGN"] = str(root)
        self._environment = os.environ | {"PYTHONPATH": str(_ROOT)}
        self._workspace = Workspace(root)
        self._watch = self._workspace.watch()
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._kill_at = 0.0
        self._supervisor_until = 0.0
        # What was given, by run and wait; and how many numbers were sent to a run.
        self._replies: dict[tuple[str, str], str] = {}
        self._sent: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    def run(self) -> list[str]:
        """Returns the violations."""
        runs = [self._create(number) for number in range(self._options.runs)]
        try:
            if not self._go_on(lambda: self._all_wait_for("last"), hold_back="last"):
                return self._stuck("waits for anything but the last reply", "last")
            problems = self._check_rest()
            if not self._go_on(self._all_are_over):
                return [*problems, *self._stuck("does not end")]
        finally:
            self._end_supervisor()
        return problems + self._check(runs)

    def _create(self, number: int) -> str:
        return self._workspace.create(
            job, {"number": msgspec.Raw(str(number).encode())}, detached=True
        ).name

    def _go_on(self, is_done: Any, hold_back: str = "") -> bool:
        """Lets them go on, and kills and replies meanwhile, until something holds."""
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline:
            for change in self._watch.look():
                if change.kind == "entry":
                    deadline = time.monotonic() + _PATIENCE
            if is_done():
                return True
            self._supervise()
            self._kill_somebody()
            self._give(hold_back)
            time.sleep(0.05)
        return False

    def _stuck(self, what: str, but_for: str = "") -> list[str]:
        shown = ("status", "step", "waits", "topics", "until", "held", "holder")
        return [
            f"{name} {what}: { {key: state[key] for key in shown if key in state} }"
            for name, state in self._watch.states.items()
            if state["status"] != "completed"
            and [asked["name"] for asked in state["waits"]] != [but_for]
        ]

    def _supervise(self) -> None:
        if self._supervisor is not None and self._supervisor.poll() is not None:
            self.counts["supervisors that ended by themselves"] += 1
            self._supervisor = None
        if self._supervisor is None:
            self.counts["supervisors"] += 1
            self._supervisor = subprocess.Popen(
                [sys.executable, "-m", "kitaru_fs", "up"],
                cwd=self._root,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stderr=open(self._root / "up.log", "ab"),  # noqa: SIM115
            )
            # One in four is killed while it gets to know the runs.
            long = 1.0 if self._dice.random() < 0.25 else 15.0
            self._supervisor_until = time.monotonic() + self._dice.random() * long
        elif time.monotonic() > self._supervisor_until:
            self._supervisor.kill()
            self._supervisor.wait()
            self._supervisor = None

    def _kill_somebody(self) -> None:
        if time.monotonic() < self._kill_at:
            return
        self._kill_at = time.monotonic() + self._dice.expovariate(self._options.kills)
        driven = [name for name, one in self._watch.states.items() if one["holder"] is not None]
        if not driven:
            return
        holder = self._workspace.run(self._dice.choice(driven)).holder
        if holder is not None and holder.alive and holder.purpose == "up":
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder.pid, signal.SIGKILL)
                self.counts["processes killed"] += 1

    def _end_supervisor(self) -> None:
        if self._supervisor is not None:
            self._supervisor.terminate()
            self._supervisor.wait()

    def _give(self, hold_back: str) -> None:
        """Replies to some of what is asked, and sends some of what is still to be sent."""
        for name, state in list(self._watch.states.items()):
            run = Run(self._root / "runs" / name, self._workspace)
            for asked in state["waits"]:
                at = (name, asked["name"])
                if asked["run"] != name or at in self._replies or asked["name"] == hold_back:
                    continue
                if self._dice.random() < 0.3:
                    self._replies[at] = f"reply-{len(self._replies)}"
                    self._reply(run, asked["name"], self._replies[at])
            if state["flow"] != "job" or state["status"] == "completed" or self._sent[name] == 3:
                continue
            if self._dice.random() < 0.05:
                self._sent[name] += 1
                self._send(run, self._sent[name])

    def _reply(self, run: Run, name: str, token: str) -> None:
        self.counts["replies"] += 1
        if self._dice.random() < 0.7:
            _drop(run.path / "inbox", f"{name}.json", token)
        else:
            run.answer(token, wait=name)

    def _send(self, run: Run, number: int) -> None:
        self.counts["messages"] += 1
        if self._dice.random() < 0.5:
            # By its number: files are taken in by their names, however late they are seen.
            _drop(run.path / "inbox", f"numbers#{number}.json", number)
        else:
            run.send("numbers", number)

    def _all_wait_for(self, name: str) -> bool:
        jobs = [one for one in self._watch.states.values() if one["flow"] == "job"]
        return len(jobs) == self._options.runs and all(
            [asked["name"] for asked in one["waits"]] == [name] and one["holder"] is None
            for one in jobs
        )

    def _all_are_over(self) -> bool:
        states = self._watch.states.values()
        return all(
            one["status"] in ("completed", "failed") and one["holder"] is None for one in states
        )

    # What must hold

    def _check_rest(self) -> list[str]:
        """All wait: the supervisor and the process that starts the others are all there is."""
        ours = {os.getpid()}
        if self._supervisor is not None:
            ours |= {self._supervisor.pid, *_children(self._supervisor.pid)}
        problems: list[str] = []
        runs = str(self._root / "runs")
        for process in Path("/proc").glob("[0-9]*"):
            pid = int(process.name)
            with contextlib.suppress(OSError):
                places = [os.readlink(fd) for fd in (process / "fd").iterdir()]
                places += [os.readlink(process / "cwd")]
                held = [place for place in places if place.startswith(runs + "/")]
                if held:
                    problems.append(f"process {pid} has {held[:3]} open while all wait")
                command = (process / "cmdline").read_bytes()
                if pid not in ours and str(self._root).encode() in command:
                    problems.append(f"process {pid} is there while all wait: {command!r}")
        return problems

    def _check(self, runs: list[str]) -> list[str]:
        problems: list[str] = []
        notes: dict[str, list[str]] = {}
        for line in (self._root / "effects").read_text().splitlines():
            what, _, note = line.rpartition(" ")
            notes.setdefault(what, []).append(note)
        self.counts["steps executed"] = sum(map(len, notes.values()))
        there = {run.id: run for run in self._workspace.runs()}
        problems += [f"run {name} is gone" for name in runs if name not in there]
        called = [name for name in there if name not in runs]
        if len(called) != len(range(0, self._options.runs, 3)):
            problems.append(f"{len(called)} children")
        recorded: Counter[str] = Counter()
        for run in there.values():
            problems += [f"{run.id}: {one}" for one in self._check_run(run, notes, recorded)]
        problems += [f"{what} was never recorded" for what in notes if not recorded[what]]
        return problems

    def _check_run(
        self, run: Run, notes: dict[str, list[str]], recorded: Counter[str]
    ) -> list[str]:
        if run.status != "completed":
            return [f"it is {run.status}: {run.error}"]
        problems: list[str] = []
        for line in run.log():
            if line.name == "record" and line.kind == "step" and line.status == "ok":
                shown = run.show(line.commit)
                what = str((shown.entry.input or {})["what"])
                self.counts["steps committed"] += 1
                recorded[what] += 1
                if recorded[what] > 1:
                    problems.append(f"{what} was recorded twice")
                if notes.get(what, [""])[-1] != shown.output:
                    problems.append(f"{what} was executed again after it was committed")
            self.counts["take-overs"] += line.kind == "resume"
        output = run.output
        for name in ("first", "last", "child"):
            of = run.id if name in ("first", "last") else None
            if of is not None and name in output and output[name] != self._replies[(of, name)]:
                problems.append(f"{name} got {output[name]}, not {self._replies[(of, name)]}")
        if run.flow == "child" and output["child"] != self._replies[(run.id, "child")]:
            problems.append(f"child got {output['child']}")
        if run.flow == "job" and output["messages"] != [1, 2, 3]:
            problems.append(f"messages came as {output['messages']}")
        if run.holder is not None and run.holder.alive is not False:
            problems.append(f"{run.holder} holds it")
        elif run.holder is not None:
            # Killed after its last commit: nobody has to do with it any more.
            self.counts["put in order by doctor"] += 1
            run.checkup(repair=True)
        left = [*(run.path / "inbox").rglob("*.*"), *run.path.glob(".git/kitaru/taken/*")]
        problems += [f"{place} was left behind" for place in left]
        if found := git(run.path, "status", "--porcelain", check=False):
            problems.append(f"git status: {found.strip()}")
        if found := git(run.path, "fsck", "--strict", "--no-dangling", check=False):
            problems.append(f"git fsck: {found.strip()}")
        return problems


def _children(pid: int) -> set[int]:
    try:
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return set()


def _drop(inbox: Path, name: str, value: Any) -> None:
    (inbox / f".{name}").write_text(json.dumps(value))
    os.rename(inbox / f".{name}", inbox / name)


if __name__ == "__main__":
    sys.exit(main())
