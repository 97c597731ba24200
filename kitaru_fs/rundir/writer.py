"""Adding commits to a run's branch: one entry, what it did to `files/`, one acknowledgement."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

from kitaru_fs.entry import Entry, add_usage, commit_message, parse_open, parse_total
from kitaru_fs.errors import SecretMissingError
from kitaru_fs.rundir.masking import fill_for_replay, mask_entry
from kitaru_fs.rundir.repository import COMMITTER, HEADS, TIPS, Point, Repository
from kitaru_fs.rundir.showing import show
from kitaru_fs.snapshot.filetree import DirRef
from kitaru_fs.storage.objects import (
    MODE_FILE,
    MODE_TREE,
    Person,
    TreeEntry,
    encode_commit,
    encode_tree,
)
from kitaru_fs.storage.store import storage_error

__all__ = ["Writer"]

# So many objects are published while a step waits for it: 2 to 3 ms.
_AT_ONCE = 32


class Writer:
    """Adds commits to one branch of a run. The caller holds the run's lock.

    Args:
        repository: The run, its log open and recovered.
        branch: The branch's name, without `refs/heads/`.
        tip: The commit that the next one follows (its first parent).
        base: The nearest commit of ours, whose journal goes on.
        run: The run's id.
        flow: The flow's name.

    Attributes:
        open: What waits for something from outside, or for a child run, by key.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        branch: str,
        tip: bytes,
        base: Point,
        run: str,
        flow: str,
    ) -> None:
        self.repository = repository
        self.branch = branch
        self.tip = tip
        self.step: int = base.step
        self.files = base.files
        self.status = base.status
        self.total = parse_total(base.trailers.get("Kitaru-Total", ""))
        self.root = dict(base.root)
        self._root_sha: bytes | None = None
        self.journal = repository.journal(base)
        asked = [self.journal.read(step) for step in parse_open(base.trailers)]
        for entry in asked:
            # Without it the question is open all the same.
            with contextlib.suppress(SecretMissingError):
                fill_for_replay(repository.secrets, entry)
        self.open = {entry.key: entry for entry in asked}
        self._unshown: list[tuple[str, bytes]] = []
        self._showing = threading.Lock()
        self._run = run
        self._flow = flow
        code = base.root.get(b"code")
        self._code = code.sha.hex()[:12] if code else ""

    @classmethod
    def first(cls, repository: Repository, *, request: bytes, run: str, flow: str) -> Writer:
        """Returns the writer of a run that has no commit yet."""
        blob = repository.store.put("blob", request)
        root = {b"run.json": TreeEntry(MODE_FILE, blob)}
        nothing = Point(b"", -1, {}, "", root)
        return cls(repository, branch="main", tip=b"", base=nothing, run=run, flow=flow)

    def set_code(self, tree: bytes | None) -> None:
        """Makes `code/` of the next commits this tree."""
        self.root.pop(b"code", None)
        if tree is not None:
            self.root[b"code"] = TreeEntry(MODE_TREE, tree)
        self._code = tree.hex()[:12] if tree else ""

    def add(self, entry: Entry, **commit: Any) -> bytes:
        """Commits one entry with the state of `files/`, and acknowledges it.

        Args:
            entry: The entry.
            commit: What `append` takes.

        Returns:
            The commit's id.

        Raises:
            StorageError: The disk refused.
        """
        self.append(entry, **commit)
        self.publish()
        return self.tip

    def append(
        self,
        entry: Entry,
        *,
        files: DirRef,
        status: str | None,
        author: Person,
        output: bytes | None = None,
        beside: Mapping[str, bytes] | None = None,
        body: str = "",
        also: dict[str, bytes] | None = None,
        trees: tuple[bytes | None, ...] = (),
        forget_staged: bool = False,
        masked: Collection[str] = (),
    ) -> int:
        """Commits one entry with the state of `files/`, but for the acknowledgement.

        Args:
            entry: The entry; its `step` is set to the next number.
            files: The agent's directory after the step.
            status: The run's status from here on; None for `waiting` if something waits for what
                comes from outside, else `running`.
            author: Who acted.
            output: The step's output as JSON.
            beside: Files that stand beside the entry, by the ends of their names.
            body: A short text for the commit message.
            also: Further refs to set in the same commit.
            trees: The trees of `files/` that those refs hold.
            forget_staged: Forget what a scan staged and this commit does not hold; only if `files`
                is what the last scan returned, and no step is in flight.
            masked: Fields of the entry that come from another, their secrets masked already.

        Returns:
            The ticket that `Store.wait` takes: then the commit is durable. Until `publish` git does
            not see it.

        Raises:
            StorageError: The disk refused.
        """
        entry.step = self.step + 1
        secrets = self.repository.secrets
        asked = entry.input
        try:
            output, beside = mask_entry(secrets, entry, output, beside, masked)
        except OSError as error:
            raise storage_error(error, "writing the run's vault") from error
        added = self.journal.add(entry, output, beside)
        self.root[b"journal"] = TreeEntry(MODE_TREE, added.tree)
        for name, sha in ((b"files", files.files), (b"state", files.state)):
            self.root.pop(name, None)
            if sha is not None:
                self.root[name] = TreeEntry(MODE_TREE, sha)
        self.total = add_usage(self.total, entry.usage)
        self._track(entry)
        status = status or ("waiting" if self.waits else "running")
        store = self.repository.store
        tree = self._root_sha = store.put("tree", encode_tree(self.root), base=self._root_sha)
        message = commit_message(
            entry,
            run=self._run,
            flow=self._flow,
            status=status,
            code=self._code,
            body=secrets.mask_text(body) if body else "",
            total=self.total,
            open_steps=[asked.step for asked in self.open.values()],
        )
        committer = Person(*COMMITTER, author.time)
        author = author._replace(name=secrets.mask_text(author.name))
        commit = store.put(
            "commit",
            encode_commit(tree, [self.tip] if self.tip else [], author, committer, message),
        )
        refs = {**(also or {}), HEADS + self.branch: commit, TIPS + self.branch: commit}
        ticket = store.append(refs, trees=(*files[:2], *trees), forget_staged=forget_staged)
        if entry.status == "waiting":
            # What is open is known here with its secrets.
            entry.input = asked
        self.tip, self.step, self.files, self.status = commit, entry.step, files, status
        self._unshown += added.files
        return ticket

    def holds_delivery(self, word: str) -> bool:
        """Says whether any branch holds the reply or message that was taken in under an id."""
        tips = [sha.hex() for sha in self.repository.refs.all(TIPS).values()]
        found = self.repository.git.run(
            "log", "--format=%H", "-1", f"--grep=^Kitaru-Delivery: {word}$", *tips
        )
        return bool(found.strip())

    @property
    def waits(self) -> bool:
        """Whether something waits for what comes from outside: a reply, a message, a time."""
        return any(asked.child is None for asked in self.open.values())

    def _track(self, entry: Entry) -> None:
        if entry.kind == "end" or entry.anew:
            self.open.clear()
        if self.open:
            for key in (entry.observed or {}).get("gave_up", ()):
                self.open.pop(key, None)
        if entry.status == "waiting" and entry.kind != "intent":
            self.open[entry.key] = entry
        elif self.open and not entry.retry:
            self.open.pop(entry.key, None)

    def publish(self) -> None:
        """Lets git, and whoever looks at `journal/`, see what was committed.

        Raises:
            StorageError: The disk refused.
        """
        self.repository.store.publish()
        self._begin_to_show()()

    def begin_to_publish(self) -> Callable[[], None] | None:
        """Lets git see some of what was committed, quickly.

        Returns:
            Once git sees all: what lets whoever looks at `journal/` see it too. It must be called,
            by the same thread; meanwhile others may commit, and what they publish waits for it.
            Else None: others may commit now, then it is to be called again.

        Raises:
            StorageError: The disk refused.
        """
        if not self.repository.store.publish_some(_AT_ONCE):
            return None
        return self._begin_to_show()

    def pack(self) -> None:
        """Moves what was committed into a pack, at once, and makes all visible.

        Raises:
            OSError: The disk refused.
        """
        self.repository.store.checkpoint()
        self._begin_to_show()()

    def rest(self) -> None:
        """Brings the store to rest, and makes all visible.

        Raises:
            OSError: The disk refused.
        """
        self.repository.store.rest()
        self._begin_to_show()()

    def keep(self, name: str, files: DirRef, message: str, author: Person) -> bytes:
        """Stages a commit that keeps a state of `files/` aside; the caller sets its ref.

        Returns:
            The commit's id, whose parent is the branch's tip.
        """
        # Beside the files it is as the last commit, so that git shows how those differ alone.
        root = dict(self.root)
        for part, sha in ((b"files", files.files), (b"state", files.state)):
            root.pop(part, None)
            if sha is not None:
                root[part] = TreeEntry(MODE_TREE, sha)
        store = self.repository.store
        tree = store.put("tree", encode_tree(root))
        committer = Person(*COMMITTER, author.time)
        text = f"{self.repository.secrets.mask_text(message)}\n\nkept as {name}\n"
        return store.put("commit", encode_commit(tree, [self.tip], author, committer, text))

    def wait_until_shown(self) -> None:
        """Waits for another thread that shows what was committed."""
        with self._showing:
            pass

    def _begin_to_show(self) -> Callable[[], None]:
        self._showing.acquire()
        unshown, self._unshown = self._unshown, []

        def finish() -> None:
            try:
                show(self.repository.path, unshown)
            except OSError as error:
                raise storage_error(error, "showing the journal's entries") from error
            finally:
                self._showing.release()

        return finish
