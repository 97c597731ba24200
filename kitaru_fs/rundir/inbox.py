"""A run's inbox: files that bring replies and messages, each read safely and taken in once.

    inbox/NAME.json             a value: the reply to the open wait NAME (or to the one that step
                                NAME asked), else a message on the topic NAME
    inbox/NAME#WORD.json        the same, so that several may lie there; WORD means nothing
    inbox/ORDER-ID.envelope     what `kitaru answer` and `kitaru send` leave to the run's holder
    inbox/refused/              what could not be taken, each with its reason beside it (.why)
    .git/kitaru/taken/          what is being committed, as ORDER.ID~NAME

A file is claimed by renaming it to an id of its own, committed under that id, then removed: killed
anywhere, the next process knows by the id whether the journal holds it. Other names (a dot in
front, another ending) are nobody's: an editor's or a copy that is still being written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import msgspec

from kitaru_fs.clock import nonce, now_ns
from kitaru_fs.errors import UsageError
from kitaru_fs.git.layout import write_anew
from kitaru_fs.quoting import printable
from kitaru_fs.storage.refs import sync_directory

__all__ = [
    "ENVELOPE",
    "MAX_LETTER",
    "Claim",
    "Envelope",
    "Inbox",
    "InboxRefused",
    "Letter",
    "Refused",
    "Unripe",
]

MAX_LETTER = 1_000_000
MAX_LETTERS = 100_000
ENVELOPE = ".envelope"
_VALUE = ".json"
_LONGEST_NAME = 255
# What cannot be read may still be being written, for so long after its last change.
_RIPE_NS = 2_000_000_000


class Refused(Exception):
    """A file that cannot be taken; the text says why."""


class Unripe(Exception):
    """A file that may still be being written."""


class InboxRefused(UsageError):
    """The inbox as a whole cannot be read."""


class Envelope(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a command of ours leaves to the process that holds a run.

    Attributes:
        wait: The step of the question that it answers; None for a message.
        asked: When that question was asked: one asked anew is another.
        topic: The topic of a message.
        value: The reply, or the message.
        rejects: It refuses to answer.
        reason: Why it refuses.
        author: The human's name and address.
        sent: UTC, ISO 8601.
    """

    wait: int | None = None
    asked: str = ""
    topic: str = ""
    value: msgspec.Raw = msgspec.Raw(b"null")
    rejects: bool = False
    reason: str = ""
    author: tuple[str, str] | None = None
    sent: str = ""


class Letter(NamedTuple):
    """A file that was read.

    Attributes:
        name: Its name in the inbox.
        raw: Its content, JSON.
        came: When it was put there, in nanoseconds since the epoch.
        signature: Changes with its content.
    """

    name: str
    raw: bytes
    came: int
    signature: tuple[int, int, int]

    @property
    def is_envelope(self) -> bool:
        """Whether a command of ours left it."""
        return self.name.endswith(ENVELOPE)

    @property
    def order(self) -> int:
        """What is less for what came before."""
        return _envelope_order(self.name) or self.came

    @property
    def subject(self) -> str:
        """The wait or topic that its name names."""
        return self.name.removesuffix(_VALUE).partition("#")[0]

    def envelope(self) -> Envelope:
        """Returns what is in it.

        Raises:
            Refused: It is no envelope.
        """
        try:
            return msgspec.json.decode(self.raw, type=Envelope)
        except msgspec.ValidationError as error:
            raise Refused(f"it is no envelope of kitaru's: {error}") from None


class Claim(NamedTuple):
    """A file that is being taken in.

    Attributes:
        id: What tells it from every other one.
        place: Where it is now.
        letter: What it holds.
    """

    id: str
    place: Path
    letter: Letter


class Inbox:
    """The inbox of one run. Only the run's holder claims, refuses and releases.

    Args:
        run: The run's directory.
    """

    def __init__(self, run: Path) -> None:
        self.path = run / "inbox"
        self._taken = run / ".git" / "kitaru" / "taken"

    def letters(self) -> list[str]:
        """Returns the names of the files that may be taken, in the order that they came.

        Raises:
            InboxRefused: The inbox is no directory, or holds too many files.
        """
        found: list[tuple[int, str]] = []
        with self._opened(self.path) as folder, os.scandir(folder) as listing:
            for entry in listing:
                if entry.name.startswith(".") or not entry.name.endswith((_VALUE, ENVELOPE)):
                    continue
                if len(found) >= MAX_LETTERS:
                    raise InboxRefused(
                        f"{self.path} holds more than {MAX_LETTERS} files",
                        hint="take some out; none is taken in before that",
                    )
                with contextlib.suppress(OSError):
                    found.append((_order(entry), entry.name))
        return [name for _, name in sorted(found)]

    def read(self, name: str) -> Letter | None:
        """Reads a file; None if it is gone.

        Raises:
            Refused: It is no plain file of this user's, too large, or no JSON.
            Unripe: It may still be being written.
            InboxRefused: The inbox is no directory.
        """
        with self._opened(self.path) as folder:
            return _read(folder, name, name)

    def claim(self, letter: Letter) -> Claim | None:
        """Claims a file that was read; None if it is gone, or is another one by now.

        Raises:
            Refused: It was changed since, to what cannot be taken.
            OSError: The disk refused.
        """
        self._taken.mkdir(mode=0o700, exist_ok=True)
        known = letter.name.removesuffix(ENVELOPE).rpartition("-")[2]
        word = known if letter.is_envelope and known.isalnum() else nonce()
        # Whoever finds it there takes it in as it came: the order goes with it.
        place = self._taken / f"{letter.order:020d}.{word}~{letter.name}"
        if len(os.fsencode(place.name)) > _LONGEST_NAME:
            raise Refused("its name is too long")
        try:
            os.rename(self.path / letter.name, place)
        except FileNotFoundError:
            return None
        with self._opened(self._taken) as folder:
            found = os.stat(place.name, dir_fd=folder, follow_symlinks=False)
            if _signature(found) != letter.signature:
                again = _read(folder, place.name, letter.name)
                letter = again if again is not None else letter
        return Claim(word, place, letter)

    def claimed(self) -> list[tuple[str, Path]]:
        """Returns what a process claimed that did not come to release it: ids and places, in the
        order that it came.
        """
        try:
            names = os.listdir(self._taken)
        except FileNotFoundError:
            return []
        found = [(*name.partition("~")[0].rpartition(".")[::2], name) for name in names]
        found.sort(key=lambda one: (one[0], one[2].partition("~")[2]))
        return [(word, self._taken / name) for _, word, name in found]

    def reopen(self, word: str, place: Path) -> Claim | None:
        """Reads again what was claimed before; None if it is gone.

        Raises:
            Refused: It cannot be taken.
        """
        name = place.name.partition("~")[2]
        with self._opened(place.parent) as folder:
            letter = _read(folder, place.name, name, ripe=True)
        return Claim(word, place, letter) if letter is not None else None

    def sync(self) -> None:
        """Waits until what was claimed is on the disk.

        Raises:
            OSError: The disk refused.
        """
        sync_directory(self._taken)
        sync_directory(self.path)

    def release(self, place: Path) -> None:
        """Removes a file that the journal holds."""
        place.unlink(missing_ok=True)

    def refuse(self, place: Path, name: str, why: str) -> Path:
        """Keeps a file aside that cannot be taken, with the reason beside it; returns its place.

        Raises:
            OSError: It cannot be moved.
        """
        refused = self.path / "refused"
        refused.mkdir(mode=0o700, exist_ok=True)
        # With room for what is put before and behind it.
        name = os.fsdecode(os.fsencode(name)[: _LONGEST_NAME - 20])
        target, number = refused / name, 1
        while os.path.lexists(target):
            number += 1
            target = refused / f"{number}-{name}"
        os.rename(place, target)
        write_anew(target.with_name(target.name + ".why"), why.encode() + b"\n")
        return target

    def refused(self) -> list[tuple[str, str]]:
        """Returns what was kept aside: names and reasons."""
        found: list[tuple[str, str]] = []
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(self.path / "refused")):
                if not name.endswith(".why"):
                    why = self.path / "refused" / f"{name}.why"
                    found.append((name, why.read_text().strip() if why.is_file() else ""))
        return found

    def forget_refused(self, name: str) -> None:
        """Removes what was kept aside, once whoever sent it knows."""
        for place in (name, f"{name}.why"):
            (self.path / "refused" / place).unlink(missing_ok=True)

    # Putting in

    def put(self, envelope: Envelope) -> str:
        """Leaves an envelope to the run's holder, whole and on the disk; returns its name.

        Raises:
            InboxRefused: The inbox is no directory, or the disk refused.
        """
        content = msgspec.json.encode(envelope)
        word = nonce()
        with self._opened(self.path) as folder:
            order = max(now_ns(), *(_envelope_order(name) + 1 for name in os.listdir(folder)), 0)
            name = f"{order:020d}-{word}{ENVELOPE}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            try:
                with os.fdopen(os.open(f".{name}", flags, 0o600, dir_fd=folder), "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.rename(f".{name}", name, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.unlink(f".{name}", dir_fd=folder)
                raise InboxRefused(
                    f"{self.path} cannot be written: {error.strerror}",
                    hint="make room on the disk, or make it writable",
                ) from error
        return name

    def take_back(self, name: str) -> bool:
        """Removes an envelope that nobody claimed; says whether it was there."""
        try:
            os.unlink(self.path / name)
        except FileNotFoundError:
            return False
        return True

    @contextlib.contextmanager
    def _opened(self, path: Path) -> Generator[int]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            try:
                folder = os.open(path, flags)
            except FileNotFoundError:
                path.mkdir(mode=0o755)
                folder = os.open(path, flags)
        except OSError as error:
            what = "is no directory" if error.errno != errno.EACCES else "cannot be read"
            if path.is_symlink():
                what = "is a symbolic link"
            raise InboxRefused(
                f"{path} {what}, so nothing in it is taken in", hint="make it a directory again"
            ) from error
        try:
            yield folder
        finally:
            os.close(folder)


def _order(entry: os.DirEntry[str]) -> int:
    return _envelope_order(entry.name) or entry.stat(follow_symlinks=False).st_ctime_ns


def _envelope_order(name: str) -> int:
    digits = name.partition("-")[0]
    return int(digits) if name.endswith(ENVELOPE) and digits.isdigit() else 0


def _signature(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read(folder: int, name: str, shown: str, *, ripe: bool = False) -> Letter | None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise Refused("it is a symbolic link") from None
        if error.errno == errno.ENXIO:
            raise Refused("it is no plain file") from None
        raise Refused(f"it cannot be read: {error.strerror}") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise Refused("it is no plain file")
        if found.st_uid != os.geteuid():
            raise Refused(f"it belongs to another user (uid {found.st_uid})")
        if found.st_size > MAX_LETTER:
            raise Refused(f"it has {found.st_size} bytes, and the most are {MAX_LETTER}")
        raw = _all(descriptor)
    except OSError as error:
        raise Refused(f"it cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    young = not ripe and 0 <= now_ns() - found.st_mtime_ns < _RIPE_NS
    if len(raw) > MAX_LETTER or len(raw) != found.st_size:
        raise Unripe if young else Refused("it changes while it is read")
    try:
        msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if young:
            raise Unripe from None
        raise Refused(f"it holds no valid JSON: {printable(str(error), 200)}") from None
    return Letter(shown, raw, found.st_ctime_ns, _signature(found))


def _all(descriptor: int) -> bytes:
    parts: list[bytes] = []
    length = 0
    while length <= MAX_LETTER and (part := os.read(descriptor, 1 << 16)):
        parts.append(part)
        length += len(part)
    return b"".join(parts)
