"""What a tool's metadata says of its calls."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from agentbench import AgentBench

from kitaru_fs.errors import OutputError, UsageError

MAIL = """
    import signal, sys

    agent = Agent(scripted([("send", {"to": "all"})], lambda m: str(m[-1].parts[0].content)),
                  name="mailer", capabilities=[KitaruDurability()])

    @agent.tool_plain(metadata={"kitaru": OPTIONS})
    async def send(to: str) -> str:
        called(f"sent {this_step().idempotency_key}")
        if broken():
            os.kill(os.getpid(), signal.SIGKILL)
        return "sent"

    @flow
    async def main() -> str:
        result = await agent.run("send it")
        return result.output
"""


def _killed(place: AgentBench, options: str) -> None:
    place.write(MAIL.replace("OPTIONS", options))
    code = "import asyncio, sys; from kitaru_fs import Workspace;" + (
        "asyncio.run(Workspace(sys.argv[1]).load('agents/them.py:main')[0]())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(place.workspace.path)], env=dict(os.environ), check=False
    )
    assert done.returncode == -signal.SIGKILL
    place.mend()


def test_a_tool_with_an_effect_commits_its_intent(place: AgentBench) -> None:
    _killed(place, '{"effect": "sends the mail"}')
    assert [line.kind for line in place.last.log()] == ["start", "model", "intent"]
    with ThreadPoolExecutor() as pool:
        resumed = pool.submit(place.last.resume)
        while not (waits := place.last.waits):
            assert not resumed.done(), resumed.result()
            time.sleep(0.01)
        assert waits[0]["name"] == "was-send-done"
        place.last.answer({"done": "sent before"})
        assert resumed.result() == "sent before"


def test_an_effect_that_may_be_tried_again_has_the_same_key(place: AgentBench) -> None:
    _killed(place, '{"effect": "sends the mail", "on_unknown": "retry"}')
    assert place.last.resume() == "sent"
    first, second = [call for call in place.calls if call.startswith("sent")]
    assert first == second


def test_an_effect_that_is_skipped_returns_nothing(place: AgentBench) -> None:
    _killed(place, '{"effect": "sends the mail", "on_unknown": "skip"}')
    assert place.last.resume() == "None"
    assert len([call for call in place.calls if call.startswith("sent")]) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ('{"effect": ""}', "effect must say what the call does"),
        ('{"on_unknown": "maybe"}', 'on_unknown must be "ask", "retry" or "skip"'),
    ],
)
def test_an_effect_that_makes_no_sense_is_refused(
    place: AgentBench, options: str, said: str
) -> None:
    place.write(MAIL.replace("OPTIONS", options))
    with pytest.raises(UsageError, match=said):
        place.run()


def test_a_tool_that_takes_too_long_is_given_up_and_tried_again(place: AgentBench) -> None:
    place.write("""
        agent = Agent(scripted([("slow", {})], lambda m: str(m[-1].parts[0].content)),
                      name="slow", capabilities=[KitaruDurability(tool_timeout=60)])

        @agent.tool_plain(metadata={"kitaru": {"timeout": 0.05, "retries": 1, "backoff": 0}})
        async def slow() -> str:
            called(f"attempt {this_step().attempt}")
            (files() / f"{this_step().attempt}.txt").touch()
            if this_step().attempt == 1:
                await asyncio.Event().wait()
            return "in time"

        @flow
        async def main() -> str:
            return (await agent.run("go")).output
        """)
    assert place.run() == "in time"
    assert place.calls == ["model 0", "attempt 1", "attempt 2", "model 1"]
    failed = next(entry for entry in place.entries if entry["kind"] == "failed")
    assert "StepTimeout" in failed["error"]["type"]
    assert sorted(file.name for file in (place.last.path / "files").iterdir()) == ["2.txt"]


def test_a_tool_s_output_can_be_set_in_a_fork(place: AgentBench) -> None:
    place.write(MAIL.replace("OPTIONS", '{"retries": 1}').replace("if broken():", "if False:"))
    assert place.run() == "sent"
    forked = place.last.fork("send", set={"send": "in vain"})
    assert json.loads(json.dumps(forked.resume())) == "in vain"
    assert len([call for call in place.calls if call.startswith("sent")]) == 1


def test_a_model_s_answer_can_be_set_in_a_fork(place: AgentBench) -> None:
    place.write("""
        agent = Agent(scripted([("look", {})], "over", "more"), name="asked",
                      capabilities=[KitaruDurability()])

        @agent.tool_plain
        def look() -> str:
            called("look")
            return "nothing"

        @flow
        async def main() -> str:
            first = await agent.run("one")
            second = await agent.run("two", message_history=first.all_messages())
            saved(second)
            await fragile()
            return f"{first.output}, {second.output}"
        """)
    place.mend()
    assert place.run() == "over, over"
    before, origin = place.calls, place.last
    said = json.dumps("no, not yet")
    place.kitaru("fork", f"{origin.id}@3", "--set", f"asked.model#2={said}", "--run")
    assert place.last.output == "no, not yet, over"
    assert place.calls[len(before) :] == ["model 0", "look", "model 1", "fragile"]
    assert place.messages[1][3]["parts"][0]["content"] == "no, not yet"
    # It has one time, whoever reads it.
    again = place.last.fork(str(place.last.log()[-1].step))
    again.resume()
    assert place.messages[2] == place.messages[1]

    called = {"parts": [{"part_kind": "tool-call", "tool_name": "look", "args": {}}]}
    forked = origin.fork("asked.model#2", set={"asked.model#2": called})
    assert forked.resume() == "more, over"

    refused = origin.fork("asked.model#2", set={"asked.model#2": 7})
    with pytest.raises(OutputError, match="cannot be read") as caught:
        refused.resume()
    assert "the form that `kitaru show` shows" in caught.value.hint
