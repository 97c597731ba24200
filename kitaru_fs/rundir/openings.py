"""Reading what a run waits for: its open questions, times, topics and child runs.

The trailer `Kitaru-Open` of the last commit names the steps that asked, so the length of the
journal does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    if not tips:
        return []
    listed = repository.git.run(
        "log",
        "--format=%H",
        "--grep=^Kitaru-Kind: reply$",
        *[sha.hex() for sha in tips.values()],
        "--not",
        opened.head.hex(),
    )
    found: list[Offer] = []
    for line in listed.decode("ascii").split():
        commit = repository.read_commit(bytes.fromhex(line))
        trailers = parse_trailers(commit.message)
        if trailers.get("Kitaru-Key") != question.key:
            continue
        point = repository.point(bytes.fromhex(line))
        journal = repository.journal(point)
        entry = journal.read(point.step)
        if entry.status != "ok":
            continue
        by = commit.author.partition(b" <")[0].decode("utf-8", "replace")
        branch = _branch_of(opened, tips, point.sha)
        found.append(Offer(msgspec.json.decode(journal.output(entry)), by, branch, entry.step))
    return found


def _branch_of(opened: OpenRun, tips: Mapping[str, bytes], commit: bytes) -> str:
    for branch, tip in sorted(tips.items()):
        if commit in opened.repository.ancestors(tip):
            return branch
    return ""
