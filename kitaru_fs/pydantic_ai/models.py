"""Names for models: those of `[models]` in `kitaru.toml`, and what Pydantic AI calls them."""

from __future__ import annotations

from kitaru_fs.engine.context import current_execution
from kitaru_fs.errors import NotFoundError

__all__ = ["alias_of"]


def alias_of(name: str) -> str | None:
    """Returns the model that a name of the user's stands for; None if it is no such name.

    In a flow the settings of its workspace count, elsewhere those of the workspace that the current
    directory lies in, if there is one.
    """
    execution = current_execution()
    if execution is not None:
        return execution.options.models.get(name)
    from kitaru_fs.workspace import Workspace

    try:
        return Workspace.current().settings.models.get(name)
    except NotFoundError:
        return None
