"""A first flow: three steps that look at this machine, write a letter and check it.

    kitaru run hello name=Ada
    kitaru log last

Each `@step` becomes one commit of the run: what it returned, and what it did to `files/`.
"""

import platform
from datetime import UTC, datetime

from kitaru_fs import files, flow, step


@step
async def look_around() -> dict[str, str]:
    """Facts that may differ next time: a resumed run keeps those of its first execution."""
    return {
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@step
async def write_letter(name: str, facts: dict[str, str]) -> str:
    """Writes `letter.md` into the run's working directory and returns its name."""
    lines = [f"# Hello, {name}", "", *(f"- {key}: {value}" for key, value in facts.items())]
    letter = files() / "letter.md"
    letter.write_text("\n".join(lines) + "\n")
    return letter.name


@step(retries=2)
async def check(letter: str) -> int:
    """Counts the words of the letter; raise here to see a failed attempt in the log."""
    return len((files() / letter).read_text().split())


@flow
async def hello(name: str = "world") -> str:
    """Write a letter to NAME."""
    facts = await look_around()
    letter = await write_letter(name, facts)
    words = await check(letter)
    return f"{letter}: {words} words for {name}"
