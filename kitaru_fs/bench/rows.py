"""The rows: each measures something and its baseline in turn, so that both see the same machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kitaru_fs.bench.profile import shares
from kitaru_fs.bench.report import Figure
from kitaru_fs.bench.waking import waking_rows
from kitaru_fs.bench.work import (
    Again,
    Inserts,
    Steps,
    again,
    in_workspace,
    large,
    many,
    resumed,
    start,
    workspace,
    write,
)
from kitaru_fs.engine.runner import run_to_end
from kitaru_fs.run import Run

__all__ = ["ROWS", "Scale"]

INSERT = "an fsynced SQLite insert"


class Scale:
    """How much is measured.

    Args:
        rounds: Paired rounds.
        steps: Steps in a round.
        full: Whether the sizes are those of the targets, which takes minutes, or a tenth.
    """

    def __init__(self, rounds: int, steps: int, *, full: bool) -> None:
        self.rounds = rounds
        self.steps = steps
        self.factor = 1 if full else 10


def step_rows(place: Path, scale: Scale) -> Iterator[Figure]:
    """A step by what it does and how durable it is, against the insert."""
    inserts = Inserts(place)
    base = make_tree(place / "tree-100", 100)
    measured = {
        "step, 200 bytes of output": ("answer", "fsync", "at most 2x"),
        "step that edits a 10 KB file": ("edit", "fsync", "at most 3x"),
        'step, durability = "process"': ("answer", "process", "at most 1.5x"),
    }
    runs = {
        name: Steps(place, work, durability, base if work == "edit" else None)
        for name, (work, durability, _) in measured.items()
    }
    plain = place / "plain"
    shutil.copytree(base, plain)
    took: dict[str, list[float]] = {name: [] for name in ("insert", "write", *runs)}
    for number in range(scale.rounds + 1):
        found = {"insert": inserts.median(scale.steps), "write": writes(plain, scale.steps)}
        found |= {name: run.median(scale.steps) for name, run in runs.items()}
        # The first round makes what later ones find: connections, logs, code.
        for name, value in found.items() if number else ():
            took[name].append(value)
    inserts.close()
    for run in runs.values():
        run.close()
    yield Figure("fsynced SQLite insert (WAL, FULL)", took["insert"], group="method")
    yield Figure("writing that 10 KB file, unsynced", took["write"], "ms", took["insert"], INSERT)
    for name, (_, _, target) in measured.items():
        yield Figure(name, took[name], "ms", took["insert"], INSERT, target, "method")


def writes(files: Path, times: int) -> float:
    """Writes what the step writes that edits a file; returns the median, in milliseconds."""
    took: list[float] = []
    for number in range(times):
        begun = time.perf_counter()
        write(files, number)
        took.append(time.perf_counter() - begun)
    return statistics.median(took) * 1000


def profile_rows(place: Path, scale: Scale) -> Iterator[Figure]:
    """Where the time of a step goes."""
    files = make_tree(place / "tree-100", 100)
    for work, what in (("answer", "200 bytes of output"), ("edit", "a 10 KB file")):
        found: list[dict[str, float]] = []
        for number in range(max(3, scale.rounds // 2)):
            found.append(shares(place / f"{work}-{number}", work, 1_000, files))
        for package in found[0]:
            values = [100 * one.get(package, 0.0) for one in found]
            if max(values) >= 1:
                yield Figure(f"step with {what}: {package}", values, "%")


def tree_rows(place: Path, scale: Scale) -> Iterator[Figure]:
    """The same edit among many files and among few."""
    large = 100_000 // scale.factor
    few = Steps(place, "edit", files=make_tree(place / "tree-100", 100))
    some = Steps(place, "edit", files=make_tree(place / "tree-some", 1_000))
    much = Steps(place, "edit", files=make_tree(place / f"tree-{large}", large))
    took: list[tuple[float, float, float]] = []
    for number in range(scale.rounds + 1):
        found = (few.median(50), some.median(50), much.median(50))
        if number:
            took.append(found)
    for run in (few, some, much):
        run.close()
    among = "the edit among 100"
    base = [one[0] for one in took]
    yield Figure("10 KB edit among 100 files", base, group="tree")
    yield Figure("10 KB edit among 1,000", [one[1] for one in took], "ms", base, among, "", "tree")
    name = f"10 KB edit among {large:,} (1,000 a folder)"
    values = [one[2] for one in took]
    yield Figure(name, values, "ms", base, among, "at most 1.5x", "tree")


def history_rows(place: Path, scale: Scale) -> Iterator[Figure]:
    """A late step of a long run and an early one of a short run."""
    length = 100_000 // scale.factor
    long = Steps(place, "answer", "process")
    rss: list[tuple[int, float]] = []
    for made in range(0, length, length // 20):
        long.take(length // 20)
        rss.append((made + length // 20, memory()))
    late: list[float] = []
    early: list[float] = []
    for number in range(scale.rounds + 1):
        short = Steps(place, "answer", "process")
        short.take(60)
        found = short.median(80), long.median(80)
        short.close()
        if number:
            early.append(found[0])
            late.append(found[1])
    long.close()
    yield Figure("step 100 of a run (process)", early, group="history")
    name = f"step {length:,} of a run (process)"
    yield Figure(name, late, "ms", early, "step 100", "at most 1.2x", "history")
    first, last = rss[len(rss) // 4][1], rss[-1][1]
    at = f"{rss[len(rss) // 4][0]:,}"
    name = f"memory at step {length:,}"
    yield Figure(name, [last], "MB", [first], f"that at step {at}", "flat")


def memory() -> float:
    """Returns what this process holds in memory, in MB."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1000


def resume_rows(place: Path, scale: Scale) -> Iterator[Figure]:
    """From taking a run up to its first live step."""
    home = workspace(place)
    options = home.options(purpose="bench", code=())

    def take_up(path: Path) -> float:
        begun = time.perf_counter()
        try:
            run_to_end(path, resumed, options)
        except Again:
            return again.reached - begun
        raise AssertionError("the run did not stop")

    length = 10_000
    none, long = start(home, resumed, 0), start(home, resumed, length)
    take_up(none)
    take_up(long)
    took = [(take_up(long), take_up(none)) for _ in range(scale.rounds)]
    more = [(one - other) * 1000 for one, other in took]
    yield Figure(f"resume of {length:,} steps, more than of none", more, "ms", target="500 ms")
    yield from log_rows(Run(long, home), scale)


def log_rows(run: Run, scale: Scale) -> Iterator[Figure]:
    """`kitaru log` of ten thousand steps."""
    command = [sys.executable, "-m", "kitaru_fs", "log", str(run.path)]
    took = [listing(command, run.path.parents[1]) for _ in range(scale.rounds)]
    yield Figure("kitaru log of 10,000 steps", [one[0] * 1000 for one in took], target="1,000 ms")
    yield Figure("    to its first line", [one[1] * 1000 for one in took], target="200 ms")


def listing(command: list[str], place: Path) -> tuple[float, float]:
    """Runs a command; returns the seconds to its end and to its first line."""
    begun = time.perf_counter()
    with subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        first = time.perf_counter() - begun
        process.stdout.read()
    return time.perf_counter() - begun, first


def runs_rows(place: Path, scale: Scale) -> Iterator[Figure]:
    """`kitaru runs` with ten thousand runs."""
    home = workspace(place / "listed")
    run = Steps(place / "listed", "answer")
    run.take(3)
    run.close()
    count = 10_000 // scale.factor
    for number in range(count):
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(1_700_000_000 + number))
        copy = home.runs_dir / f"{stamp}-{number % 1000:03d}-measured-abcd"
        shutil.copytree(run.path, copy, symlinks=True)
    command = [sys.executable, "-m", "kitaru_fs", "runs"]
    cold = listing(command, home.path)
    took = [listing(command, home.path) for _ in range(scale.rounds)]
    name = f"kitaru runs with {count:,} runs"
    yield Figure(name, [one[0] * 1000 for one in took], target="1,000 ms")
    yield Figure("    to its first line", [one[1] * 1000 for one in took], target="200 ms")
    yield Figure("    the first time, nothing cached", [cold[0] * 1000])


def start_rows(place: Path, scale: Scale) -> Iterator[Figure]:
    """What importing and asking for help takes."""

    def once(*arguments: str) -> float:
        begun = time.perf_counter()
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
        return (time.perf_counter() - begun) * 1000

    took = [
        (
            once("-c", "import click"),
            once("-c", "import kitaru_fs"),
            once("-m", "kitaru_fs", "--help"),
        )
        for _ in range(3 * scale.rounds)
    ]
    click = [one[0] for one in took]
    against = 'python -c "import click"'
    yield Figure("import kitaru_fs", [one[1] for one in took], "ms", click, against, "1.5x")
    yield Figure("kitaru --help", [one[2] for one in took], "ms", click, against, "2x")


def size_rows(place: Path, scale: Scale) -> Iterator[Figure]:
    """What `.git` takes."""
    run = Steps(place, "speak", "process")
    length, most = 10_000 // scale.factor, 0
    objects = run.path / ".git" / "objects"
    for _ in range(0, length, 500):
        run.take(500)
        most = max(most, sum(file.lstat().st_blocks * 512 for file in objects.glob("??/*")))
    run.close()
    git = sum(file.lstat().st_size for file in (run.path / ".git").rglob("*") if file.is_file())
    entries = sum(len(zlib.compress(f.read_bytes())) for f in run.path.glob("journal/*/*.json"))
    name = f".git after {length:,} steps of 1 KB, at rest"
    yield Figure(name, [git / 1e6], "MB", [entries / 1e6], "the compressed entries", "at most 2x")
    yield Figure("    loose objects at most", [most / 1e6], "MB", target="64 MB")
    yield rewritten(place, scale)


def rewritten(place: Path, scale: Scale) -> Figure:
    """What `.git` takes at most where a large file is written anew again and again."""
    large.size, length, most = 20_000_000 // scale.factor, 2_000 // scale.factor, 0
    run = Steps(place, "rewrite", "process")
    for _ in range(0, length, 50):
        run.take(50)
        most = max(most, disk_use(run.path / ".git"))
    run.close()
    live = large.size * (length // 50) / 1e6
    name = f".git, {large.size // 1_000_000} MB written anew every 50 of {length:,} steps"
    return Figure(name, [most / 1e6], "MB", [live], "all versions", "at most 3x")


def disk_use(folder: Path) -> int:
    """Returns how many bytes a directory takes; what vanishes meanwhile counts nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def fork_rows(place: Path, scale: Scale) -> Iterator[Figure]:
    """A fork, against hard links of its files."""
    count = 10_000 // scale.factor
    run = Steps(place, "answer", "process", make_tree(place / f"tree-{count}", count))
    for _ in range(0, count, 500):
        run.take(500)
    run.close()
    home = workspace(place, "process")
    took: list[tuple[float, float]] = []
    for number in range(scale.rounds):
        begun = time.perf_counter()
        subprocess.run(["cp", "-al", run.path / "files", place / f"links-{number}"], check=True)
        middle = time.perf_counter()
        Run(run.path, home).fork(str(count))
        took.append((time.perf_counter() - middle, middle - begun))
    values, base = [one[0] * 1000 for one in took], [one[1] * 1000 for one in took]
    name = f"fork of {count:,} files and {count:,} steps"
    yield Figure(name, values, "ms", base, "cp -al of its files", "at most 2x")


def many_rows(place: Path, scale: Scale) -> Iterator[Figure]:
    """Two hundred runs at once in one process, of twenty steps each."""
    runs, steps = 200, 20

    async def all_of_them(steps: int) -> tuple[float, float]:
        begun = time.perf_counter()
        ends: list[float] = []

        async def one() -> None:
            await many(steps)
            ends.append(time.perf_counter() - begun)

        await asyncio.gather(*(one() for _ in range(runs)))
        return ends[-1], ends[-1] / ends[0]

    took: list[tuple[float, float, float]] = []
    with in_workspace(workspace(place)):
        for _ in range(scale.rounds):
            whole, spread = asyncio.run(all_of_them(steps))
            # A run is a repository that is made and brought to rest: what the steps take is the
            # rest.
            empty, _ = asyncio.run(all_of_them(0))
            took.append((runs * steps / whole, runs * steps / max(whole - empty, 1e-3), spread))
    name = "200 runs at once, 20 steps each"
    yield Figure(f"{name}, from nothing", [one[0] for one in took], "steps/s", target="1,300")
    yield Figure("    the steps alone", [one[1] for one in took], "steps/s")
    yield Figure("    the last run's time to the first's", [one[2] for one in took], "x")


def peer_rows(place: Path, scale: Scale) -> Iterator[Figure]:
    """The same steps elsewhere (`benchmarks/peers`), in turn with ours."""
    home = os.environ.get("KITARU_BENCH_PEERS")
    scripts = Path(__file__).parents[2] / "benchmarks" / "peers"
    if home is None or not scripts.is_dir():
        raise SystemExit("--peers DIR names an environment: see benchmarks/peers/README.md")
    python = str(Path(home) / "bin" / "python")
    server = next(Path(home).glob("node_modules/@restatedev/restate-server-*/bin/restate-server"))
    peers = {
        "LangGraph, SQLite saver, sync": ["langgraph_steps.py", "200", "default"],
        "DBOS on SQLite": ["dbos_steps.py", "200", "sqlite-default"],
        "DBOS on SQLite, synchronous=FULL": ["dbos_steps.py", "200", "sqlite-fsync"],
        "DBOS on PostgreSQL": ["dbos_steps.py", "200", "postgres"],
        "Restate": ["restate_steps.py", "200", "default", str(server)],
        "Temporal, development server": ["temporal_steps.py", "30", "default"],
    }
    environment = os.environ | {"PATH": f"{home}/bin:{os.environ['PATH']}"}

    def take(arguments: list[str]) -> dict[str, Any] | None:
        """Runs a peer's script; None if it failed, or took too long, which some do now and then."""
        import json

        command = [python, str(scripts / arguments[0]), *arguments[1:]]
        with subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                output = b""
            finally:
                # With the server that it started.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        lines = output.splitlines()
        return json.loads(lines[-1]) if lines else None

    run = Steps(place, "answer")
    run.take(scale.steps)
    ours: dict[str, list[float]] = {name: [] for name in peers}
    theirs: dict[str, list[float]] = {name: [] for name in peers}
    rates: list[float] = []
    for _ in range(scale.rounds):
        for name, arguments in peers.items():
            own, found = run.median(scale.steps), take(arguments)
            if found is not None:
                ours[name].append(own)
                theirs[name].append(found["step_ms"])
        many = take([*peers["Restate"][:1], "40", "default", str(server), "64"])
        if many is not None:
            rates.append(many["steps_per_second"])
    run.close()
    for name in peers:
        if theirs[name]:
            yield Figure(name, theirs[name], "ms", ours[name], "a step of ours", "slower", "method")
    if rates:
        yield Figure("Restate, 64 invocations at once", rates, "steps/s")


def make_tree(place: Path, count: int) -> Path:
    """Makes a directory of so many small files, a thousand a folder, once."""
    if not place.exists():
        for number in range(count):
            folder = place / f"d{number // 1000:03d}"
            if number % 1000 == 0:
                folder.mkdir(parents=True)
            (folder / f"f{number:06d}.txt").write_bytes(b"%d\n" % number)
    return place


ROWS: dict[str, Callable[[Path, Scale], Iterator[Figure]]] = {
    "steps": step_rows,
    "profile": profile_rows,
    "tree": tree_rows,
    "history": history_rows,
    "resume": resume_rows,
    "runs": runs_rows,
    "start": start_rows,
    "size": size_rows,
    "fork": fork_rows,
    "many": many_rows,
    "waking": lambda place, scale: waking_rows(place, scale.rounds),
    "peers": peer_rows,
}


@contextmanager
def working(base: str | None) -> Generator[Path]:
    """Makes a directory to work in, and removes it."""
    with tempfile.TemporaryDirectory(dir=base, prefix="kitaru-bench-") as folder:
        threading.excepthook = _fail
        yield Path(folder)


def _fail(arguments: Any) -> None:
    sys.excepthook(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
    os._exit(1)
