"""What the shell completes: runs, steps, flows. No user code is imported, no error is shown."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager

import click
from click.shell_completion import CompletionItem

from kitaru_fs.cli.place import Place
from kitaru_fs.errors import KitaruError

__all__ = ["complete_ats", "complete_runs", "complete_targets"]

_MOST = 100


def complete_runs(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Completes RUN."""
    with _quietly():
        return [CompletionItem(name) for name in _run_ids(context) if incomplete in name][:_MOST]
    return []


def complete_ats(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Completes AT: a run, then, after the `@`, a step."""
    reference, at, step = incomplete.rpartition("@")
    if not at:
        return complete_runs(context, parameter, incomplete)
    with _quietly():
        run = _place(context).find_run(reference or None, quiet=True)
        lines = [line for line in run.log() if line.step is not None]
        names = [line.name for line in lines]
        steps = [
            (line.name if names.count(line.name) == 1 else str(line.step), line.subject)
            for line in lines
        ]
        return [
            CompletionItem(f"{reference}@{name}", help=subject)
            for name, subject in steps
            if name.startswith(step)
        ][-_MOST:]
    return []


def complete_targets(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Completes TARGET with the flows and agents that are declared under `agents/`."""
    from kitaru_fs.targets.target import declared_flows

    with _quietly():
        root = _place(context).workspace().path
        declared = declared_flows(root)
        names = [one.name for one in declared]
        items: list[CompletionItem] = []
        for one in declared:
            full = f"{one.file.relative_to(root).as_posix()}:{one.attribute}"
            target = one.name if names.count(one.name) == 1 else full
            if target.startswith(incomplete):
                items.append(CompletionItem(target, help=full))
        return items
    return []


@contextmanager
def _quietly() -> Generator[None]:
    # A message in the middle of somebody's command line would help nobody.
    try:
        yield
    except (KitaruError, OSError):
        return


def _place(context: click.Context) -> Place:
    # While completing, the group's own function has not run.
    return Place(context.find_root().params.get("workspace"))


def _run_ids(context: click.Context) -> list[str]:
    runs = _place(context).workspace().runs_dir
    return sorted((name for name in os.listdir(runs) if not name.startswith(".")), reverse=True)
