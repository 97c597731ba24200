"""Making a run's directory with its first commit; with an idempotency key, at most one."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kitaru_fs.errors import ConflictError
from kitaru_fs.rundir.creation import CodeFile, create_run
from kitaru_fs.rundir.repository import Request, decode_request
from kitaru_fs.snapshot.exclude import Exclude
from kitaru_fs.storage.store import storage_error
from kitaru_fs.targets.launching import read_code
from kitaru_fs.targets.target import Target

if TYPE_CHECKING:
    from kitaru_fs.workspace import Workspace

__all__ = ["make_once", "with_key"]


def make_once(
    workspace: Workspace,
    request: Request,
    target: Target,
    files: Path | None,
    code: Sequence[CodeFile] | None,
) -> tuple[Path, bool]:
    """Makes a run, unless one has the request's key.

    Args:
        workspace: Where.
        request: What is asked of it.
        target: What is run: its modules are recorded.
        files: A directory that is copied into `files/`.
        code: Those modules, where they were read already.

    Returns:
        The run's directory, and whether it is new.

    Raises:
        ConflictError: The key belongs to a run of another flow.
        UsageError: `files` is no directory that can be copied.
        StorageError: The disk refused; nothing is left behind.
    """
    code = read_code(target) if code is None else code
    if request.key is None:
        return _make(workspace, request, code, files), True
    with _keys_locked(workspace.path / ".kitaru"):
        existing = with_key(workspace, request.key)
        if existing is None:
            return _make(workspace, request, code, files), True
    flow = decode_request((existing / "run.json").read_bytes(), existing / "run.json").flow
    if flow != request.flow:
        raise ConflictError(
            f"the key {request.key!r} belongs to run {existing.name}, of flow {flow!r}",
            hint="use another key",
        )
    return existing, False


def with_key(workspace: Workspace, key: str) -> Path | None:
    """Returns the run that was started with a key, its secrets masked."""
    for run in workspace.directories():
        file = run / "run.json"
        try:
            raw = file.read_bytes()
        except FileNotFoundError:
            continue
        # A copy's run.json names the run that it was copied from: its key is not the copy's.
        if key.encode() in raw or "\\" in key or not key.isascii():
            request = decode_request(raw, file)
            if request.key == key and request.run == run.name:
                return run
    return None


def _make(
    workspace: Workspace, request: Request, code: Sequence[CodeFile], files: Path | None
) -> Path:
    fill: Callable[[Path], list[dict[str, Any]]] | None = None
    if files is not None:
        from kitaru_fs.intake.intake import Intake

        intake = Intake.inspect(files, skip=(workspace.runs_dir, workspace.path / ".kitaru"))
        request.source = intake.source

        def copy(place: Path) -> list[dict[str, Any]]:
            intake.copy_into(place)
            ignored = [{"path": path, "reason": "ignored"} for path in intake.ignored]
            kept_out = intake.left_out.items()
            return ignored + [{"path": path, "reason": why} for path, why in kept_out]

        fill = copy
    settings = workspace.settings
    return create_run(
        workspace.runs_dir,
        request,
        code=code,
        fill=fill,
        exclude=Exclude(settings.files.exclude),
        max_file=settings.files.max_file,
        durable=settings.durability == "fsync",
        credentials=workspace.credentials,
    )


@contextmanager
def _keys_locked(folder: Path) -> Generator[None]:
    try:
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder / "keys.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            os.close(descriptor)
            raise
    except OSError as error:
        raise storage_error(error, "locking the workspace's keys", then="try again") from error
    try:
        yield
    finally:
        os.close(descriptor)
