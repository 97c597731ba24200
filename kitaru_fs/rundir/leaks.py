"""Secrets that slipped into a run's history: every object that git has of it is looked at, once.

Reachable or not, loose, packed or in the log alone; contents, names of files, messages, authors;
names of refs, git's own logs, and what was set aside. Compressed objects and packs of nested
repositories are looked into. Nothing is held but the object that is being read.

Not looked into: archives and other compressed files, and compressed objects of more than 64 MB.
"""

from __future__ import annotations

import os
import subprocess
import zlib
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import BinaryIO, NamedTuple, cast

from kitaru_fs.quoting import quote_path
from kitaru_fs.redaction.finder import Finder
from kitaru_fs.redaction.redactor import mask_text
from kitaru_fs.rundir.repository import Repository
from kitaru_fs.rundir.whereabouts import all_commits, find_places
from kitaru_fs.storage.objects import parse_tree

__all__ = ["Leak", "Leaking", "find_leaking", "find_leaks"]

_CHUNK = 1 << 20
_LARGEST = 64 << 20
# Files of `.git` that are no objects, and may have texts from outside.
_BESIDE = ("HEAD", "packed-refs", "logs", "kitaru/aside", "kitaru/tampered", "kitaru/log")


class Leaking(NamedTuple):
    """An object that holds secrets.

    Attributes:
        kind: `blob`, `tree`, `commit` or `tag`.
        secrets: Their names, or what kinds of tokens they are.
        compressed: They are in content that is compressed in the object.
        size: Its length in bytes.
    """

    kind: str
    secrets: frozenset[str]
    compressed: bool
    size: int


class Leak(NamedTuple):
    """A place of the history that holds a secret.

    Attributes:
        secret: Its name, or what kind of token it is; never its value.
        commit: The first commit that has it, 40 digits; empty where no commit does.
        step: That commit's number; None for one that a human made.
        path: The path in the commit, or below `.git`, quoted; empty for the commit's own text.
        object: The object's id, 40 digits; empty for a file of `.git`.
    """

    secret: str
    commit: str
    step: int | None
    path: str
    object: str


def find_leaks(repository: Repository, tips: Iterable[bytes] = ()) -> Iterator[Leak]:
    """Yields what slipped into a run's history, oldest commit first. Nothing is written.

    Args:
        repository: The run.
        tips: Commits that its refs do not name yet, since a dead process left them in the log.

    Raises:
        RunDamagedError: The repository cannot be read.
    """
    finder = repository.thorough_secrets().finder()
    leaking = find_leaking(repository, finder)
    commits = all_commits(repository, tips) if leaking else []
    places = find_places(repository, leaking.keys(), commits)
    for sha, inside in groupby(places.items(), key=lambda item: item[1].commit):
        step = repository.point(sha).step
        for inner, place in inside:
            found = leaking[inner]
            path = _name_in(repository, finder, inner, place.path, found)
            shown = quote_path(os.fsencode(mask_text(finder, os.fsdecode(path))))
            for secret in sorted(found.secrets):
                yield Leak(secret, sha.hex(), step if step >= 0 else None, shown, inner.hex())
    for sha in leaking.keys() - places.keys():
        for secret in sorted(leaking[sha].secrets):
            yield Leak(secret, "", None, f"(a {leaking[sha].kind} of no commit)", sha.hex())
    yield from _beside(repository, finder)


def _name_in(
    repository: Repository, finder: Finder, sha: bytes, path: bytes, found: Leaking
) -> bytes:
    """The path of an object; of a directory, the path of the file whose name it is about."""
    if found.kind != "tree":
        return path
    for name in parse_tree(repository.store.read(sha, "tree")):
        if finder.leaks_in(name):
            return path + b"/" + name if path else name
    return path


def find_leaking(repository: Repository, finder: Finder) -> dict[bytes, Leaking]:
    """Returns the objects of a repository that hold secrets, by their ids."""
    found: dict[bytes, Leaking] = {}
    for sha, (kind, data) in repository.store.logged_objects().items():
        if leaking := _look_at(finder, kind, data):
            found[sha] = leaking
    for sha, kind, pieces in _all_objects(repository):
        if leaking := _look_through(finder, kind, pieces):
            found[sha] = leaking
    return found


def _look_through(finder: Finder, kind: str, pieces: Iterator[bytes]) -> Leaking | None:
    first = next(pieces, b"")
    second = next(pieces, None)
    if second is None:
        return _look_at(finder, kind, first)
    secrets: set[str] = set()
    held = [first, second]
    size = len(first) + len(second)
    tail = b""
    for piece in (first, second):
        secrets |= finder.leaks_in(tail + piece)
        tail = (tail + piece)[-finder.reach :]
    for piece in pieces:
        secrets |= finder.leaks_in(tail + piece)
        tail = (tail + piece)[-finder.reach :]
        size += len(piece)
        if size <= _LARGEST:
            held.append(piece)
        else:
            held.clear()
    if secrets:
        return Leaking(kind, frozenset(secrets), compressed=False, size=size)
    return _look_inside(finder, kind, b"".join(held))


def _look_at(finder: Finder, kind: str, data: bytes) -> Leaking | None:
    if kind == "tree":
        # Between the names stand ids, any bytes at all.
        data = b"\n".join(parse_tree(data))
    secrets = finder.leaks_in(data)
    if secrets:
        return Leaking(kind, frozenset(secrets), compressed=False, size=len(data))
    return _look_inside(finder, kind, data)


def _look_inside(finder: Finder, kind: str, data: bytes) -> Leaking | None:
    secrets: set[str] = set()
    for inner in inflated(data):
        secrets |= finder.leaks_in(inner)
    if not secrets:
        return None
    return Leaking(kind, frozenset(secrets), compressed=True, size=len(data))


def inflated(data: bytes) -> Iterator[bytes]:
    """Yields what is in a zlib stream (a loose object), a gzip file, or a pack."""
    if data[:4] == b"PACK" and len(data) > 32:
        yield from _inflated_pack(data)
    elif data[:2] in (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda"):
        yield from _inflate(data, 0, zlib.MAX_WBITS)[0]
    elif data[:2] == b"\x1f\x8b":
        yield from _inflate(data, 0, zlib.MAX_WBITS | 16)[0]


def _inflate(data: bytes, start: int, bits: int) -> tuple[list[bytes], int]:
    """What a stream holds (nothing if it is none), and where it ends."""
    inflate = zlib.decompressobj(bits)
    try:
        content = inflate.decompress(memoryview(data)[start:], _LARGEST)
    except zlib.error:
        return [], -1
    return [content], len(data) - len(inflate.unused_data) if inflate.eof else -1


def _inflated_pack(data: bytes) -> Iterator[bytes]:
    """Every object of a pack; of a delta, what it adds."""
    position, end = 12, len(data) - 20
    while position < end:
        byte = data[position]
        kind = byte >> 4 & 7
        position += 1
        while byte & 0x80 and position < end:
            byte = data[position]
            position += 1
        if kind == 6:
            while data[position] & 0x80 and position < end:
                position += 1
            position += 1
        elif kind == 7:
            position += 20
        found, position = _inflate(data, position, zlib.MAX_WBITS)
        yield from found
        if position < 0:
            return


def _all_objects(repository: Repository) -> Iterator[tuple[bytes, str, Iterator[bytes]]]:
    """Yields id, kind and content, in pieces, of all objects that git has."""
    git = repository.git
    command = git.command(
        *("-c", "core.bigFileThreshold=4m", "cat-file", "--batch", "--batch-all-objects"),
        *("--unordered", "--buffer"),
    )
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=_CHUNK,
        env=git.environment(),
        cwd=repository.path,
    ) as process:
        pipe = cast("BinaryIO", process.stdout)
        try:
            while header := pipe.readline():
                words = header.split()
                if len(words) != 3:
                    continue  # what git cannot read, `kitaru doctor` without --secrets names
                left = int(words[2])
                pieces = _pieces(pipe, left)
                yield bytes.fromhex(words[0].decode("ascii")), words[1].decode("ascii"), pieces
                for _ in pieces:
                    pass  # what was not looked at must be out of the way of the next
                pipe.read(1)
        finally:
            process.kill()


def _pieces(pipe: BinaryIO, left: int) -> Iterator[bytes]:
    while left > 0:
        piece = pipe.read(min(left, _CHUNK))
        if not piece:
            return
        left -= len(piece)
        yield piece


def _beside(repository: Repository, finder: Finder) -> Iterator[Leak]:
    for name in sorted(repository.refs.all()):
        for secret in sorted(finder.leaks_in(os.fsencode(name))):
            yield Leak(secret, "", None, mask_text(finder, f".git/{name}"), "")
    for place in _BESIDE:
        for path in _files_below(os.path.join(repository.git_dir, place)):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError:
                continue
            with os.fdopen(descriptor, "rb") as file:
                found = _look_through(finder, "blob", iter(lambda: file.read(_CHUNK), b""))
            shown = quote_path(os.fsencode(os.path.relpath(path, repository.path)))
            for secret in sorted(found.secrets) if found is not None else ():
                yield Leak(secret, "", None, mask_text(finder, shown), "")


def _files_below(place: str) -> Iterator[str]:
    if os.path.isfile(place) and not os.path.islink(place):
        yield place
    for folder, _, names in os.walk(place):
        yield from (os.path.join(folder, name) for name in sorted(names))
