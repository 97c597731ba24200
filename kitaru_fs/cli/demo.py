"""`kitaru demo`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("demo")
@click.argument("directory", metavar="[DIR]", default="kitaru-demo", type=click.Path())
def command(directory: str) -> None:
    """Take a guided tour in DIR, by default ./kitaru-demo.

    A coding agent repairs a project; it is killed, resumed, bisected and rewound. It needs no key
    and no network.
    """
    from kitaru_fs.demo import Tour

    def say(line: str) -> None:
        click.echo(click.style(line, bold=line.startswith(("==", "$"))))

    def show(line: str) -> None:
        click.echo(click.style(f"  {line}", dim=True))

    Tour(Path(directory).expanduser().absolute(), say, show).go()
