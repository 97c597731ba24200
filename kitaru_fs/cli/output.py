"""Results to stdout, hints to stderr; what a run holds reaches a terminal printable."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import click

from kitaru_fs.quoting import printable

__all__ = [
    "printable_lines",
    "result",
    "result_bytes",
    "result_json",
    "result_json_list",
    "result_rows",
    "result_table",
    "say",
]


# A table that is longer is written as it comes, by the widths of so many rows.
_FIRST_ROWS = 100


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


def result_json_list(values: Iterable[Any]) -> None:
    """Writes values to stdout as one list, as `result_json` does, each as soon as it is there."""
    if sys.stdout.isatty():
        result_json(list(values))
        return
    sys.stdout.flush()
    opened = False
    for value in values:
        text = json.dumps(value, indent=2, ensure_ascii=False).replace("\n", "\n  ")
        sys.stdout.buffer.write(b",\n  " if opened else b"[\n  ")
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
        opened = True
    sys.stdout.buffer.write(b"\n]\n" if opened else b"[]\n")
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
    padded = [*styles, *[""] * (len(rows) - len(styles))]
    result_rows(columns, zip(rows, padded, strict=True), drawn=True)


def result_rows(
    columns: Sequence[str], rows: Iterable[tuple[Sequence[str], str]], *, drawn: bool = False
) -> None:
    """Writes a table to stdout, its first rows before the last ones are there.

    Args:
        columns: As for `result_table`.
        rows: The cells and the style of each.
        drawn: On a terminal, draw it however long it is.
    """
    source = iter(rows)
    first = list(source if drawn else islice(source, _FIRST_ROWS))
    if not first:
        return
    cells = [[printable(cell) for cell in row] for row, _ in first]
    if sys.stdout.isatty() and (drawn or len(first) < _FIRST_ROWS):
        _draw(columns, cells, [style for _, style in first])
        return
    # What comes later and is wider stands out; nobody waits for it.
    widths = [
        max(map(len, (column.strip(), *(row[number] for row in cells))))
        for number, column in enumerate(columns)
    ]
    numbers = [column.startswith(" ") for column in columns]
    out = sys.stdout
    head = [column.strip() for column in columns]
    out.writelines(_aligned(row, widths, numbers) for row in (head, *cells))
    out.flush()
    out.writelines(_aligned(map(printable, row), widths, numbers) for row, _ in source)


def _aligned(row: Iterable[str], widths: Sequence[int], numbers: Sequence[bool]) -> str:
    parts = [
        cell.rjust(width) if number else cell.ljust(width)
        for cell, width, number in zip(row, widths, numbers, strict=True)
    ]
    return "  ".join(parts).rstrip() + "\n"


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
