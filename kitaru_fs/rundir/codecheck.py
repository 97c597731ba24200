"""Whether the code that a run recorded can be run again."""

from __future__ import annotations

from kitaru_fs.errors import ConflictError
from kitaru_fs.redaction.placeholders import names_in
from kitaru_fs.rundir.repository import Point, Repository, leaves
from kitaru_fs.rundir.showing import find_wrong

__all__ = ["check_recorded_code"]


def check_recorded_code(repository: Repository, point: Point) -> None:
    """Checks that `code/` is as a commit has it, and whole.

    Raises:
        ConflictError: It was changed, or a secret was taken out of it.
    """
    code = point.root.get(b"code")
    if code is None:
        return
    wrong = find_wrong(repository, {b"code": code})
    if wrong:
        raise ConflictError(
            f"{wrong[0]} is not what run {repository.path.name} recorded, so it is not run",
            hint="`kitaru doctor` puts it right and keeps what is there now",
        )
    for path, entry in leaves(repository.store, b"code", code):
        text = repository.store.read(entry.sha, "blob").decode("utf-8", "replace")
        names = names_in(text)
        if names:
            line = text.count("\n", 0, text.index("{kitaru:secret:")) + 1
            raise ConflictError(
                f"a secret ({names[0]}) was taken out of the recorded code, so it cannot be run:"
                f" {path.decode('utf-8', 'replace')}:{line}",
                hint="resume with the workspace's code; have the code read secrets from the"
                " environment",
            )
