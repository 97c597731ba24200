"""Protections taken out on purpose, to show that the harness notices: one that cannot fail proves
nothing. Each changes kitaru in the worker's child only."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from typing import Any

from kitaru_fs.rundir import writer
from kitaru_fs.storage import store, wal

__all__ = ["BREAKS", "apply"]


def _ref_before_log() -> None:
    """The ref is written before the log record that makes its commit durable."""
    append = store.Store.append

    def broken(self: store.Store, refs: Mapping[str, bytes], **options: Any) -> int:
        for name, sha in refs.items():
            self.refs.write(name, sha)
        return append(self, refs, **options)

    store.Store.append = broken


def _reset_before_pack() -> None:
    """The log is reset, and loose copies dropped, before what it held stands in a pack."""
    write_pack = store.write_pack

    def broken(objects_dir: Any, objects: Any, count: int, *, sync: bool) -> Any:
        held = list(objects)
        for item in held:
            name = item.sha.hex()
            (objects_dir / name[:2] / name[2:]).unlink(missing_ok=True)
        log = wal.WriteAheadLog.open(objects_dir.parent / "kitaru" / "wal")
        list(log.records())
        log.reset(sync=False)
        log.close()
        return write_pack(objects_dir, held, count, sync=sync)

    store.write_pack = broken


def _acknowledge_first() -> None:
    """A step's commit waits for the next one: it is acknowledged before it is in the log."""
    append_entry = writer.Writer.append
    late: list[Callable[[], int]] = []
    append = store.Store.append

    def broken_append(self: store.Store, *args: Any, **kwargs: Any) -> int:
        late.append(lambda: append(self, *args, **kwargs))
        return 0

    def broken(self: writer.Writer, *args: Any, **kwargs: Any) -> int:
        while late:
            late.pop(0)()
        store.Store.append = broken_append
        try:
            return append_entry(self, *args, **kwargs)
        finally:
            store.Store.append = append

    writer.Writer.append = broken


def _no_directory_sync() -> None:
    """Names are not made durable: directories are never synced."""
    fsync = os.fsync

    def broken(descriptor: int) -> None:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            fsync(descriptor)

    os.fsync = broken


def _no_log_sync() -> None:
    """A step is acknowledged without waiting for the disk: the log is never synced."""
    os.fdatasync = lambda fd: None


BREAKS: dict[str, Callable[[], None]] = {
    "ref-before-log": _ref_before_log,
    "reset-before-pack": _reset_before_pack,
    "acknowledge-first": _acknowledge_first,
    "no-directory-sync": _no_directory_sync,
    "no-log-sync": _no_log_sync,
}


def apply(name: str | None) -> None:
    """Takes a protection out in this process."""
    if name is not None:
        BREAKS[name]()
