"""The program: its commands, loaded when they are used, and how it ends."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from kitaru_fs import __version__
from kitaru_fs.errors import KitaruError

__all__ = ["COMMANDS", "program", "run_program"]

# name: (its module, one line for `kitaru --help`); the module's `command` is the command.
COMMANDS = {
    "init": ("init", "Make a workspace."),
    "demo": ("demo", "A guided tour that needs no key and no network."),
    "run": ("run", "Start a run of a flow or an agent."),
    "resume": ("resume", "Go on from where a run stands."),
    "up": ("up", "Supervise the workspace: start, take up and wake its runs."),
    "watch": ("watch", "Show what happens to runs, as it does."),
    "runs": ("runs", "List the runs, newest first."),
    "status": ("status", "Show one run."),
    "path": ("path", "Print a run's directory."),
    "log": ("log", "List a run's entries."),
    "show": ("show", "Show one entry, with what it changed."),
    "diff": ("diff", "Show how the files differ between two steps."),
    "cost": ("cost", "Sum up what runs cost."),
    "logs": ("logs", "Show what a run printed."),
    "rewind": ("rewind", "Go back to a step, on a new branch."),
    "undo": ("undo", "Take the last rewind, edit, answer or cancel back."),
    "redo": ("redo", "Do again what undo took back."),
    "fork": ("fork", "Make a new run out of a step of another."),
    "export": ("export", "Get the files of a step out, or a patch."),
    "answer": ("answer", "Reply to what a run waits for."),
    "waits": ("waits", "List what all runs wait to be answered."),
    "send": ("send", "Send a run a message."),
    "pause": ("pause", "Stop a run after its current step."),
    "cancel": ("cancel", "End a run for good."),
    "rm": ("rm", "Move a run to the trash."),
    "prune": ("prune", "Move old runs to the trash."),
    "gc": ("gc", "Make room: drop the trash, pack histories tightly."),
    "doctor": ("doctor", "Find damage and tampering, and repair it."),
    "scrub": ("scrub", "Make a copy of a run without secrets."),
    "git": ("git", "Run git on a run, safely."),
    "completion": ("completion", "Print the script for completion in your shell."),
}


class Program(click.Group):
    """The group of all commands; a command's module is imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = import_module(f"kitaru_fs.cli.{COMMANDS[cmd_name][0]}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            from kitaru_fs.cli.problems import UnknownCommand

            raise UnknownCommand(name, COMMANDS, ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--workspace",
    metavar="DIR",
    type=click.Path(),
    help="The workspace; by default KITARU_WORKSPACE, or the one that this directory lies in.",
)
@click.version_option(__version__, message="kitaru-fs %(version)s")
@click.pass_context
def program(context: click.Context, workspace: str | None) -> None:
    """Durable runs for AI agents: every run a directory, every step a git commit.

    RUN is a run's id, any unique part of one, a directory, or `last`; inside a run's directory it
    may be left out. AT is RUN@STEP, or @STEP inside a run; STEP is a number, a name that occurs
    once, NAME#K (the K-th so named), or a commit.

    Exit status: 0 done, 1 the flow failed, 2 wrong use, 3 waiting, 4 another process holds the
    run, 5 divergence, 130 interrupted.
    """
    from kitaru_fs.cli.place import Place

    context.obj = Place(workspace)
    if "NO_COLOR" in os.environ:
        context.color = False


def run_program(args: Sequence[str]) -> NoReturn:
    """Runs a command and ends the process."""
    words = list(args)
    _prepare_streams()
    _complete(words)
    status = _guarded(words)
    status = _flush(status)
    if status == 130 and any(
        thread is not threading.main_thread() and not thread.daemon
        for thread in threading.enumerate()
    ):
        # The run is at rest; a step's thread that goes on must not keep the process.
        os._exit(status)
    sys.exit(status)


def _name() -> str:
    return "kitaru-fs" if os.path.basename(sys.argv[0]) == "kitaru-fs" else "kitaru"


def _prepare_streams() -> None:
    for descriptor in range(3):
        # Closed by who started us: no file of ours may become the standard output.
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A name in odd bytes must not be able to end a command.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _complete(words: list[str]) -> None:
    variable = f"_{_name()}_COMPLETE".replace("-", "_").upper()
    instruction = os.environ.get(variable)
    if instruction:
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(program, {}, _name(), variable, instruction))


def _guarded(words: list[str]) -> int:
    own = words[: words.index("--")] if "--" in words else words
    as_json = "--json" in own
    try:
        with program.make_context(_name(), words) as context:
            result: Any = program.invoke(context)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        sys.stderr.write("\nkitaru: interrupted\n")
        return 130
    except BrokenPipeError:
        return 0  # who read has seen enough
    except Exception as error:
        return _show(error, as_json=as_json)


def _show(error: Exception, *, as_json: bool) -> int:
    from kitaru_fs.cli import problems

    if isinstance(error, KitaruError):
        return problems.show(error, as_json=as_json)
    if isinstance(error, click.ClickException):
        return problems.show_wrong_use(error, as_json=as_json)
    if isinstance(error, OSError) and error.filename is None and not _works(sys.stdout):
        return problems.show_unwritable(error)
    return problems.show_bug(error, as_json=as_json)


def _works(stream: Any) -> bool:
    try:
        stream.flush()
    except (OSError, ValueError):
        return False
    return True


def _flush(status: int) -> int:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            _discard(stream)
        except OSError as error:
            _discard(stream)
            if stream is sys.stdout:
                from kitaru_fs.cli.problems import show_unwritable

                status = status or show_unwritable(error)
        except (ValueError, AttributeError):
            pass  # closed from the start
    return status


def _discard(stream: Any) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
