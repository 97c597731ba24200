"""What a dead writer left running, and how it is ended.

What a dead holder of a run's lock left is found in three ways:

- by the marker `KITARU_HOLDER=NONCE`, which everything that the holder starts has in its
  environment, unless it clears that;
- by the holder's process group, and by its session where it led that, for what has no marker: it
  must have started after the holder, and be orphaned (a process starts in its parent's session: a
  parent in another one, or process 1, is who took it in). Where the holder did not lead the group
  a script's own background job may be in it: then it must also have its working directory or an
  open file in the run;
- as a descendant of one of these.

Never touched: ourselves, our ancestors and our descendants. Not found: what clears its environment
and leaves both group and session, and what forks and exits faster than the processes are listed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from kitaru_fs.errors import ConflictError, UsageError
from kitaru_fs.holding.lock import Holder
from kitaru_fs.processtable import (
    Process,
    ancestors,
    boot_id,
    descendants,
    pid_namespace,
    process_table,
    start_time,
    variable,
    works_in,
)

__all__ = [
    "FOREIGN_GIT_VARIABLES",
    "MARKER",
    "Ended",
    "descendants_marked",
    "end",
    "end_leftovers",
    "enter_environment",
    "processes_in",
    "processes_of",
    "run_environment",
    "whereabouts",
]

MARKER = "KITARU_HOLDER"
# What makes git work elsewhere than where it stands (`git rev-parse --local-env-vars`).
FOREIGN_GIT_VARIABLES = (
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_CONFIG",
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_PARAMETERS",
    "GIT_DIR",
    "GIT_GRAFT_FILE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
    "GIT_REPLACE_REF_BASE",
    "GIT_SHALLOW_FILE",
    "GIT_WORK_TREE",
)
# How long SIGKILL may take; only a process stuck in the kernel needs as long.
_KILL_PATIENCE = 10.0
_POLL_INTERVAL = 0.02


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that was ended.

    Attributes:
        how: `terminated` (it went on SIGTERM), `killed`, or `still there` where not even SIGKILL
            was obeyed, or not permitted.
    """

    pid: int
    command: str
    how: Literal["terminated", "killed", "still there"]


def run_environment(run_path: Path, nonce: str, inherited: str | None = None) -> dict[str, str]:
    """The variables for all that a run's steps start.

    With them git in `files/` never finds the run's own `.git`, and what outlives the writer can
    be found.

    Args:
        run_path: The run's directory.
        nonce: The lock's nonce.
        inherited: `GIT_CEILING_DIRECTORIES` as it was; None for the process's own.

    Raises:
        UsageError: The path cannot stand in `GIT_CEILING_DIRECTORIES`.
    """
    if inherited is None:
        inherited = os.environ.get("GIT_CEILING_DIRECTORIES", "")
    resolved = run_path.resolve()
    if os.pathsep in str(resolved):
        raise UsageError(
            f"The path {resolved} has a `{os.pathsep}`: git in files/ could not be kept from the "
            "run's own repository.",
            hint="Move the workspace to a path without one.",
        )
    ceilings = [part for part in (inherited, str(resolved)) if part]
    return {
        MARKER: nonce,
        "KITARU_RUN": resolved.name,
        "GIT_CEILING_DIRECTORIES": os.pathsep.join(ceilings),
    }


def enter_environment(
    environ: MutableMapping[str, str], run_path: Path, nonce: str
) -> Callable[[], None]:
    """Puts a run's variables into an environment, and takes foreign `GIT_DIR` and such out.

    Args:
        environ: `os.environ`, or a copy for a subprocess.
        run_path: The run's directory.
        nonce: The lock's nonce.

    Returns:
        What puts the environment back as it was.

    Raises:
        UsageError: The path cannot stand in `GIT_CEILING_DIRECTORIES`.
    """
    added = run_environment(run_path, nonce, environ.get("GIT_CEILING_DIRECTORIES", ""))
    before = {name: environ.get(name) for name in (*added, *FOREIGN_GIT_VARIABLES)}
    for name in FOREIGN_GIT_VARIABLES:
        environ.pop(name, None)
    environ.update(added)

    def leave() -> None:
        for name, value in before.items():
            if value is None:
                environ.pop(name, None)
            else:
                environ[name] = value

    return leave


def whereabouts(holder: Holder) -> Literal["here", "gone", "elsewhere"]:
    """Where a holder's processes are: on this machine and boot, ended by a reboot, or on another.

    Args:
        holder: A holder's record.
    """
    if holder.boot and holder.boot == boot_id():
        return "here"
    return "gone" if holder.host == socket.gethostname() else "elsewhere"


def end_leftovers(holder: Holder, run_path: Path, grace: float = 5.0) -> list[Ended]:
    """Ends what the steps of a dead holder, and of those before it, left running.

    Returns when it is gone.

    Only who holds the run's lock may call it.

    Args:
        holder: The dead holder's record, as `RunLock.previous`.
        run_path: The run's directory.
        grace: For so many seconds in all a process may react to SIGTERM.

    Returns:
        What was ended, in the order found.

    Raises:
        ConflictError: The holder was on another machine, or is not dead.
    """
    ended = end_leftovers(holder.previous, run_path, grace) if holder.previous else []
    place = whereabouts(holder)
    if place == "elsewhere":
        raise ConflictError(
            f"The run was last driven on {holder.host} (pid {holder.pid}): what its steps left "
            "running there cannot be ended from here.",
            hint=f"Make sure on {holder.host} that nothing works in the run's files any more.",
        )
    if place == "gone":
        return ended
    same_pids = holder.namespace == pid_namespace()
    if same_pids and start_time(holder.pid) == holder.start:
        raise ConflictError(
            f"Process {holder.pid}, which held the run, is still there.",
            hint="Stop it first, then try again.",
        )
    directory = run_path.resolve()
    return ended + _end_all(lambda: _leftovers(holder, directory, same_pids), grace)


def descendants_marked(nonce: str) -> list[Process]:
    """What a holder's steps have running now, itself and its ancestors left out.

    Args:
        nonce: The lock's nonce.
    """
    return _others(lambda pid: variable(pid, MARKER) == nonce)


def processes_of(run_path: Path) -> list[Process]:
    """What steps of a run have left running, whoever held it then, and however that ended.

    Args:
        run_path: The run's directory.
    """
    ceiling = str(run_path.resolve())

    def is_marked(pid: int) -> bool:
        ceilings = variable(pid, "GIT_CEILING_DIRECTORIES") or ""
        return ceiling in ceilings.split(os.pathsep) and variable(pid, MARKER) is not None

    return _others(is_marked)


def processes_in(directory: Path) -> list[Process]:
    """Who works in a directory: it is their working directory, or they have a file open there.

    Args:
        directory: The directory.
    """
    place = directory.resolve()
    return _others(lambda pid: works_in(pid, place))


def _others(chosen: Callable[[int], bool]) -> list[Process]:
    """The chosen processes; ourselves and our ancestors left out."""
    table = process_table()
    spared = ancestors(table) | {os.getpid()}
    return [process for pid, process in sorted(table.items()) if pid not in spared and chosen(pid)]


def end(processes: Iterable[Process], grace: float = 5.0) -> list[Ended]:
    """Ends processes: SIGTERM, up to `grace` seconds, SIGKILL; waits until they are gone.

    Args:
        processes: What to end; a pid that is another process by now is left alone.
        grace: For so many seconds in all they may react to SIGTERM.
    """
    wanted = {(process.pid, process.start) for process in processes}

    def remaining() -> _Found:
        table = process_table()
        pids = {pid for pid, process in table.items() if (pid, process.start) in wanted}
        return _found(pids, table)

    return _end_all(remaining, grace)


class _Found(NamedTuple):
    """Processes to be ended, and the process groups that consist of such alone."""

    processes: list[Process]
    groups: set[int]


def _found(pids: set[int], table: Mapping[int, Process]) -> _Found:
    others = {process.pgid for pid, process in table.items() if pid not in pids}
    processes = [table[pid] for pid in sorted(pids)]
    return _Found(processes, {process.pgid for process in processes} - others)


def _leftovers(holder: Holder, run_path: Path, same_pids: bool) -> _Found:
    table = process_table()
    spared = ancestors(table) | descendants(table, {os.getpid()})
    found = {
        pid
        for pid in table
        if pid not in spared and holder.nonce and variable(pid, MARKER) == holder.nonce
    }
    if same_pids:
        candidates = (process for pid, process in table.items() if pid not in spared)
        found |= {p.pid for p in candidates if _is_kin(p, holder, run_path, table)}
    return _found(descendants(table, found) - spared, table)


def _is_kin(process: Process, holder: Holder, run_path: Path, table: Mapping[int, Process]) -> bool:
    """Whether a process is an orphan of the holder's group or session."""
    if process.start < holder.start or not _is_orphan(process, table):
        return False
    # A pid is given again only when no group and no session has it as its id any more.
    if holder.pid not in table and holder.pid in (process.pgid, process.sid):
        return True
    return process.pgid == holder.pgid != holder.pid and works_in(process.pid, run_path)


def _is_orphan(process: Process, table: Mapping[int, Process]) -> bool:
    parent = table.get(process.ppid)
    if parent is None or parent.pid == 1:
        return True
    return process.sid not in (parent.sid, process.pid)


class _Target:
    """A process to be ended, by a handle that no recycled pid can take over."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.fd: int | None = None
        # Not on macOS and on kernels before 5.3; there, identity is checked before each signal.
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self.fd = os.pidfd_open(process.pid)

    def is_gone(self) -> bool:
        return start_time(self.process.pid) != self.process.start

    def send(self, *signals: signal.Signals) -> None:
        """Sends signals, if the process is still there and that is permitted."""
        if self.is_gone():
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            for number in signals:
                if self.fd is None:
                    os.kill(self.process.pid, number)
                else:
                    signal.pidfd_send_signal(self.fd, number)

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def _end_all(find: Callable[[], _Found], grace: float) -> list[Ended]:
    """Ends what `find` finds, until it finds nothing any more."""
    deadline = time.monotonic() + grace
    give_up = deadline + _KILL_PATIENCE
    ended: list[Ended] = []
    while True:
        targets = _freeze(find, give_up)
        late = time.monotonic()
        kill = late >= deadline
        how = "killed" if kill else "terminated"
        signals = (signal.SIGKILL,) if kill else (signal.SIGTERM, signal.SIGCONT)
        for target in targets:
            target.send(*signals)
        _wait(targets, (give_up if kill else deadline) - late)
        for target in targets:
            if target.is_gone():
                ended.append(Ended(target.process.pid, target.process.command, how))
            elif late >= give_up:
                ended.append(Ended(target.process.pid, target.process.command, "still there"))
            target.close()
        if not targets or late >= give_up:
            return ended


def _freeze(find: Callable[[], _Found], give_up: float) -> list[_Target]:
    """Stops all that is found, so that none starts another while the next is looked at."""
    targets: dict[tuple[int, int], _Target] = {}
    while True:
        processes, groups = find()
        new = [process for process in processes if (process.pid, process.start) not in targets]
        # A group is stopped at one stroke, also where each process lives but a moment.
        for group in groups & {process.pgid for process in new}:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGSTOP)
        for process in new:
            target = targets[process.pid, process.start] = _Target(process)
            target.send(signal.SIGSTOP)
        if not new or time.monotonic() >= give_up:
            return [target for target in targets.values() if not target.is_gone() or target.close()]


def _wait(targets: list[_Target], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    left = targets
    while left and (rest := deadline - time.monotonic()) > 0:
        poll = select.poll()
        handles = [target.fd for target in left if target.fd is not None]
        for handle in handles:
            poll.register(handle, select.POLLIN)
        # Without a handle nothing tells when another's child ends.
        poll.poll(1000 * (rest if len(handles) == len(left) else min(rest, _POLL_INTERVAL)))
        left = [target for target in left if not target.is_gone()]
