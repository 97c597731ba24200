"""What an agent is told in confidence is in no entry; a rotated key asks no model again."""

from __future__ import annotations

import pytest
from agentbench import AgentBench
from plain_git import git

from kitaru_fs import Workspace
from kitaru_fs.redaction.credentials import shared_credentials

KEY = "sk-proj-AbCdEfGhIjKlMnOpQrStUvWx0123456789"
NEW_KEY = "sk-proj-rotated-rotated-rotated-0123456789"

AGENT = """
    agent = Agent(
        scripted([("fetch", {"token": os.environ["SERVICE_TOKEN"]})], "done"),
        name="them", instructions=f"The token is {os.environ['SERVICE_TOKEN']}.",
        capabilities=[KitaruDurability()],
    )

    @agent.tool_plain
    def fetch(token: str) -> str:
        called("fetch")
        return "x" * 33_000 + token

    @flow
    async def main() -> str:
        prompt = "y" * 395 + os.environ["SERVICE_TOKEN"] + " " + "z" * 500
        result = await agent.run(prompt)
        await fragile()
        return result.output
"""


@pytest.fixture
def told(place: AgentBench, monkeypatch: pytest.MonkeyPatch) -> AgentBench:
    shared_credentials.cache_clear()
    monkeypatch.setenv("SERVICE_TOKEN", KEY)
    place.write(AGENT)
    return place


def history(place: AgentBench) -> str:
    shown = [file.read_text() for file in place.last.path.glob("journal/*/*")]
    return "".join([*shown, git(place.last.path, "log", "--all", "-p", "--format=raw")])


def test_no_secret_of_a_conversation_is_committed(told: AgentBench) -> None:
    assert told.resumes_alike() == "done"
    # The tail of the prompt is cut off in the message: no piece of the key may be left at its end.
    assert "AbCdEfGh" not in history(told)
    assert "sk-proj" not in history(told)
    assert told.named("fetch")["input"] == {"token": "{kitaru:secret:SERVICE_TOKEN}"}


def test_a_rotated_key_asks_nobody_again(told: AgentBench, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="not yet"):
        told.run()
    before = told.calls
    told.mend()
    monkeypatch.setenv("SERVICE_TOKEN", NEW_KEY)
    assert told.last.resume() == "done"
    assert told.calls == [*before, "fragile"]
    assert "rotated-rotated" not in history(told)


def test_a_conversation_from_before_its_secret_was_known_goes_on(
    told: AgentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", "not so known")
    told.write(AGENT.replace("SERVICE_TOKEN", "CUSTOMER"))
    monkeypatch.setenv("CUSTOMER", "Acme and Sons")
    with pytest.raises(RuntimeError, match="not yet"):
        told.run()
    before = told.calls
    told.mend()
    (told.workspace.path / "kitaru.toml").write_text('[redact]\nenv = ["CUSTOMER"]\n')
    assert Workspace(told.workspace.path).run().resume() == "done"
    assert told.calls == [*before, "fragile"]
