"""One run of 100,000 steps, killed every few seconds: `python -m tests.campaigns.marathon`.

Each step returns 200 bytes, every hundredth writes a file. Sampled while it runs: the memory of
the process that drives it, and the size of `.git`. Then must hold: a step ran again only if it was
torn by a kill, the result is whole, and `git fsck --strict` is clean.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kitaru_fs import Workspace

AGENTS = """
import os
from kitaru_fs import files, flow, step

DONE = os.open(os.environ["MARATHON_DONE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


@step
def one(number: int) -> str:
    os.write(DONE, b"%d\\n" % number)
    if number % 100 == 0:
        (files() / f"part-{number % 1000}.txt").write_text(f"{number}\\n" * 50)
    return f"{number:08d}" * 25


@flow
def marathon(steps: int) -> int:
    total = 0
    for number in range(steps):
        total += len(one(number))
    return total
"""


class Sample(NamedTuple):
    """How it was at a moment."""

    seconds: float
    step: int
    memory: float
    git: float


def main() -> int:
    """Runs it; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--every", type=float, default=5.0, help="seconds of work between kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", type=Path, help="where to work")
    parser.add_argument("--svg", type=Path, help="draw memory and .git into this file")
    parser.add_argument("--json", type=Path, help="write the samples into this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="kitaru-marathon-") as folder:
        runner = Runner(Path(folder).resolve(), options.steps)
        begun = time.monotonic()
        kills = runner.run(random.Random(options.seed), options.every)
        seconds = time.monotonic() - begun
        problems = runner.check(kills)
    samples = runner.samples
    if options.svg:
        options.svg.write_text(picture(samples))
    if options.json:
        options.json.write_text(json.dumps([sample._asdict() for sample in samples]))
    for problem in problems:
        print(problem)
    early = [one for one in samples if one.step <= options.steps // 4]
    memory, git = max(one.memory for one in samples), max(one.git for one in samples)
    print(
        f"{options.steps} steps, {kills} kills, {len(problems)} violations, {seconds:.0f} s; "
        f"memory at most {max(one.memory for one in early):.0f} MB in the first quarter and "
        f"{memory:.0f} MB in all; .git at most {git:.0f} MB, at rest {runner.at_rest:.1f} MB"
    )
    return 1 if problems else 0


class Runner:
    """The run, and what is seen of it.

    Args:
        place: An empty directory.
        steps: How many steps.
    """

    def __init__(self, place: Path, steps: int) -> None:
        self._place = place
        self._steps = steps
        self._done = place / "done"
        self._workspace = place / "ws"
        self.samples: list[Sample] = []
        self.at_rest = 0.0
        (self._workspace / "agents").mkdir(parents=True)
        (self._workspace / "kitaru.toml").touch()
        (self._workspace / "agents" / "marathon.py").write_text(AGENTS)

    def run(self, dice: random.Random, every: float) -> int:
        """Drives the run to its end; returns how often it was killed."""
        command, kills = ["run", "marathon", f"steps={self._steps}"], 0
        begun = time.monotonic()
        while True:
            process = self._start(command)
            if not self._watch(process, begun, dice.uniform(0.5, 1.5) * every):
                return kills
            kills += 1
            command = ["resume", "last"]

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "kitaru_fs", *command],
            cwd=self._workspace,
            env=os.environ | {"MARATHON_DONE": str(self._done)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _watch(self, process: subprocess.Popen[bytes], begun: float, work: float) -> bool:
        """Watches a process until it ends or has worked so long; says whether it was killed."""
        before, worked = self._reached(), None
        while process.poll() is None:
            now, reached = time.monotonic(), self._reached()
            self._sample(process.pid, now - begun, reached)
            if worked is None and reached > before:
                worked = now
            if worked is not None and now - worked > work:
                process.send_signal(signal.SIGKILL)
                process.wait()
                return True
            time.sleep(0.1)
        if process.returncode != 0:
            raise SystemExit(f"the run ended with status {process.returncode}")
        return False

    def _reached(self) -> int:
        """Returns the step that began last."""
        if not self._done.exists():
            return -1
        with self._done.open("rb") as done:
            done.seek(max(0, self._done.stat().st_size - 64))
            lines = done.read().split()
        return int(lines[-1]) if lines else -1

    def _sample(self, pid: int, seconds: float, reached: int) -> None:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            return
        # Its own: the pages of packs that it has mapped are the kernel's to drop.
        memory = [int(line.split()[1]) for line in lines if line.startswith("RssAnon")]
        self.samples.append(
            Sample(seconds, reached, memory[0] / 1000 if memory else 0.0, self._git_size())
        )

    def _git_size(self) -> float:
        total = 0
        for run in (self._workspace / "runs").glob("2*/.git"):
            for folder, _, names in os.walk(run):
                for name in names:
                    try:
                        total += os.lstat(os.path.join(folder, name)).st_blocks * 512
                    except OSError:
                        continue  # moved meanwhile
        return total / 1e6

    def check(self, kills: int) -> list[str]:
        """Returns what does not hold."""
        [run] = Workspace(self._workspace).runs()
        self.at_rest = self._git_size()
        problems: list[str] = []
        if run.output != self._steps * 200:
            problems.append(f"the result is {run.output}")
        executed = [int(line) for line in self._done.read_bytes().split()]
        highest = -1
        again = 0
        for number in executed:
            if number == highest:
                again += 1
            elif number != highest + 1:
                problems.append(f"step {number} began after step {highest}")
            highest = number
        if again > kills:
            problems.append(f"{again} steps began again after {kills} kills")
        outcomes = sum(line.kind == "step" for line in run.iter_log())
        if outcomes != self._steps:
            problems.append(f"{outcomes} steps in the log")
        for words in (["fsck", "--strict"], ["status", "--porcelain"]):
            done = subprocess.run(["git", *words], cwd=run.path, capture_output=True, check=False)
            if done.returncode or done.stdout.strip():
                problems.append(f"git {' '.join(words)}: {done.stdout[-300:]!r}")
        return problems


WIDTH, HEIGHT, LEFT = 760, 260, 70


def picture(samples: Sequence[Sample]) -> str:
    """Returns memory and the size of `.git` over time, as SVG."""
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{2 * HEIGHT}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{2 * HEIGHT}" fill="white"/>',
        *_chart(
            samples,
            "memory",
            0,
            "Memory of the process (MB), its own; it falls to zero at each kill",
        ),
        *_chart(samples, "git", HEIGHT, "Size of .git on disk (MB)"),
        "</svg>",
    ]
    return "\n".join(out) + "\n"


def _chart(samples: Sequence[Sample], field: str, top: int, title: str) -> list[str]:
    values = [float(getattr(one, field)) for one in samples]
    end, most = samples[-1].seconds, max(values) * 1.1
    wide, high = WIDTH - LEFT - 20, HEIGHT - 70

    def at(seconds: float, value: float) -> str:
        x, y = LEFT + seconds / end * wide, top + 35 + high - value / most * high
        return f"{x:.1f},{y:.1f}"

    # Of what falls on one column of dots, the first, the last and the extremes are all one sees.
    columns: dict[int, list[tuple[float, float]]] = {}
    for one, value in zip(samples, values, strict=True):
        columns.setdefault(int(one.seconds / end * wide), []).append((value, one.seconds))
    seen = [{column[0], min(column), max(column), column[-1]} for column in columns.values()]
    drawn = sorted((seconds, value) for column in seen for value, seconds in column)
    points = " ".join(at(seconds, value) for seconds, value in drawn)
    base = top + 35 + high
    out = [
        f'<text x="10" y="{top + 20}" font-size="15">{title}</text>',
        f'<polyline fill="none" stroke="#2a6f97" stroke-width="1.5" points="{points}"/>',
        f'<line x1="{LEFT}" y1="{base}" x2="{LEFT + wide}" y2="{base}" stroke="#999"/>',
        f'<text x="{LEFT - 6}" y="{base}" text-anchor="end">0</text>',
        f'<text x="{LEFT - 6}" y="{top + 45}" text-anchor="end">{most:.0f}</text>',
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        near = min(samples, key=lambda one: abs(one.seconds - share * end))
        words = f"{near.seconds:.0f} s, step {max(near.step, 0):,}"
        out.append(
            f'<text x="{LEFT + share * wide:.0f}" y="{base + 18}" '
            f'text-anchor="{"end" if share == 1 else "middle"}" font-size="11">{words}</text>'
        )
    return out


if __name__ == "__main__":
    raise SystemExit(main())
