"""No secret in a run's history; on replay the flow has them again, where the entry lists them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from flowbench import FlowBench
from plain_git import git

from kitaru_fs import Run, Workspace, flow, note, step, wait
from kitaru_fs.errors import DivergenceError, SecretMissingError
from kitaru_fs.redaction.credentials import shared_credentials

KEY = "sk-proj-AbCdEfGhIjKlMnOpQrStUvWx0123456789"
NEW_KEY = "sk-proj-rotated-rotated-rotated-0123456789"
PASSWORD = 'correct "horse" bättery'
GITHUB = "ghp_" + "a1B2" * 9
SPOOF = "{kitaru:secret:OPENAI_API_KEY}"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("DB_PASSWORD", PASSWORD)
    # What one test's environment held is not known in the next.
    shared_credentials.cache_clear()


def everything(run: Path) -> bytes:
    """All that is in a run's commits and refs, and what it shows on disk beside `files/`."""
    objects = subprocess.run(
        ["git", "cat-file", "--batch-all-objects", "--unordered", "--batch"],
        cwd=run,
        capture_output=True,
        check=True,
    ).stdout
    shown = [
        path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and "files" not in path.relative_to(run).parts[:1]
        if path.name not in ("vault", "wal") and path.suffix != ".pack"
    ]
    return objects + b"\0".join([*shown, git(run, "log", "--all", "--format=%B").encode()])


def holds(run: Path, *secrets: str) -> list[str]:
    found = everything(run)
    forms = [(one, form) for one in secrets for form in (one, json.dumps(one)[1:-1])]
    return [one for one, form in forms if form.encode() in found]


@step
def login(password: str) -> dict[str, Any]:
    note(used=password)
    return {"header": f"Bearer {KEY}", password: [PASSWORD, GITHUB], "web": SPOOF}


@step
def call(header: str, token: str) -> str:
    return f"{header[:6]} {token[:4]}"


@step
def refused(password: str) -> None:
    raise PermissionError(f"not with {password}")


def test_no_secret_is_committed_and_the_flow_has_them_again(bench: FlowBench) -> None:
    async def main() -> str:
        got = login(PASSWORD)
        bench.did(got == {"header": f"Bearer {KEY}", PASSWORD: [PASSWORD, GITHUB], "web": SPOOF})
        try:
            refused(PASSWORD)
        except PermissionError as error:
            bench.did(str(error) == f"not with {PASSWORD}")
        call(got["header"], got[PASSWORD][1])
        bench.die()
        return KEY

    bench.crash(main)
    run = bench.run.path
    assert holds(run, KEY, PASSWORD, GITHUB) == []
    assert bench.resume(main) == KEY
    assert bench.done == ["True"] * 4
    assert bench.log()[1:4] == ["step 1: login", "failed 2: refused", "step 3: call"]
    assert holds(run, KEY, PASSWORD, GITHUB) == []
    entry = bench.entry("login")
    assert entry.input == {"password": "{kitaru:secret:DB_PASSWORD}"}
    assert entry.metadata == {"used": "{kitaru:secret:DB_PASSWORD}"}
    assert json.loads(bytes(entry.output)) == {
        "header": "Bearer {kitaru:secret:OPENAI_API_KEY}",
        "{kitaru:secret:DB_PASSWORD}": [
            "{kitaru:secret:DB_PASSWORD}",
            "{kitaru:secret:github-token-1}",
        ],
        "web": "{kitaru:secret:}OPENAI_API_KEY}",
    }
    assert entry.secrets is not None
    assert "output/header" in entry.secrets
    assert bench.run.output == "{kitaru:secret:OPENAI_API_KEY}"
    assert git(run, "fsck", "--strict") == ""


def test_the_vault_is_private_and_holds_what_was_used(bench: FlowBench) -> None:
    bench.start(lambda: login(PASSWORD)["header"])
    run = bench.run.path
    vault = run / ".git" / "kitaru" / "vault"
    assert vault.stat().st_mode & 0o777 == 0o600
    assert run.stat().st_mode & 0o777 == 0o700
    assert set(json.loads(vault.read_text())["named"]) == {"OPENAI_API_KEY", "DB_PASSWORD"}


def test_a_run_without_secrets_has_no_vault(bench: FlowBench) -> None:
    bench.start(lambda: call("a header", "a token"))
    assert not (bench.run.path / ".git" / "kitaru" / "vault").exists()


def test_a_secret_that_only_its_shape_gave_away_comes_from_the_vault(
    bench: FlowBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main() -> str:
        got = login(PASSWORD)
        bench.die()
        return call(got["header"], got[PASSWORD][1])

    bench.crash(main)
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("DB_PASSWORD")
    assert bench.resume(lambda: call(**_spread(login(PASSWORD)))) == "Bearer ghp_"
    assert holds(bench.run.path, KEY, PASSWORD, GITHUB) == []


def _spread(got: dict[str, Any]) -> dict[str, str]:
    return {"header": got["header"], "token": got[PASSWORD][1]}


def test_a_rotated_key_is_no_divergence_and_goes_before_the_old_one(
    bench: FlowBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    @step
    def fetch(key: str) -> str:
        return f"with {key}"

    def main() -> list[str]:
        first = fetch(os.environ["OPENAI_API_KEY"])
        bench.die()
        return [first, fetch(first)]

    bench.crash(main)
    monkeypatch.setenv("OPENAI_API_KEY", NEW_KEY)
    assert bench.resume(main) == [f"with {NEW_KEY}", f"with with {NEW_KEY}"]
    assert holds(bench.run.path, KEY, NEW_KEY) == []


def test_another_credential_is_divergence_and_the_error_names_none(
    bench: FlowBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    @step
    def fetch(key: str) -> str:
        return "ok"

    def main() -> str:
        fetch(KEY)
        bench.die()
        return "done"

    bench.crash(main)

    def changed() -> str:
        return fetch(PASSWORD)

    with pytest.raises(DivergenceError) as caught:
        bench.resume(changed)
    assert "{kitaru:secret:DB_PASSWORD}" in caught.value.message
    assert "{kitaru:secret:OPENAI_API_KEY}" in caught.value.message
    assert PASSWORD not in str(caught.value)


def test_a_run_that_began_before_a_secret_was_known_goes_on(
    bench: FlowBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DB_PASSWORD")

    @step
    def fetch(password: str, number: int) -> int:
        bench.did(number)
        return number

    def main() -> int:
        total = fetch(PASSWORD, 1) + fetch(PASSWORD, 1)
        bench.die()
        return total + fetch(PASSWORD, 1) + fetch(PASSWORD, 2)

    bench.crash(main)
    monkeypatch.setenv("DB_PASSWORD", PASSWORD)
    for _ in range(2):
        bench.crash(lambda: main() and bench.die(), resume=True)
    assert bench.resume(main) == 5
    assert bench.done == ["1", "1", "1", "2"]


def test_a_clone_without_the_vault_asks_the_environment_and_names_the_step(
    bench: FlowBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(bench.root / "once") == f"the key is {KEY}"
    bench.run.rewind("tell")
    clone = bench.root / "runs" / "clone"
    git(bench.root, "clone", "-q", str(bench.run.path), str(clone))
    assert not (clone / ".git" / "kitaru" / "vault").exists()
    copied = Workspace(bench.root).run("clone")
    monkeypatch.delenv("OPENAI_API_KEY")
    shared_credentials.cache_clear()
    with pytest.raises(SecretMissingError, match=r"the output of step 1 \(tell\).*OPENAI_API_KEY"):
        copied.resume()
    assert [line.subject for line in copied.refresh().log()] == ["start: told", "step 1: tell"]
    monkeypatch.setenv("OPENAI_API_KEY", NEW_KEY)
    assert copied.resume() == f"the key is {NEW_KEY}"


def test_a_copy_of_the_directory_carries_the_vault(
    bench: FlowBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(bench.root / "once")
    bench.run.rewind("tell")
    copy = bench.root / "runs" / "copy"
    shutil.copytree(bench.run.path, copy, symlinks=True)
    monkeypatch.delenv("OPENAI_API_KEY")
    shared_credentials.cache_clear()
    assert Workspace(bench.root).run("copy").resume() == f"the key is {KEY}"


@step
def tell(place: Path) -> str:
    place.touch(exist_ok=False)
    return f"the key is {os.environ['OPENAI_API_KEY']}"


@flow
def told(place: Path) -> str:
    return tell(place)


def test_the_input_is_kept_out_and_given_to_the_flow(
    bench: FlowBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(KEY, [{"nested": GITHUB}], bench.root / "seen")
    run = bench.run.path
    assert holds(run, KEY, GITHUB) == []
    request = json.loads((run / "run.json").read_text())
    assert request["input"]["key"] == "{kitaru:secret:OPENAI_API_KEY}"
    assert request["secrets"] == ["input/key", "input/more/0/nested"]
    assert json.loads((bench.root / "seen").read_text()) == [KEY, [{"nested": GITHUB}]]
    bench.run.rewind("0")
    monkeypatch.delenv("OPENAI_API_KEY")
    shared_credentials.cache_clear()
    bench.run.resume()
    assert json.loads((bench.root / "seen").read_text()) == [KEY, [{"nested": GITHUB}]]
    bench.run.rewind("0")
    shutil.rmtree(run / ".git" / "kitaru")
    with pytest.raises(SecretMissingError, match="input of run"):
        bench.run.resume()


@step
def record(key: str, more: list[Any], place: Path) -> None:
    place.write_text(json.dumps([key, more]))


@flow
def asked(key: str, more: list[Any], place: Path) -> str:
    record(key, more, place)
    return "done"


@flow
def parent(place: Path) -> str:
    return asked(KEY, [], place)


def test_a_child_run_has_what_it_needs_in_its_own_vault(
    bench: FlowBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent(bench.root / "seen")
    child, top = sorted(Workspace(bench.root).runs(), key=lambda run: run.flow)
    assert (child.flow, top.flow) == ("asked", "parent")
    for run in (child, top):
        assert holds(run.path, KEY) == []
    assert (child.path / ".git" / "kitaru" / "vault").exists()


def test_a_fork_has_the_vault_of_what_it_goes_on_from(
    bench: FlowBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(KEY, [GITHUB], bench.root / "seen")
    monkeypatch.delenv("OPENAI_API_KEY")
    fork = bench.run.fork("record")
    fork.resume()
    assert json.loads((bench.root / "seen").read_text()) == [KEY, [GITHUB]]
    again = fork.fork("record", input={"more": [KEY]})
    assert holds(again.path, KEY, GITHUB) == []
    again.resume()
    assert json.loads((bench.root / "seen").read_text()) == [KEY, [KEY]]


def test_names_and_keys_are_masked(bench: FlowBench) -> None:
    @step(name=f"fetch {KEY}")
    def named() -> int:
        bench.did("named")
        return 1

    def main() -> int:
        got = named()
        bench.die()
        return got

    bench.crash(main)
    assert bench.resume(main) == 1
    assert bench.done == ["named"]
    assert holds(bench.run.path, KEY) == []
    assert bench.log()[1] == "step 1: fetch {kitaru:secret:OPENAI_API_KEY}"


def test_large_arguments_and_outputs(bench: FlowBench) -> None:
    @step
    def echo(text: str) -> str:
        bench.did("echo")
        return text

    text = f"{'x' * 70_000}{KEY}{'y' * 70_000}"

    def main() -> str:
        got = echo(text)
        bench.die()
        return got

    bench.crash(main)
    assert bench.resume(main) == text
    assert bench.done == ["echo"]
    assert holds(bench.run.path, KEY) == []
    assert (bench.entry("echo").output_file or "").endswith(".out")


def test_bytes_in_outputs(bench: FlowBench) -> None:
    @step
    def read() -> bytes:
        return b"\0\xff" + KEY.encode() + b"\xfe"

    def main() -> bytes:
        got = read()
        bench.die()
        return got

    bench.crash(main)
    assert bench.resume(main) == b"\0\xff" + KEY.encode() + b"\xfe"
    assert b"AbCdEfGh" not in everything(bench.run.path)


def test_a_message_that_is_cut_leaves_no_piece(bench: FlowBench) -> None:
    @step
    def fails() -> None:
        raise ValueError("x" * (16 * 1024 - 80) + KEY + "y" * 200)

    def main() -> None:
        fails()

    with pytest.raises(ValueError, match="x"):
        bench.start(main)
    assert b"AbCdEfGh" not in everything(bench.run.path)


def test_code_that_holds_a_secret_is_recorded_without(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    (workspace / "agents").mkdir(parents=True)
    (workspace / "kitaru.toml").write_text('durability = "process"\n')
    (workspace / "agents" / "hard.py").write_text(
        f"from kitaru_fs import flow\n\nTOKEN = {GITHUB!r}\n\n\n@flow\ndef hard() -> int:\n"
        "    return len(TOKEN)\n"
    )
    place = Workspace(workspace)
    found, target = place.load("hard")
    run = Run(place.create(found, {}, target=target), place)
    assert holds(run.path, GITHUB) == []
    assert (
        "TOKEN = '{kitaru:secret:github-token}'" in (run.path / "code/agents/hard.py").read_text()
    )
    assert run.resume() == 40
    assert holds(run.path, GITHUB) == []


# Files


def test_a_file_that_holds_a_credential_is_left_out_and_listed(bench: FlowBench) -> None:
    @step
    def write() -> None:
        bench.files.joinpath("config.ini").write_text(f"key = {KEY}\n")
        bench.files.joinpath("notes.txt").write_text(f"a token of others: {GITHUB}\n")
        bench.files.joinpath("big.log").write_text("x" * 300_000 + PASSWORD + "\n")
        bench.files.joinpath("link").symlink_to(f"/nowhere/{KEY}")
        bench.files.joinpath(f"dump-{KEY}.txt").write_text("a name that tells")
        bench.files.joinpath("fine.txt").write_text("fine\n")

    @step
    def more() -> None:
        bench.files.joinpath("later.txt").write_text("later\n")

    bench.start(lambda: [write(), more()])
    run = bench.run.path
    assert holds(run, KEY, PASSWORD) == []
    assert git(run, "ls-files", "files").split() == [
        "files/fine.txt",
        "files/later.txt",
        "files/notes.txt",
    ]
    listed = {one["path"]: one["reason"] for one in bench.entry("write").left_out or ()}
    assert listed == {
        "big.log": "holds the secret DB_PASSWORD",
        "config.ini": "holds the secret OPENAI_API_KEY",
        "link": "holds the secret OPENAI_API_KEY",
        "(name 1)": "its name holds OPENAI_API_KEY",
    }
    assert bench.entry("more").left_out is None
    bench.run.rewind("0")
    assert bench.text("config.ini") == f"key = {KEY}\n"
    assert bench.text(f"dump-{KEY}.txt") == "a name that tells"
    assert not bench.files.joinpath("fine.txt").exists()


def test_a_file_that_is_in_the_history_already_comes_back(
    bench: FlowBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")

    @step
    def write() -> None:
        bench.files.joinpath("config.ini").write_text(f"key = {KEY}\n")
        bench.files.joinpath("big.ini").write_text("x" * 300_000 + KEY)

    @step
    def remove() -> None:
        bench.files.joinpath("config.ini").unlink()
        bench.files.joinpath("big.ini").unlink()

    bench.start(lambda: [write(), remove()])
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    bench.run.rewind("write")
    assert bench.text("config.ini") == f"key = {KEY}\n"
    assert bench.git("status", "--porcelain") == ""
    bench.resume()
    assert bench.log()[2] == "resume 2: asked"


def test_a_directory_whose_name_tells_is_left_out(bench: FlowBench) -> None:
    @step
    def write() -> None:
        folder = bench.files / "out" / KEY
        folder.mkdir(parents=True)
        folder.joinpath("a.txt").write_text("a")

    bench.start(lambda: write())
    assert holds(bench.run.path, KEY) == []
    bench.run.rewind("0")
    assert (bench.files / "out" / KEY / "a.txt").read_text() == "a"


def test_settings_name_variables_and_patterns(
    bench: FlowBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUSTOMER", "Acme & Sons")
    (bench.root / "kitaru.toml").write_text(
        'durability = "process"\n[redact]\nenv = ["CUST*"]\npatterns = ["PAT-[0-9]+"]\n'
    )

    @step
    def write(name: str) -> str:
        bench.files.joinpath("patient.txt").write_text("PAT-12345")
        return f"{name} has PAT-12345"

    def main() -> str:
        got = write("Acme & Sons")
        bench.die()
        return got

    bench.crash(main)
    assert bench.resume(main) == "Acme & Sons has PAT-12345"
    assert holds(bench.run.path, "Acme & Sons", "PAT-12345") == []
    assert git(bench.run.path, "ls-files", "files") == ""


def test_a_key_is_found_again_though_it_holds_a_secret(bench: FlowBench) -> None:
    first, new = Workspace(bench.root).create_once(asked, {}, key=f"job-{KEY}")
    assert new
    assert Workspace(bench.root).create_once(asked, {}, key=f"job-{KEY}") == (first, False)
    found = Workspace(bench.root).find_key(f"job-{KEY}")
    assert found is not None
    assert found.path == first
    assert holds(first, KEY) == []


def test_steps_side_by_side_keep_their_secrets_apart(bench: FlowBench) -> None:
    tokens = [f"ghp_{n:036d}" for n in range(6)]

    @step
    async def fetch(token: str) -> str:
        await asyncio.sleep(0)
        bench.did(token)
        return token

    async def main() -> list[str]:
        got = await asyncio.gather(*(fetch(token) for token in tokens))
        bench.die()
        return list(got)

    bench.crash(main)
    assert bench.resume(main) == tokens
    assert len(bench.done) == 6
    assert holds(bench.run.path, *tokens) == []


def test_the_default_of_a_wait_is_given_with_its_secret(
    bench: FlowBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> str:
        return str(await wait("token", f"Use {KEY}?", schema=str, timeout=0.05, default=KEY))

    assert bench.start(main) == KEY
    assert holds(bench.run.path, KEY) == []
    bench.run.rewind("1")
    assert bench.resume(main) == KEY
    assert holds(bench.run.path, KEY) == []
