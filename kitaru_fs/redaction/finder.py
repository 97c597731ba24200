"""Finding secrets in a text: one pass over its bytes says that there is none, nearly always.

The pass looks for anchors (a piece of each credential's value, the beginning of each kind of
token). Only where one is found is the text looked at closely, for that secret alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from kitaru_fs.redaction.forms import anchors_of, spellings
from kitaru_fs.redaction.placeholders import OPENER
from kitaru_fs.redaction.shapes import SHAPES

__all__ = ["PATTERN", "PIECE", "Finder", "Found", "Known", "Suspects"]

PATTERN = "pattern"
"""What the placeholders of what `[redact] patterns` match are called."""

PIECE = "secret"
"""What the placeholder of a piece is called, where two secrets overlap."""

_ESCAPED = re.compile(r"\\[abfnrtv]")
# The longest match of a pattern that is found where a large file is read in pieces.
_PATTERN_REACH = 65536


class Known(NamedTuple):
    """A credential: the name that its placeholder has, and its value."""

    name: str
    value: str


class Found(NamedTuple):
    """A secret in a text.

    Attributes:
        start: Where it begins, in characters.
        end: Where it ends.
        known: The credential; None where only its shape is known, or it is a piece.
        form: In which form the value is there.
        kind: What its placeholder is called where it has no name.
    """

    start: int
    end: int
    known: Known | None
    form: str
    kind: str


class Suspects(NamedTuple):
    """What may be in a text: credentials, shapes (by their place in the finder), and placeholders
    that somebody else wrote."""

    known: frozenset[int]
    shapes: frozenset[int]
    opener: bool


class Finder:
    """Finds a set of secrets. It never changes, so any number of threads may use it.

    Args:
        known: The credentials.
        patterns: Regular expressions of which every match is a secret.
    """

    def __init__(self, known: Sequence[Known], patterns: Sequence[re.Pattern[str]] = ()) -> None:
        from ahocorasick_rs import BytesAhoCorasick, Implementation

        self.known = tuple(known)
        self._patterns = tuple(patterns)
        self._spellings = [spellings(one.value) for one in self.known]
        owners: dict[bytes, list[tuple[str, int]]] = {OPENER.encode("ascii"): [("opener", 0)]}
        for number, one in enumerate(self.known):
            for anchor in anchors_of(one.value):
                owners.setdefault(anchor, []).append(("known", number))
        for number, shape in enumerate(SHAPES):
            for anchor in shape.anchors:
                owners.setdefault(anchor, []).append(("shape", number))
        self._owners = list(owners.values())
        # A DFA searches half as fast again and takes six times as long to build.
        self._automaton = BytesAhoCorasick(
            list(owners), implementation=Implementation.ContiguousNFA
        )

    def suspects(self, data: bytes) -> Suspects | None:
        """Says what may be in a text, from its bytes; None if nothing is."""
        hits = self._automaton.find_matches_as_indexes(data, overlapping=True)
        if not hits and not self._patterns:
            return None
        known: set[int] = set()
        shapes: set[int] = set()
        opener = False
        for anchor, start, _ in hits:
            for kind, number in self._owners[anchor]:
                if kind == "known":
                    known.add(number)
                elif kind == "opener":
                    opener = True
                elif number not in shapes and SHAPES[number].may_begin(data, start):
                    shapes.add(number)
        if not (known or shapes or opener or self._patterns):
            return None
        return Suspects(frozenset(known), frozenset(shapes), opener)

    def find(self, text: str, suspects: Suspects) -> list[Found]:
        """Returns the secrets in a text, in order, none overlapping another.

        A credential goes before a shape; where two overlap, what is left of the second is a piece.

        Args:
            text: The text, with no escapes around it.
            suspects: What may be in it.
        """
        spans = list(self._known_in(text, suspects))
        spans.sort(key=lambda found: (found.start, found.start - found.end))
        taken: list[Found] = []
        for found in spans:
            _take(taken, found)
        others = [
            Found(*match.span("secret" if "secret" in match.re.groupindex else 0), None, "", kind)
            for kind, pattern in self._looked_for(suspects)
            for match in pattern.finditer(text)
        ]
        for found in sorted(others, key=lambda found: (found.start, found.start - found.end)):
            _take(taken, found)
        return sorted((f for f in taken if f.start < f.end), key=lambda found: found.start)

    def held_by(self, data: bytes) -> str | None:
        """Says which credential, or match of a pattern, a file's content holds; None for none.

        Tokens that are known by their shape alone do not count.
        """
        suspects = self.suspects(data)
        if suspects is None:
            return None
        return next(iter(self._named_in(data, suspects)), None)

    def leaks_in(self, data: bytes) -> set[str]:
        """Returns the names of all secrets in any content, and the kinds of tokens."""
        suspects = self.suspects(data)
        if suspects is None:
            return set()
        found = set(self._named_in(data, suspects))
        if suspects.shapes:
            text = data.decode("utf-8", "surrogateescape")
            # In JSON a line break before a token is a letter before it.
            plain = _ESCAPED.sub("\n", text) if "\\" in text else text
            for number in suspects.shapes:
                shape = SHAPES[number]
                if shape.pattern.search(text) or shape.pattern.search(plain):
                    found.add(shape.kind)
        return found

    def _named_in(self, data: bytes, suspects: Suspects) -> Iterator[str]:
        for number in sorted(suspects.known):
            spelled = (one.encode("utf-8", "surrogateescape") for one in self._spellings[number])
            if any(one in data for one in spelled):
                yield self.known[number].name
        if self._patterns:
            text = data.decode("utf-8", "surrogateescape")
            if any(pattern.search(text) for pattern in self._patterns):
                yield PATTERN

    @property
    def reach(self) -> int:
        """How many bytes of a file, read in pieces, must be looked at together."""
        longest = max((len(s) * 4 for found in self._spellings for s in found), default=0)
        return max(longest, _PATTERN_REACH if self._patterns else 0, len(OPENER))

    def _known_in(self, text: str, suspects: Suspects) -> Iterator[Found]:
        for number in suspects.known:
            for spelling, form in self._spellings[number].items():
                start = text.find(spelling)
                while start >= 0:
                    end = start + len(spelling)
                    yield Found(start, end, self.known[number], form, PIECE)
                    start = text.find(spelling, end)

    def _looked_for(self, suspects: Suspects) -> Iterable[tuple[str, re.Pattern[str]]]:
        for number in sorted(suspects.shapes):
            yield SHAPES[number].kind, SHAPES[number].pattern
        for pattern in self._patterns:
            yield PATTERN, pattern


def _take(taken: list[Found], found: Found) -> None:
    """Adds a span; where it overlaps others, what they leave of it."""
    start = found.start
    overlapping = [one for one in taken if one.end > start and one.start < found.end]
    for other in sorted(overlapping, key=lambda one: one.start):
        if other.start > start:
            taken.append(found._replace(start=start, end=other.start, known=None, form=""))
        start = max(start, other.end)
    if start == found.start:
        taken.append(found)
    elif start < found.end:
        taken.append(found._replace(start=start, known=None, form=""))
