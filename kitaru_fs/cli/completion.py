"""`kitaru completion`."""

from __future__ import annotations

import click

# bash takes an @ for the end of a word, and so would never complete RUN@STEP.
_BASH_WORDS = "COMP_WORDBREAKS=${COMP_WORDBREAKS//@}\n"


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the script that completes commands, runs, steps and flows in SHELL.

    \b
    bash:  kitaru completion bash >> ~/.bashrc
    zsh:   kitaru completion zsh >> ~/.zshrc
    fish:  kitaru completion fish > ~/.config/fish/completions/kitaru.fish
    """
    from click.shell_completion import get_completion_class

    root = context.find_root()
    name = root.info_name or "kitaru"
    variable = f"_{name}_COMPLETE".replace("-", "_").upper()
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(root.command, {}, name, variable).source()
    click.echo(script + (_BASH_WORDS if shell == "bash" else ""))
