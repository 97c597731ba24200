r"""What stands in the place of a secret: `{kitaru:secret:NAME}` or `{kitaru:secret:NAME:FORM}`.

NAME is the variable that holds a credential, or, for a token that only its shape gave away, its
kind and a number (`github-token-1`) in the run's vault. FORM is the spelling (see `forms`).

A text that has `{kitaru:secret:` in it already, written by an agent or read from somewhere, gets
`{kitaru:secret:}` for it: the placeholder with no name is those characters themselves. So in what
is committed every opener is ours, and no text can pass for a placeholder.
"""

from __future__ import annotations

import re
from collections.abc import Callable

__all__ = ["ESCAPED", "OPENER", "names_in", "placeholder", "replace_placeholders"]

OPENER = "{kitaru:secret:"
ESCAPED = OPENER + "}"
_PLACEHOLDER = re.compile(re.escape(OPENER) + r"(?:([A-Za-z0-9_.-]+)(?::([a-z0-9-]+))?)?\}")


def placeholder(name: str, form: str = "") -> str:
    """Returns the placeholder for a secret."""
    return f"{OPENER}{name}:{form}}}" if form else f"{OPENER}{name}}}"


def names_in(text: str) -> list[str]:
    """Returns the names of the placeholders in a text."""
    return [match[1] for match in _PLACEHOLDER.finditer(text) if match[1]]


def replace_placeholders(text: str, value_of: Callable[[str, str], str]) -> str:
    """Puts values in the place of placeholders, and takes the escaping back.

    Args:
        text: The text.
        value_of: Returns the text for a name and a form.
    """

    def value(match: re.Match[str]) -> str:
        return value_of(match[1], match[2] or "") if match[1] else OPENER

    return _PLACEHOLDER.sub(value, text)
