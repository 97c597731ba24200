"""Runs of every released format, of a newer one, and entries of kinds that nobody knows yet."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest
from cli_program import Program
from flowbench import FlowBench, listing
from plain_git import git

from kitaru_fs import step
from kitaru_fs.entry import FORMAT
from kitaru_fs.errors import FormatError, NewerFormatError

STORED = Path(__file__).parent / "formats"


@pytest.fixture
def kitaru(tmp_path: Path) -> Program:
    return Program(tmp_path)


def unpack(kitaru: Program, number: int) -> Path:
    """Puts the stored run of a format under `runs/`."""
    runs = kitaru.workspace / "runs"
    runs.mkdir()
    with tarfile.open(STORED / f"{number}.tar.xz") as archive:
        # Python before 3.11.4 has no filters.
        archive.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
        archive.extractall(runs)
    (run,) = runs.iterdir()
    return run


@pytest.mark.parametrize("number", range(1, FORMAT + 1))
def test_a_stored_run_is_listed_shown_compared_and_resumed(kitaru: Program, number: int) -> None:
    run = unpack(kitaru, number)
    before = listing(run)
    assert [one["status"] for one in kitaru("runs", "--json").json] == ["waiting"]
    log = kitaru("log", "last", "--json").json
    assert [(line["step"], line["kind"]) for line in log] == [
        *[(0, "start"), (1, "step"), (2, "failed"), (3, "step"), (4, "intent"), (5, "step")],
        *[(6, "wait"), (7, "edit")],
    ]
    said = kitaru("log", "last", "--all")
    assert "branch-2" in said.out + said.err
    shown = kitaru("show", "last@build", "--json").json
    assert shown["output"] == {"name": "app", "sizes": [1, 2.5, None]}
    assert "whole" in kitaru.good("diff", "last@1", "last@3")
    assert listing(run) == before

    assert kitaru("answer", "last", "yes").status == 0
    done = kitaru("resume", "last", "--recorded-code")
    assert (done.status, done.out.strip()) == (0, "published: True"), done
    files = run / "files"
    assert sorted(os.listdir(os.fsencode(files))) == sorted(
        [b"app", b"caf\xe9", b"empty", b"link", b"note", b"whole"]
    )
    kitaru.good("rewind", "last@build")
    assert (files / "private").stat().st_mode & 0o777 == 0o600
    assert (files / "empty" / "deep").is_dir()
    assert git(files / "app", "status", "--short") == "?? main.py\n"
    assert git(run, "fsck", "--strict") == ""


@step
def act(number: int) -> int:
    return number


@pytest.fixture
def stopped(bench: FlowBench) -> FlowBench:
    def main() -> int:
        (bench.files / "a.txt").write_text("one\n")
        total = act(1) + act(2)
        if (bench.root / "stop").exists():
            raise KeyboardInterrupt
        return total

    (bench.root / "stop").touch()
    with pytest.raises(KeyboardInterrupt):
        bench.start(main)
    (bench.root / "stop").unlink()
    return bench


def commit(bench: FlowBench, *, newer: bool, kind: str) -> None:
    """Commits an entry on top, as another version of kitaru would."""
    run = bench.run.path
    entry = json.loads((run / "journal" / "0000" / "000002-act.json").read_text())
    entry |= {"step": 3, "kind": kind, "name": "teleport", "key": "teleport#1", "output": 7}
    entry |= {"where": {"to": "elsewhere"}}
    made = run / "journal" / "0000" / "000003-teleport.json"
    made.write_text(json.dumps(entry))
    (run / "files" / "new.txt").write_text("new\n")
    if newer:
        asked = json.loads((run / "run.json").read_text())
        asked |= {"format": FORMAT + 1, "input": [["a list now"]], "planet": "Mars"}
        (run / "run.json").write_text(json.dumps(asked))
    message = git(run, "log", "-1", "--format=%B").replace("Kitaru-Step: 2", "Kitaru-Step: 3")
    message = message.replace("step 2: act", "step 3: teleport")
    message = message.replace("Kitaru-Kind: step", f"Kitaru-Kind: {kind}\nKitaru-Planet: Mars")
    if newer:
        message = message.replace(f"Kitaru-Format: {FORMAT}", f"Kitaru-Format: {FORMAT + 1}")
    git(run, "add", "-A", "journal", "files", "run.json")
    git(run, "commit", "-q", "-m", message)
    head = git(run, "rev-parse", "HEAD").strip()
    git(run, "update-ref", "refs/kitaru/tips/main", head)
    left = run / ".git" / "kitaru" / "left.json"
    note = json.loads(left.read_text()) | {"commit": head}
    note["reflog"] = (run / ".git" / "logs" / "HEAD").stat().st_size
    left.write_text(json.dumps(note))


@pytest.mark.parametrize(
    ("newer", "kind"), [(True, "step"), (True, "teleport"), (False, "teleport")]
)
def test_what_a_newer_kitaru_wrote_is_read_and_not_resumed(
    stopped: FlowBench, newer: bool, kind: str
) -> None:
    commit(stopped, newer=newer, kind=kind)
    run = stopped.run
    assert run.flow == "main"
    assert [line.kind for line in run.log()] == ["start", "step", "step", kind]
    shown = run.show("3")
    assert (shown.entry.name, shown.output) == ("teleport", 7)
    assert [one.id for one in stopped.workspace.runs()] == [run.id]
    assert "new.txt" in run.diff("2")
    refs, files = stopped.refs(), stopped.tree()
    with pytest.raises(NewerFormatError) as caught:
        stopped.resume()
    assert "upgrade kitaru-fs" in caught.value.hint
    assert (stopped.refs(), stopped.tree()) == (refs, files)
    with pytest.raises(NewerFormatError):
        stopped.resume()


def test_nothing_is_repaired_in_a_run_of_a_newer_format(stopped: FlowBench) -> None:
    commit(stopped, newer=True, kind="step")
    (stopped.run.path / ".git" / "index").write_bytes(b"")
    found = stopped.run.checkup(repair=True)
    assert [one.check for one in found.findings] == ["format"]
    assert (stopped.run.path / ".git" / "index").read_bytes() == b""


def test_a_log_of_a_newer_version_is_not_replaced(stopped: FlowBench) -> None:
    log = stopped.run.path / ".git" / "kitaru" / "wal"
    content = log.read_bytes().replace(b"KITARUW2", b"KITARUW3")
    log.write_bytes(content)
    assert len(stopped.run.log()) == 3
    with pytest.raises(NewerFormatError, match="newer version"):
        stopped.resume()
    assert [one.check for one in stopped.run.checkup(repair=True).findings] == ["format"]
    assert log.read_bytes() == content


def test_a_request_that_is_none_is_still_an_error(stopped: FlowBench) -> None:
    (stopped.run.path / "run.json").write_text("{}")
    git(
        stopped.run.path,
        "commit",
        "-q",
        "-a",
        "-m",
        git(stopped.run.path, "log", "-1", "--format=%B"),
    )
    with pytest.raises(FormatError, match=r"run\.json"):
        stopped.resume()
