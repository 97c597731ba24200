"""Reading what a run waits for: its open questions, times, topics and child runs.

The trailer `Kitaru-Open` of the last commit names the steps that asked, so the length of the
journal does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from kitaru_fs.clock import parse_stamp
from kitaru_fs.entry import Entry, parse_open, parse_trailers
from kitaru_fs.rundir.arrivals import asked_of, is_question
from kitaru_fs.rundir.history import OpenRun
from kitaru_fs.rundir.repository import TIPS

__all__ = ["Offer", "Openings", "offers", "openings"]


class Openings(NamedTuple):
    """What a run waits for where HEAD stands.

    Attributes:
        questions: What waits for a reply.
        topics: The topics that messages are waited for on, and the schemas of those that do.
        until: When the first time is over that something waits for, or until.
        children: The child runs that have not ended.
    """

    questions: list[Entry]
    topics: dict[str, list[Any]]
    until: datetime | None
    children: list[str]


class Offer(NamedTuple):
    """A reply to the same question, as it was asked on another branch.

    Attributes:
        value: The reply, as JSON decodes it.
        by: Who replied.
        branch: Where.
        step: The step that holds it.
    """

    value: Any
    by: str
    branch: str
    step: int


def openings(opened: OpenRun) -> Openings:
    """Returns what a run waits for; of one that has ended, nothing."""
    journal = opened.repository.journal(opened.point)
    entries = [journal.read(step) for step in parse_open(opened.point.trailers)]
    topics: dict[str, list[Any]] = {}
    for entry in entries:
        if (topic := asked_of(entry).get("topic")) is not None:
            topics.setdefault(topic, []).append(asked_of(entry).get("schema"))
    until = [asked_of(entry).get("until") for entry in entries]
    times = [parse_stamp(text) for text in until if isinstance(text, str)]
    return Openings(
        [entry for entry in entries if is_question(entry)],
        topics,
        min(times, default=None),
        [entry.child for entry in entries if entry.child is not None],
    )


def offers(opened: OpenRun, question: Entry) -> list[Offer]:
    """Returns what was replied to a question on other branches, the newest first.

    Such a reply counts for nothing where the question is asked anew, but may be given again.
    """
    repository = opened.repository
    tips = {
        name.removeprefix(TIPS): sha
        for name, sha in repository.refs.all(TIPS).items()
        if sha != opened.head
    }
    found: list[Offer] = []
    for sha in _elsewhere(opened, tips.values()) if tips else ():
        commit = repository.read_commit(sha)
        trailers = parse_trailers(commit.message)
        if trailers.get("Kitaru-Key") != question.key:
            continue
        if trailers.get("Kitaru-Kind") != "reply":
            continue
        point = repository.point(sha)
        journal = repository.journal(point)
        entry = journal.read(point.step)
        if entry.status != "ok":
            continue
        by = commit.author.partition(b" <")[0].decode("utf-8", "replace")
        branch = _branch_of(opened, tips, point.sha)
        found.append(Offer(msgspec.json.decode(journal.output(entry)), by, branch, entry.step))
    return found


def _elsewhere(opened: OpenRun, tips: Iterable[bytes]) -> list[bytes]:
    """Returns the commits that tips have and HEAD has not; of what git sees, replies alone."""
    own, base = _unseen(opened, opened.head)
    found: dict[bytes, None] = {}
    bases: list[str] = []
    for tip in tips:
        newest, seen = _unseen(opened, tip)
        found.update(dict.fromkeys(newest))
        if seen is not None:
            bases.append(seen.hex())
    if bases:
        words = ["log", "--format=%H", "--grep=^Kitaru-Kind: reply$", *bases]
        listed = opened.repository.git.run(*words, *(["--not", base.hex()] if base else []))
        found.update(dict.fromkeys(map(bytes.fromhex, listed.decode("ascii").split())))
    return [sha for sha in found if sha not in own]


def _unseen(opened: OpenRun, tip: bytes) -> tuple[list[bytes], bytes | None]:
    """Returns the commits from a tip back that git may not see, and the first that it does see."""
    found: list[bytes] = []
    for sha in opened.repository.ancestors(tip):
        if not opened.repository.store.is_near(sha):
            return found, sha
        found.append(sha)
    return found, None


def _branch_of(opened: OpenRun, tips: Mapping[str, bytes], commit: bytes) -> str:
    for branch, tip in sorted(tips.items()):
        if commit in opened.repository.ancestors(tip):
            return branch
    return ""
