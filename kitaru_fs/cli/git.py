"""`kitaru git`."""

from __future__ import annotations

import os
import shlex

import click

from kitaru_fs.cli.completing import complete_runs
from kitaru_fs.cli.options import pass_place
from kitaru_fs.cli.output import say
from kitaru_fs.cli.place import Place
from kitaru_fs.errors import HeldError, StorageError, UsageError

# They move HEAD or branches, or drop objects, under a process that adds commits.
_NOT_WHILE_HELD = frozenset(
    {
        *("am", "apply", "checkout", "cherry-pick", "clean", "commit", "filter-branch", "gc"),
        *("merge", "mv", "prune", "pull", "read-tree", "rebase", "repack", "replace", "reset"),
        *("restore", "revert", "rm", "stash", "switch", "symbolic-ref", "update-index"),
        *("update-ref", "worktree"),
    }
)


class _GitCommand(click.Command):
    """Everything after the first `--` is git's, a `--help` too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            place = args.index("--")
            ctx.meta["git"] = args[place + 1 :]
            args = args[:place]
        return super().parse_args(ctx, args)


@click.command("git", cls=_GitCommand, options_metavar="")
@click.argument("run", required=False, metavar="[RUN] -- ARGS", shell_complete=complete_runs)
@click.argument("more", nargs=-1, metavar="")
@pass_place
@click.pass_context
def command(context: click.Context, place: Place, run: str | None, more: tuple[str, ...]) -> int:
    """Run git on RUN: no hooks, filters, aliases or config of anybody's but ours.

      kitaru git last -- log --oneline --graph --all

    In a stopped run `checkout COMMIT`, then `kitaru resume`, rewinds it.
    """
    args: list[str] | None = context.meta.get("git")
    if args is None or more:
        words = ["kitaru", "git", *filter(None, [run]), "--", *more]
        raise UsageError(
            "git's own arguments come after --", hint=shlex.join(words if more else [*words, "log"])
        )
    from kitaru_fs.git import config as gitconfig
    from kitaru_fs.git.layout import check_layout
    from kitaru_fs.git.safe import Git, user_identity
    from kitaru_fs.holding.lock import RunLock, read_holder

    found = place.find_run(run, quiet=True)
    git_dir = found.path / ".git"
    check_layout(git_dir)
    holder = read_holder(git_dir)
    held = holder is not None and holder.alive is True
    subcommand = next((word for word in args if not word.startswith("-")), "")
    if held and holder is not None and subcommand in _NOT_WHILE_HELD:
        raise HeldError(
            f"process {holder.pid} on {holder.host} drives the run {found.id},"
            f" so git {subcommand} would pull it from under its feet",
            hint=f"stop it first (Ctrl-C where it runs, or kill {holder.pid}); nothing was changed",
        )
    if not held and not gitconfig.is_canonical(git_dir):
        try:
            with RunLock.acquire(git_dir, "git"):
                for tampered in gitconfig.ensure_canonical(git_dir):
                    say(str(tampered))
        except (HeldError, StorageError):
            pass  # just taken up, or read-only: git works with a clean copy of the config
    return Git(git_dir, found.path).interactive(args, identity=user_identity(os.environ))
