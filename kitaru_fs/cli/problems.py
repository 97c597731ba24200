"""Showing an error: a sentence and a way out for people, an object for programs. Never a traceback
of ours, except where KITARU_DEBUG=1 asks for it."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterable
from difflib import get_close_matches

import click

from kitaru_fs.cli.output import printable_lines, say
from kitaru_fs.errors import KitaruError

__all__ = [
    "UnknownCommand",
    "show",
    "show_bug",
    "show_error",
    "show_unwritable",
    "show_wrong_use",
]


class UnknownCommand(click.UsageError):
    """A command that does not exist."""

    def __init__(self, name: str, known: Iterable[str], context: click.Context) -> None:
        super().__init__(f"there is no command {name!r}", context)
        near = get_close_matches(name, known, n=3, cutoff=0.5)
        self.hint = f"Did you mean {' or '.join(near)}?" if near else "kitaru --help lists them"


def show(error: KitaruError, *, as_json: bool) -> int:
    """Shows an error of ours; returns the exit status."""
    show_error(type(error).__name__, error.message, error.hint, as_json=as_json)
    _debug(error)
    return error.exit_status


def show_error(kind: str, message: str, hint: str, *, as_json: bool) -> None:
    """Writes an error to stderr.

    Args:
        kind: Its type's name.
        message: One sentence.
        hint: What to do next; may be empty, may have lines.
        as_json: Write an object.
    """
    if as_json:
        error = {"type": kind, "message": message, "hint": hint}
        say(json.dumps({"error": error}))
        return
    say(click.style("kitaru:", fg="red", bold=True) + " " + printable_lines(message))
    for line in printable_lines(hint).splitlines():
        say(f"  {line}")


def show_wrong_use(error: click.ClickException, *, as_json: bool) -> int:
    """Shows what click found wrong with the command line; returns the exit status."""
    message = " ".join(error.format_message().split()).rstrip(".")
    hint = ""
    if isinstance(error, UnknownCommand):
        hint = error.hint
    elif isinstance(error, click.NoSuchOption) and error.option_name == "--workspace":
        hint = "it goes before the command: kitaru --workspace DIR COMMAND"
    elif isinstance(error, click.UsageError) and error.ctx is not None:
        hint = f"{error.ctx.command_path} --help"
    show_error("UsageError", message, hint, as_json=as_json)
    return 2


def show_unwritable(error: OSError) -> int:
    """Says that the standard output refused; returns the exit status."""
    show_error(
        "StorageError", f"the output could not be written: {error.strerror}", "", as_json=False
    )
    return 1


def show_bug(error: BaseException, *, as_json: bool) -> int:
    """Says that an error is a fault of ours; returns the exit status."""
    hint = "please report it, with what you did and what KITARU_DEBUG=1 shows"
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    show_error("InternalError", f"this is a bug in kitaru-fs: {what}", hint, as_json=as_json)
    _debug(error)
    return 1


def _debug(error: BaseException) -> None:
    if os.environ.get("KITARU_DEBUG") == "1":
        traceback.print_exception(error, file=sys.stderr)
