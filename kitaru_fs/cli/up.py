"""`kitaru up`."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import click

from kitaru_fs.cli.options import pass_place
from kitaru_fs.cli.output import say
from kitaru_fs.cli.place import Place
from kitaru_fs.quoting import printable

if TYPE_CHECKING:
    from kitaru_fs.supervisor.supervisor import Happened, Supervisor

_STYLES = {"held": "yellow", "backoff": "yellow", "damaged": "red"}


@click.command("up")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="At most N runs at a time, instead of [limits] concurrency.",
)
@click.option("--once", is_flag=True, help="End when nothing can go on; for cron.")
@pass_place
def command(place: Place, concurrency: int | None, once: bool) -> int:
    """Supervise the workspace: start what is queued, take up what died, wake what waits.

    Each run has a process of its own. SIGTERM, or Ctrl-C, lets steps in flight finish ([up] grace)
    and leaves the rest to the next supervisor; a second one stops them, a third kills them. A run
    that a human moved, or that keeps dying, is left alone until `kitaru resume`.
    """
    from kitaru_fs.errors import HeldError
    from kitaru_fs.git.safe import check_git_version
    from kitaru_fs.supervisor.supervisor import Supervisor
    from kitaru_fs.workspace import Workspace

    check_git_version()
    path = place.workspace().path
    overrides = {"limits.concurrency": concurrency}
    workspace = Workspace(path, overrides=overrides)
    supervisor = Supervisor(workspace, overrides=overrides, once=once, listener=_tell)
    limit = workspace.settings.limits.concurrency
    say(f"supervising {path}, {limit} runs at a time" + ("" if once else "; Ctrl-C stops"))
    try:
        with _stopped_by_signals(supervisor):
            supervisor.run()
    except HeldError as error:
        if not once:
            raise
        say(error.message)  # what was to be done is being done
    return 0


def _tell(event: Happened) -> None:
    from kitaru_fs.clock import stamp

    mark = click.style(event.kind, fg=_STYLES.get(event.kind))
    words = [stamp(), mark, event.run, printable(event.text, 500)]
    say(" ".join(filter(None, words)))


@contextmanager
def _stopped_by_signals(supervisor: Supervisor) -> Generator[None]:
    def stop(_: int, __: FrameType | None) -> None:
        supervisor.stop()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number, handler in before.items():
            # Ignored by who started us (`nohup`): it stays so.
            if handler is not signal.SIG_IGN:
                signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
