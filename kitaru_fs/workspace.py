"""A workspace: settings, the user's agent code, and `runs/`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kitaru_fs import __version__
from kitaru_fs.clock import is_run_id, new_run_id, stamp
from kitaru_fs.config.settings import Settings, load_settings
from kitaru_fs.errors import (
    AmbiguousError,
    KitaruError,
    NotFoundError,
)
from kitaru_fs.redaction.credentials import Credentials, shared_credentials
from kitaru_fs.redaction.redactor import mask_text
from kitaru_fs.run import Run
from kitaru_fs.rundir.events import Listener
from kitaru_fs.rundir.options import DrivenRun, Options
from kitaru_fs.rundir.repository import Request
from kitaru_fs.scaffold import InitResult, find_workspace, init_workspace
from kitaru_fs.snapshot.exclude import Exclude
from kitaru_fs.states import StateCache
from kitaru_fs.supervisor.held import why_held
from kitaru_fs.supervisor.lock import LockHolder, read_lock_holder

if TYPE_CHECKING:
    from kitaru_fs.engine.runner import Runnable
    from kitaru_fs.pruning import Collected
    from kitaru_fs.rundir.checkup.doctor import Checkup
    from kitaru_fs.rundir.costs import Cost
    from kitaru_fs.rundir.creation import CodeFile
    from kitaru_fs.spending import Budget, By, Spending, Today
    from kitaru_fs.targets.target import Target
    from kitaru_fs.watching import Watch

__all__ = ["Workspace"]


class Workspace:
    """A workspace on disk.

    Args:
        path: Its directory, with a `kitaru.toml`.
        overrides: Settings that win over the environment and the file, by dotted key.

    Raises:
        NotFoundError: The directory is no workspace.
        SettingsError: `kitaru.toml` or a `KITARU_*` variable is wrong.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, overrides: Mapping[str, object] | None = None
    ) -> None:
        self.path = Path(path).absolute()
        # A supervisor's last good one, where somebody wrote nonsense into the other.
        given = os.environ.get("KITARU_SETTINGS")
        file = Path(given) if given else self.path / "kitaru.toml"
        if not file.is_file():
            raise NotFoundError(
                f"{self.path} is no workspace: it has no kitaru.toml",
                hint=f"kitaru init {self.path}",
            )
        self._today: Today | None = None
        self.settings: Settings = load_settings(file, os.environ, overrides)

    @classmethod
    def init(cls, path: str | os.PathLike[str], *, force: bool = False) -> InitResult:
        """Makes a workspace; see `scaffold.init_workspace`."""
        return init_workspace(Path(path), force=force)

    @classmethod
    def current(cls, start: str | os.PathLike[str] | None = None) -> Workspace:
        """Returns the workspace of `KITARU_WORKSPACE`, else the one that a directory lies in.

        Args:
            start: The directory; the current one by default.

        Raises:
            NotFoundError: There is none.
        """
        named = os.environ.get("KITARU_WORKSPACE")
        if named and start is None:
            return cls(named)
        place = Path(start) if start is not None else Path.cwd()
        found = find_workspace(place)
        if found is None:
            raise NotFoundError(
                f"no workspace at or above {place}",
                hint="kitaru init makes one here; --workspace DIR or KITARU_WORKSPACE names one",
            )
        return cls(found)

    @property
    def runs_dir(self) -> Path:
        """Where the runs are."""
        return self.path / "runs"

    @property
    def supervisor(self) -> LockHolder | None:
        """Who supervises the workspace (`kitaru up`); None if nobody does."""
        return read_lock_holder(self.path)

    @property
    def supervision(self) -> dict[str, Any] | None:
        """Who supervises the workspace and what that does: `pid`, `host`, `since`, `concurrency`,
        `driven`, `queued` and the first of the `queue`, `held`, `schedules`; None if nobody does.
        """
        from kitaru_fs.supervisor.bulletin import read_bulletin

        return read_bulletin(self.path)

    # Runs

    def runs(
        self,
        *,
        status: str | None = None,
        flow: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> list[Run]:
        """Returns the runs, newest first.

        Args:
            status: Only those of this status.
            flow: Only those of this flow.
            since: Only those created at or after this time.
            limit: At most so many.
        """
        found: list[Run] = []
        for run in self._all():
            if limit is not None and len(found) >= limit:
                break
            if since is not None and run.created < since:
                continue
            if flow is not None and run.flow != flow:
                continue
            if status is not None and run.status != status:
                continue
            found.append(run)
        return found

    def states(
        self,
        *,
        status: str | None = None,
        flow: str | None = None,
        since: datetime | None = None,
        limit: int | None = None,
    ) -> Iterator[dict[str, Any] | KitaruError]:
        """Yields the runs' status objects, newest first; arguments as for `runs`.

        A run that was at rest when it was last listed is not read again.

        Yields:
            The status object of a run, or, for a run that cannot be read, why.
        """
        cache = StateCache(self.path / ".kitaru", self.runs_dir)
        found = 0
        try:
            for name in self._ids():
                run = Run(self.runs_dir / name, self)
                if limit is not None and found >= limit:
                    return
                try:
                    if since is not None and run.created < since:
                        continue
                    state = cache.get(name)
                    if state is None:
                        state = run.state()
                        cache.put(name, state)
                    elif held := why_held(run.path, self.path, state["status"]):
                        # Not of the run alone, so not in what is kept of it.
                        state["held"] = held
                except KitaruError as error:
                    yield error
                    continue
                if status in (None, state["status"]) and flow in (None, state["flow"]):
                    found += 1
                    yield state
        finally:
            cache.save()

    def waits(
        self, *, on_error: Callable[[KitaruError], None] | None = None
    ) -> list[dict[str, Any]]:
        """Returns all that the runs wait to be answered, the oldest first, as `Run.waits` has it.

        Args:
            on_error: Told of a run that cannot be read; by default that raises.
        """
        found: list[dict[str, Any]] = []
        for state in self.states():
            if not isinstance(state, KitaruError):
                # Those of a run that another called are its own here.
                found += [wait for wait in state["waits"] if wait["run"] == state["run"]]
            elif on_error is None:
                raise state
            else:
                on_error(state)
        return sorted(found, key=lambda wait: str(wait["asked"]))

    def watch(self) -> Watch:
        """Returns a watch on all runs: those that are not over, then what changes, without end."""
        from kitaru_fs.watching import Watch

        return Watch(self.runs_dir, self)

    # Making room

    def remove(self, run: Run) -> Path:
        """Moves a run to the trash; see `pruning.to_trash`."""
        from kitaru_fs.pruning import to_trash

        return to_trash(run)

    def prunable(self, before: datetime) -> Iterator[Run]:
        """Yields the runs that are over and were last moved before a time, the oldest first."""
        from kitaru_fs.pruning import may_go

        for name in reversed(self._ids()):
            run = Run(self.runs_dir / name, self)
            try:
                if may_go(run, before):
                    yield run
            except (KitaruError, OSError):
                # What cannot be read is not taken away.
                continue

    def collect(self, runs: Sequence[Run] | None = None, *, dry_run: bool = False) -> Collected:
        """Empties the trash and packs histories tightly; see `pruning.collect`.

        Args:
            runs: The runs whose histories are packed; all by default.
            dry_run: Only say what would go.
        """
        from kitaru_fs.pruning import collect

        return collect(self._all() if runs is None else runs, self.runs_dir, dry_run=dry_run)

    def _all(self) -> Iterator[Run]:
        for path in self.directories():
            yield Run(path, self)

    def directories(self) -> Iterator[Path]:
        """Yields the directories of all runs, newest first."""
        for name in self._ids():
            yield self.runs_dir / name

    def _ids(self) -> list[str]:
        try:
            with os.scandir(self.runs_dir) as listing:
                names = [entry.name for entry in listing if not entry.name.startswith(".")]
        except FileNotFoundError:
            return []
        base = os.fspath(self.runs_dir)
        names = [name for name in names if _is_run(f"{base}/{name}", name)]
        return sorted(names, key=self._age, reverse=True)

    def _age(self, name: str) -> str:
        """Returns what sorts runs by their age: their id, or what their id would begin with."""
        if is_run_id(name):
            return name
        created = Run(self.runs_dir / name, self).created
        return f"{created:%Y%m%d-%H%M%S}-{created.microsecond // 1000:03d}-{name}"

    def costs(
        self, by: By = "flow", *, since: datetime | None = None
    ) -> tuple[list[Spending], list[str]]:
        """Returns what the runs cost, the dearest first, and the ids of runs that cannot be read.

        Args:
            by: What it is summed by.
            since: Only runs created at or after this time.
        """
        from kitaru_fs.spending import sum_up

        items: list[tuple[str, Cost]] = []
        unread: list[str] = []
        for run in self.runs(since=since):
            try:
                items += run.cost_items(by)
            except KitaruError:
                unread.append(run.id)
        return sum_up(items), unread

    def _budget(self) -> Budget | None:
        from kitaru_fs.spending import Budget, Today

        limits = {
            name: limit
            for name in ("per_run", "per_day")
            if (limit := getattr(self.settings.limits, name)) is not None
        }
        if not limits:
            return None
        if self._today is None:
            self._today = Today(self._all)
        return Budget(limits, self._today.spent)

    def run(self, reference: str = "last") -> Run:
        """Returns one run.

        Args:
            reference: An id, any unique part of one, a directory, or `last`.

        Raises:
            NotFoundError: No run fits.
            AmbiguousError: More than one fits.
        """
        names = self._ids()
        if reference == "last":
            if not names:
                raise NotFoundError(
                    f"there is no run in {self.runs_dir}", hint="kitaru run TARGET starts one"
                )
            return Run(self.runs_dir / names[0], self)
        if reference in names:
            return Run(self.runs_dir / reference, self)
        if os.sep in reference or reference in (".", ".."):
            place = Path(reference).absolute()
            if (place / ".git").exists():
                return Run(place, self)
            raise NotFoundError(f"{place} is no run", hint="`kitaru runs` lists the runs")
        fits = [name for name in names if reference and reference in name]
        if len(fits) == 1:
            return Run(self.runs_dir / fits[0], self)
        if fits:
            shown = ", ".join(fits[:10]) + (" …" if len(fits) > 10 else "")
            raise AmbiguousError(
                f"{reference!r} fits {len(fits)} runs: {shown}", hint="give more of the id"
            )
        raise NotFoundError(
            f"no run fits {reference!r} in {self.runs_dir}", hint="`kitaru runs` lists the runs"
        )

    def checkup(self, *, repair: bool = False) -> list[Checkup]:
        """Looks at every run's directory, as `Run.checkup` does, and at what is left of others.

        Args:
            repair: Whether to put anything right; without it nothing is written.

        Raises:
            StorageError: The disk refused.
        """
        from kitaru_fs.rundir.checkup.halfmade import check_half_made

        found = [run.checkup(repair=repair) for run in self.runs()]
        return found + check_half_made(self.runs_dir, repair=repair)

    # Starting

    def load(self, target: str, *, cwd: Path | None = None) -> tuple[Runnable, Target]:
        """Returns the flow that a target names; a bare agent becomes a flow.

        Args:
            target: `path.py:name`, `module:name` or a bare flow name.
            cwd: Where relative paths begin too; the current directory by default.

        Raises:
            NotFoundError: There is none.
            AmbiguousError: More than one fits.
            UsageError: Its module cannot be imported.
        """
        from kitaru_fs.targets.launching import as_flow
        from kitaru_fs.targets.target import load_target

        found = load_target(self.path, target, cwd=cwd)
        return as_flow(found), found

    def create(
        self,
        flow: Runnable,
        recorded: Mapping[str, msgspec.Raw],
        *,
        files: Path | None = None,
        key: str | None = None,
        target: Target | None = None,
        detached: bool = False,
        code: Sequence[CodeFile] | None = None,
    ) -> Path:
        """Makes a run's directory with its first commit; nothing is executed yet.

        Args:
            flow: The flow.
            recorded: Its arguments as JSON, by name (`signatures.bind_input` makes them).
            files: A directory that is copied into `files/`.
            key: An idempotency key.
            target: What finds the flow again; found from the flow by default.
            detached: A supervisor is to start it.
            code: The modules that run, where they were read already.

        Returns:
            The run's directory; with a `key`, that of the run that has it already.

        Raises:
            UsageError: `files` is no directory that can be copied.
            StorageError: The disk refused; nothing is left behind.
        """
        return self.create_once(
            flow, recorded, files=files, key=key, target=target, detached=detached, code=code
        )[0]

    def create_once(
        self,
        flow: Runnable,
        recorded: Mapping[str, msgspec.Raw],
        *,
        files: Path | None = None,
        key: str | None = None,
        target: Target | None = None,
        detached: bool = False,
        code: Sequence[CodeFile] | None = None,
    ) -> tuple[Path, bool]:
        """Makes a run as `create` does; says also whether it is new."""
        from kitaru_fs.starting import make_once
        from kitaru_fs.targets.target import target_of

        target = target or target_of(self.path, flow)
        key = mask_text(self.credentials.finder(), key) if key is not None else None
        request = Request(
            run=new_run_id(flow.name),
            flow=flow.name,
            target=target.spec,
            created=stamp(),
            version=__version__,
            input={name: msgspec.json.decode(raw) for name, raw in recorded.items()},
            key=key,
            detached=detached,
        )
        return make_once(self, request, target, files, code)

    @property
    def credentials(self) -> Credentials:
        """What is kept out of the history of its runs, by `[redact]`."""
        redact = self.settings.redact
        return shared_credentials(tuple(redact.env), tuple(redact.patterns))

    def find_key(self, key: str) -> Run | None:
        """Returns the run that was started with an idempotency key."""
        from kitaru_fs.starting import with_key

        found = with_key(self, mask_text(self.credentials.finder(), key))
        return Run(found, self) if found is not None else None

    def options(
        self,
        *,
        purpose: str,
        target: Runnable | Target | None = None,
        keep_files: bool = False,
        unmoved: bool = False,
        identity: tuple[str, str] | None = None,
        listener: Listener | None = None,
        code: Sequence[CodeFile] | None = None,
        on_open: Callable[[DrivenRun], None] | None = None,
        unpause: bool = False,
    ) -> Options:
        """Returns how runs of this workspace are driven.

        Args:
            purpose: `run` or `resume`, as others are told.
            target: What runs; its modules are recorded under `code/`.
            keep_files: After a crash, commit what is on disk as the human's edit.
            unmoved: Refuse a run whose HEAD or files a human moved since it was left.
            identity: The human's name and address, for their edits.
            listener: Told what happens.
            code: The modules that run, instead of the target's.
            on_open: Called when the run was taken up, before the flow runs.
            unpause: Taking the run up ends its pause.
        """
        if code is None and target is not None:
            from kitaru_fs.targets.launching import read_code
            from kitaru_fs.targets.target import Target, target_of

            found = target if isinstance(target, Target) else target_of(self.path, target)
            code = read_code(found)
        return Options(
            exclude=Exclude(self.settings.files.exclude),
            max_file=self.settings.files.max_file,
            watch=self.settings.files.scan == "auto",
            durable=self.settings.durability == "fsync",
            keep_files=keep_files,
            unmoved=unmoved,
            identity=identity,
            code=code or (),
            listener=listener,
            purpose=purpose,
            on_open=on_open,
            credentials=self.credentials,
            models=self.settings.models,
            budget=self._budget(),
            linger=self.settings.linger,
            find_identity=_find_identity,
            unpause=unpause,
        )


def _find_identity() -> tuple[str, str] | None:
    from kitaru_fs.git.safe import user_identity

    return user_identity(os.environ)


def _is_run(place: str, name: str) -> bool:
    """Says whether a directory is a run's."""
    for part in ("run.json", ".git"):
        try:
            os.stat(f"{place}/{part}")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            # One that an agent closed is still a run: `kitaru doctor` opens it.
            return is_run_id(name)
        return True
    return False
