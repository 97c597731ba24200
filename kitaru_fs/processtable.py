"""The processes of this machine, from `/proc`, or from `ps` where there is none.

A process is its pid *and* its start time, on one boot: a recycled pid is somebody else.
"""

from __future__ import annotations

import calendar
import contextlib
import os
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = [
    "Process",
    "ancestors",
    "arguments",
    "boot_id",
    "descendants",
    "pid_namespace",
    "process_table",
    "sees_all_processes",
    "start_seconds",
    "start_time",
    "variable",
    "works_in",
]

_PROC = Path("/proc")
_DEAD = frozenset("ZXx")
_FIRST_NAMESPACE = "pid:[4026531836]"  # a constant of the kernel's


@dataclass(frozen=True, slots=True)
class Process:
    """A process, as the system lists it.

    Attributes:
        start: When it started: clock ticks since the boot, or seconds since the epoch where
            there is no `/proc`. Only compared for equality and order.
        state: One letter, as `ps` shows it.
        command: Its name, at most 15 characters.
    """

    pid: int
    ppid: int
    pgid: int
    sid: int
    start: int
    state: str
    command: str


@cache
def boot_id() -> str:
    """An id of this boot of this machine; empty where the system has none."""
    with contextlib.suppress(OSError):
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    with contextlib.suppress(OSError):
        asked = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return ""


def pid_namespace() -> str:
    """The namespace that our pids are of; empty where there is no such thing."""
    with contextlib.suppress(OSError):
        return os.readlink(_PROC / "self/ns/pid")
    return ""


def start_time(pid: int) -> int | None:
    """When a process started (`Process.start`); None if it is not there, or dead already."""
    process = _read_process(pid) if _has_proc() else _ps_table().get(pid)
    return None if process is None else process.start


def process_table() -> dict[int, Process]:
    """All processes that this one can see, by pid; dead ones that nobody waited for left out."""
    if not _has_proc():
        return _ps_table()
    # The newest first: they are the likeliest to be gone in a moment.
    pids = sorted((int(name) for name in os.listdir(_PROC) if name.isdigit()), reverse=True)
    found = (process for pid in pids if (process := _read_process(pid)) is not None)
    return {process.pid: process for process in found}


def _has_proc() -> bool:
    return (_PROC / "self/stat").exists()


def _read_process(pid: int) -> Process | None:
    try:
        raw = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The name is in parentheses and may hold any byte; the fields follow the last one.
    head, _, tail = raw.rpartition(b")")
    fields = tail.split()
    state = fields[0].decode("ascii")
    if state in _DEAD and int(fields[17]) <= 1:  # more threads than the dead first one live on
        return None
    return Process(
        pid=pid,
        ppid=int(fields[1]),
        pgid=int(fields[2]),
        sid=int(fields[3]),
        start=int(fields[19]),
        state=state,
        command=head.partition(b"(")[2].decode("utf-8", "replace"),
    )


def _ps_table() -> dict[int, Process]:
    """The process table of a system without `/proc`, such as macOS."""
    columns = "pid=,ppid=,pgid=,stat=,lstart=,comm="
    listed = subprocess.run(
        ["/bin/ps", "-axo", columns],
        capture_output=True,
        text=True,
        errors="replace",
        env={"LC_ALL": "C", "TZ": "UTC"},
        check=False,
    )
    table: dict[int, Process] = {}
    for line in listed.stdout.splitlines():
        pid, ppid, pgid, state, *date, command = line.split(None, 9)
        if state[0] in _DEAD:
            continue
        started = time.strptime(" ".join(date), "%a %b %d %H:%M:%S %Y")
        with contextlib.suppress(ProcessLookupError, PermissionError):
            table[int(pid)] = Process(
                pid=int(pid),
                ppid=int(ppid),
                pgid=int(pgid),
                sid=os.getsid(int(pid)),
                start=calendar.timegm(started),
                state=state[0],
                command=os.path.basename(command)[:15],
            )
    return table


def ancestors(table: Mapping[int, Process]) -> set[int]:
    """The pids of the processes that this one descends from."""
    found: set[int] = set()
    pid = os.getppid()
    while pid in table and pid not in found:
        found.add(pid)
        pid = table[pid].ppid
    return found


def descendants(table: Mapping[int, Process], roots: Iterable[int]) -> set[int]:
    """Processes and all that descends from them, by their pids."""
    found = set(roots)
    while True:
        new = {pid for pid, process in table.items() if process.ppid in found and pid not in found}
        if not new:
            return found
        found |= new


def arguments(pid: int) -> list[str] | None:
    """A process's command line; None where it is gone or may not be looked at."""
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return None
    return [os.fsdecode(word) for word in raw.split(b"\0")]


def variable(pid: int, name: str) -> str | None:
    """A variable of the environment that a process was started with.

    None where it has no such variable, or its environment may not be read.
    """
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    start = os.fsencode(name) + b"="
    for item in environment.split(b"\0"):
        if item.startswith(start):
            return os.fsdecode(item[len(start) :])
    return None


def works_in(pid: int, path: Path, *, files_only: bool = False) -> bool:
    """Whether a process has its working directory or an open file at or below a path.

    Args:
        pid: The process; False where it may not be looked at.
        path: The path, without symbolic links.
        files_only: Whether to look at open files alone.
    """
    base = _PROC / str(pid)
    links = [] if files_only else [base / "cwd"]
    with contextlib.suppress(OSError):
        links += list((base / "fd").iterdir())
    for link in links:
        with contextlib.suppress(OSError):
            if Path(os.readlink(link).removesuffix(" (deleted)")).is_relative_to(path):
                return True
    return False


def start_seconds(process: Process) -> float:
    """When a process started, in seconds since the epoch, to the second."""
    if not _has_proc():
        return process.start
    return _boot_seconds() + process.start / os.sysconf("SC_CLK_TCK")


@cache
def _boot_seconds() -> int:
    for line in (_PROC / "stat").read_text().splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    return 0


def sees_all_processes() -> bool:
    """Whether no process of this machine is hidden from this one.

    Not so in a container (its own pid namespace), where `/proc` hides other users' processes, and
    on systems without `/proc`.
    """
    return pid_namespace() == _FIRST_NAMESPACE and os.access(_PROC / "1/stat", os.R_OK)
