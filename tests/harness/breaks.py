"""Protections taken out on purpose, to show that the harness notices: one that cannot fail proves
nothing. Each changes kitaru in the worker's child only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kitaru_fs.rundir import writer
from kitaru_fs.storage import store, wal

__all__ = ["BREAKS", "apply"]


def _ref_before_log() -> None:
    """The ref is written before the log record that makes its commit durable."""
    commit = store.Store.commit

    def broken(self: store.Store, refs: Mapping[str, bytes], **options: Any) -> None:
        for name, sha in refs.items():
            self.refs.write(name, sha)
        commit(self, refs, **options)

    store.Store.commit = broken


def _reset_before_pack() -> None:
    """The log is reset, and loose copies dropped, before what it held stands in a pack."""
    write_pack = store.write_pack

    def broken(objects_dir: Any, objects: Any, count: int, *, sync: bool) -> Any:
        held = list(objects)
        for sha, _, _ in held:
            name = sha.hex()
            (objects_dir / name[:2] / name[2:]).unlink(missing_ok=True)
        log = wal.WriteAheadLog.open(objects_dir.parent / "kitaru" / "wal")
        list(log.records())
        log.reset(sync=False)
        log.close()
        return write_pack(objects_dir, held, count, sync=sync)

    store.write_pack = broken


def _acknowledge_first() -> None:
    """A step's commit waits for the next one: it is acknowledged before it is in the log."""
    add = writer.Writer.add
    late: list[Callable[[], None]] = []
    commit = store.Store.commit

    def broken_commit(self: store.Store, *args: Any, **kwargs: Any) -> None:
        late.append(lambda: commit(self, *args, **kwargs))

    def broken_add(self: writer.Writer, *args: Any, **kwargs: Any) -> bytes:
        while late:
            late.pop(0)()
        store.Store.commit = broken_commit
        try:
            return add(self, *args, **kwargs)
        finally:
            store.Store.commit = commit

    writer.Writer.add = broken_add


BREAKS: dict[str, Callable[[], None]] = {
    "ref-before-log": _ref_before_log,
    "reset-before-pack": _reset_before_pack,
    "acknowledge-first": _acknowledge_first,
}


def apply(name: str | None) -> None:
    """Takes a protection out in this process."""
    if name is not None:
        BREAKS[name]()
