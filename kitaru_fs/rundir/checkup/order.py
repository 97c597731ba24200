"""What a process that died left: its torn step, its log, and git's index.

After a crash the run is brought to rest as an orderly stop does, so that plain git finds it clean.
Nothing is decided that `resume` would ask a human: what the torn step left is kept under a ref, a
HEAD that was moved by hand stays where it is.
"""

from __future__ import annotations

from kitaru_fs.git.index import IndexedPath, read_index
from kitaru_fs.quoting import printable
from kitaru_fs.rundir.checkup.examination import Examination
from kitaru_fs.rundir.held import Held, rest
from kitaru_fs.rundir.leaving import record_left, was_cut_off
from kitaru_fs.rundir.options import Options
from kitaru_fs.rundir.recovery import Standing, TakenUp
from kitaru_fs.rundir.repository import TORN, Repository, leaves
from kitaru_fs.rundir.runindex import write_run_index
from kitaru_fs.rundir.showing import find_wrong, put_right
from kitaru_fs.storage.objects import MODE_TREE, TreeEntry, encode_tree, object_id

__all__ = ["check_crash", "check_index", "check_shown", "find_stale_index"]

# A stale index is of a commit not far back.
_FAR = 1000


def check_crash(look: Examination, taken: TakenUp, options: Options) -> None:
    """Brings a run to rest whose last process died, or whose files a power cut took.

    Raises:
        KitaruError: The disk refused, or something keeps writing in `files/`.
    """
    standing, repository = taken.standing, taken.repository
    died = "the last process that drove the run died"
    before = set(repository.refs.all(TORN))
    held = Held(taken.lock, repository, standing, options)
    if not standing.crashed:
        if not was_cut_off(look.git_dir):
            return
        held.takeover.look()
        if not held.takeover.crashed:
            return
        died = "the power was cut before all of files/ was on the disk"
    if _was_moved(repository, standing):
        look.report(
            "crash",
            f"{died}, and then HEAD was moved by hand",
            hint=f"kitaru resume {look.path.name} goes on from where HEAD is",
        )
        return

    def settle() -> None:
        held.takeover.look()
        record_left(repository, orderly=False)
        held.takeover.settle_files()
        rest(repository, held.writer.root, held.files.scanner, taken.lock)

    look.report(
        "crash",
        f"{died}: its log is completed, what its torn step left is kept, files/ are those of step"
        f" {standing.base.step}",
        mend=settle,
    )
    for ref in sorted(set(repository.refs.all(TORN)) - before):
        look.note("crash", "what the torn step left", kept_as=ref)


def _was_moved(repository: Repository, standing: Standing) -> bool:
    at = repository.refs.head()
    return standing.create or bool(standing.put_back) or isinstance(at, bytes)


def check_index(look: Examination, taken: TakenUp, options: Options) -> None:
    """Checks git's index: one that is missing, cut short or of an earlier commit is written anew.

    One that holds what a human staged is none of these, and stays.

    Raises:
        KitaruError: The disk refused.
    """
    repository, standing = taken.repository, taken.standing
    if standing.moved or standing.fresh or standing.head != standing.base.sha:
        return
    why = find_stale_index(repository, standing.base.root)
    if why is None:
        return

    def write() -> None:
        held = Held(taken.lock, repository, standing, options)
        held.files.scan()
        write_run_index(repository, standing.base.root, held.files.scanner)

    look.report("index", f"git's index was {why}", look.git_dir / "index", mend=write)


def check_shown(look: Examination, repository: Repository, standing: Standing) -> None:
    """Checks that `run.json`, `code/` and `journal/` show what the commits hold.

    Raises:
        StorageError: The disk refused.
    """
    if standing.moved or standing.fresh or standing.head != standing.base.sha:
        return
    wrong = find_wrong(repository, standing.base.root)
    if not wrong:
        return
    aside: list[str] = []
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    look.report(
        "shown",
        f"{printable(wrong[0], 200)}{more} did not show what the commits hold",
        mend=lambda: aside.extend(put_right(repository, standing.base.root)),
    )
    for moved in aside:
        name, _, place = moved.rpartition(" -> ")
        look.note("shown", f"{printable(name, 200)} was in the way", kept_as=place)


def find_stale_index(repository: Repository, root: dict[bytes, TreeEntry]) -> str | None:
    """Says what is wrong with the index of a run at rest; None for nothing.

    Args:
        repository: The run.
        root: The root tree of the commit that HEAD is on.
    """
    found = read_index(repository.git_dir)
    if found is None:
        return "damaged" if (repository.git_dir / "index").exists() else "missing"
    if any(one.stage for one in found.values()):
        return None
    wanted = {
        path: (entry.mode, entry.sha)
        for name, below in root.items()
        for path, entry in leaves(repository.store, name, below)
    }
    if {path: (one.mode, one.sha) for path, one in found.items()} == wanted:
        # Without its mark a path of state/ shows as deleted.
        marks = [one.skip_worktree for path, one in found.items() if _is_state(path)]
        return None if all(marks) else "without the marks of what is not checked out"
    return "of an earlier step" if _is_of_an_ancestor(repository, found) else None


def _is_state(path: bytes) -> bool:
    return path.startswith(b"state/")


def _is_of_an_ancestor(repository: Repository, found: dict[bytes, IndexedPath]) -> bool:
    at = repository.refs.head()
    sha = at if isinstance(at, bytes) else repository.refs.read(at)
    if sha is None:
        return False
    tree = _tree_of(found)
    for number, ancestor in enumerate(repository.ancestors(sha)):
        if repository.read_commit(ancestor).tree == tree:
            return True
        if number > _FAR:
            break
    return False


def _tree_of(found: dict[bytes, IndexedPath]) -> bytes:
    """The id of the tree that an index would be committed as."""
    entries: dict[bytes, TreeEntry] = {}
    below: dict[bytes, dict[bytes, IndexedPath]] = {}
    for path, one in found.items():
        first, slash, rest = path.partition(b"/")
        if slash:
            below.setdefault(first, {})[rest] = one
        else:
            entries[first] = TreeEntry(one.mode, one.sha)
    for name, inside in below.items():
        entries[name] = TreeEntry(MODE_TREE, _tree_of(inside))
    return object_id("tree", encode_tree(entries))
