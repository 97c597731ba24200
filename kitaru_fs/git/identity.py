"""Who the user is, for the commits that are theirs."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Mapping

from kitaru_fs.git.program import check_git_version, clean_path, find_git
from kitaru_fs.quoting import printable

__all__ = ["user_identity"]


def user_identity(environ: Mapping[str, str]) -> tuple[str, str] | None:
    """The user's name and address, to author their own edits and replies.

    They come from the user's global git config; where that has none, from their login name.
    `GIT_*` variables are not asked.

    Args:
        environ: The user's environment, for `HOME`, `XDG_CONFIG_HOME` and `PATH`.

    Returns:
        Name and address, fit for a commit; None where not even a login name is known.

    Raises:
        GitError: git is missing or too old.
    """
    path = clean_path(environ)
    check_git_version(path)
    kept = ("HOME", "XDG_CONFIG_HOME")
    environment = {"PATH": path, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
    environment |= {name: environ[name] for name in kept if name in environ}
    wanted = ("--get-regexp", r"^user\.(name|email)$")
    listed = subprocess.run(
        [find_git(path), "config", "--global", "--includes", "-z", *wanted],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd="/",
        check=False,
    ).stdout.decode("utf-8", "replace")
    found = dict(item.split("\n", 1) for item in listed.split("\0") if "\n" in item)
    name, email = (_identity_part(found.get(key, "")) for key in ("user.name", "user.email"))
    login = _identity_part(_login_name(environ))
    if not name and not login:
        return None
    return name or login, email or f"{login or 'unknown'}@localhost"


def _login_name(environ: Mapping[str, str]) -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return environ.get("LOGNAME") or environ.get("USER") or ""


def _identity_part(text: str) -> str:
    words = re.sub(r"[<>]", "", printable(text, 200)).split()
    return " ".join(words).strip(" .,:;\"'\\")
