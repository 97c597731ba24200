"""Results to stdout, hints to stderr; what a run holds reaches a terminal printable."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from kitaru_fs.quoting import printable

__all__ = [
    "printable_lines",
    "result",
    "result_bytes",
    "result_json",
    "result_table",
    "say",
]


def result(text: str) -> None:
    """Writes a text and a newline to stdout; made printable where that is a terminal."""
    # Not by `click.echo`: into a pipe the text goes as it is, escapes and all.
    sys.stdout.write((printable_lines(text) if sys.stdout.isatty() else text) + "\n")


def result_bytes(data: bytes) -> None:
    """Writes bytes to stdout; made printable where that is a terminal."""
    if sys.stdout.isatty():
        click.echo(printable_lines(data.decode("utf-8", "replace")), nl=False)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def result_json(value: Any) -> None:
    """Writes a value to stdout as indented JSON, in UTF-8 wherever it goes."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    if sys.stdout.isatty():
        click.echo(printable_lines(text), nl=False)
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
    sys.stdout.buffer.flush()


def say(text: str = "") -> None:
    """Writes a line to stderr; that nobody reads there is no error."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def printable_lines(text: str) -> str:
    """A text of several lines, each made printable; its indentation stays."""
    return "\n".join(printable(line.expandtabs()) for line in text.split("\n"))


def result_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, styles: Sequence[str] = ()
) -> None:
    """Writes a table to stdout: drawn to fit a terminal, else plain aligned text.

    Args:
        columns: The headings.
        rows: The cells, as text; a column whose heading starts with a space is of numbers.
        styles: A style for each row, on a terminal.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw(columns, cells, styles)
        return
    widths = [
        max(map(len, (column.strip(), *(row[number] for row in cells))))
        for number, column in enumerate(columns)
    ]
    for row in ([column.strip() for column in columns], *cells):
        parts = [
            cell.rjust(width) if column.startswith(" ") else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        click.echo("  ".join(parts).rstrip())


def _draw(columns: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        numbers = column.startswith(" ")
        table.add_column(column.strip(), justify="right" if numbers else "left", overflow="fold")
    for number, row in enumerate(rows):
        style = styles[number] if number < len(styles) else ""
        table.add_row(*(Text(cell, style=style) for cell in row))
    Console(highlight=False).print(table)
