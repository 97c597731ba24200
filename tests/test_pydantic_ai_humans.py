"""Approvals, calls that others execute, and external events: waits of the run."""

from __future__ import annotations

import json

import pytest
from agentbench import AgentBench

from kitaru_fs import UsageError
from kitaru_fs.errors import RunWaiting
from kitaru_fs.pydantic_ai import releases

MAIL = """
    from pydantic_ai import CallDeferred

    agent = Agent(
        scripted(
            [("send", {"to": "all", "text": "hello"})],
            lambda m: " / ".join(str(part.content) for part in m[-1].parts),
        ),
        name="mailer", capabilities=[KitaruDurability()],
    )

    @agent.tool_plain(APPROVAL)
    def send(to: str, text: str) -> str:
        called(f"send {to} {text}")
        return f"sent to {to}"

    @flow
    async def main() -> str:
        result = await agent.run("send it")
        saved(result)
        return result.output
"""

BY_PYDANTIC = "requires_approval=True"
BY_METADATA = 'metadata={"kitaru": {"approve": True}}'


def _asked(place: AgentBench, approval: str = BY_PYDANTIC) -> None:
    place.settings('linger = "0s"\n')
    place.write(MAIL.replace("APPROVAL", approval))
    with pytest.raises(RunWaiting):
        place.run()
    assert place.last.status == "waiting"
    assert place.calls == ["model 0"]


@pytest.mark.parametrize("approval", [BY_PYDANTIC, BY_METADATA])
def test_a_tool_that_needs_approval_is_a_wait_and_yes_goes_on(
    place: AgentBench, approval: str
) -> None:
    _asked(place, approval)
    (wait,) = place.last.waits
    assert wait["name"] == "approve send"
    assert wait["question"] == 'agent mailer: approve send(to="all", text="hello")'
    place.kitaru("answer", "last", "yes")
    assert place.last.resume() == "sent to all"
    assert place.calls == ["model 0", "send all hello", "model 1"]
    kinds = [entry["kind"] for entry in place.entries]
    assert kinds.count("wait") == kinds.count("reply") == 1
    asked = next(entry for entry in place.entries if entry["kind"] == "wait")
    assert asked["input"]["arguments"] == {"to": "all", "text": "hello"}


def test_no_has_a_reason_that_the_model_is_told(place: AgentBench) -> None:
    _asked(place)
    place.kitaru("answer", "last", "not today", "--reject")
    assert place.last.resume() == "not today"
    assert place.calls == ["model 0", "model 1"]


def test_a_reply_may_change_the_arguments(place: AgentBench) -> None:
    _asked(place)
    changed = {"arguments": {"to": "me", "text": "hello"}}
    (place.last.path / "inbox" / "approve send.json").write_text(json.dumps(changed))
    assert place.last.resume() == "sent to me"
    assert "send me hello" in place.calls


def test_a_plain_no_and_an_object_that_says_no(place: AgentBench) -> None:
    _asked(place)
    place.last.answer({"approve": False, "reason": "too long"})
    assert place.last.resume() == "too long"


def test_a_reply_that_is_no_approval_is_refused_in_a_sentence(place: AgentBench) -> None:
    _asked(place)
    for nonsense in ("maybe", 7, {"aprove": True}):
        with pytest.raises(UsageError):
            place.last.answer(nonsense)
    shown = place.kitaru("answer", "last", "perhaps", status=2).stderr
    assert "Traceback" not in shown
    assert place.last.status == "waiting"
    place.last.answer(True)
    assert place.last.resume() == "sent to all"


def test_a_dropped_file_that_is_no_approval_is_refused_and_the_wait_stays(
    place: AgentBench,
) -> None:
    _asked(place)
    inbox = place.last.path / "inbox"
    (inbox / "approve send.json").write_text('{"aprove": true}')
    shown = place.kitaru("resume", "last", status=3).stderr
    assert "aprove" in shown
    assert "Traceback" not in shown
    assert place.last.status == "waiting"
    (inbox / "approve send.json").write_text('{"approve": true}')
    assert place.last.resume() == "sent to all"


def test_a_wait_for_approval_says_how_to_answer_it(place: AgentBench) -> None:
    _asked(place)
    shown = place.kitaru("waits")
    assert 'reply: yes or no, or {"approve"?: yes or no, "reason"?: a text, ' in shown.stdout
    assert f"kitaru answer {place.last.id} yes|no" in shown.stderr


def test_an_approved_call_is_not_asked_about_again(place: AgentBench) -> None:
    place.settings('linger = "0s"\n')
    code = MAIL.replace("APPROVAL", BY_PYDANTIC)
    place.write(
        code.replace(
            "        return result.output", "        await fragile()\n        return result.output"
        )
    )
    with pytest.raises(RunWaiting):
        place.run()
    place.last.answer(True)
    with pytest.raises(RuntimeError, match="not yet"):
        place.last.resume()
    before = place.calls
    place.mend()
    assert place.last.resume() == "sent to all"
    assert place.calls == [*before, "fragile"]
    assert place.messages[0] == place.messages[1]


def test_several_approvals_are_open_at_once(place: AgentBench) -> None:
    place.settings('linger = "0s"\n')
    code = MAIL.replace("APPROVAL", BY_PYDANTIC)
    place.write(
        code.replace(
            '[("send", {"to": "all", "text": "hello"})]',
            '[("send", {"to": "a", "text": "x"}), ("send", {"to": "b", "text": "y"})]',
        )
    )
    with pytest.raises(RunWaiting):
        place.run()
    waits = place.last.waits
    assert len(waits) == 2
    steps = [entry["step"] for entry in place.entries if entry["kind"] == "wait"]
    place.last.answer(False, wait=str(steps[0]))
    place.last.answer(True, wait=str(steps[1]))
    assert place.last.resume() == "The tool call was denied. / sent to b"


def test_a_call_that_others_execute_is_a_wait_for_its_result(place: AgentBench) -> None:
    place.settings('linger = "0s"\n')
    place.write(
        MAIL.replace("(APPROVAL)", "").replace(
            'called(f"send {to} {text}")', "raise CallDeferred()"
        )
    )
    with pytest.raises(RunWaiting):
        place.run()
    (wait,) = place.last.waits
    assert wait["name"] == "result send"
    place.last.answer({"id": 7})
    assert place.last.resume() == "{'id': 7}"


def test_a_flow_that_takes_the_requests_itself_is_not_asked(place: AgentBench) -> None:
    place.write(
        MAIL.replace("APPROVAL", BY_PYDANTIC)
        .replace('name="mailer",', 'name="mailer", output_type=[str, DeferredToolRequests],')
        .replace("return result.output", "return str(len(result.output.approvals))")
    )
    assert place.run() == "1"


@pytest.mark.skipif(releases.event_scope is None, reason="a newer release of Pydantic AI has them")
def test_an_external_event_is_a_wait(place: AgentBench) -> None:
    place.settings('linger = "0s"\n')
    place.write("""
        from pydantic_ai.capabilities import AbstractCapability
        from pydantic_ai.external_events import wait_for_external_event

        class Review(AbstractCapability):
            async def after_run(self, ctx, *, result):
                def ask(token):
                    called(f"asked with {token.split()[1]}")
                self.said = await wait_for_external_event("review", ask=ask)
                return result

        review = Review()
        agent = Agent(scripted("draft"), name="reviewed", capabilities=[review, KitaruDurability()])

        @flow
        async def main() -> str:
            await agent.run("write")
            await fragile()
            return review.said
        """)
    with pytest.raises(RunWaiting):
        place.run()
    place.kitaru("answer", "last", "fine", "--wait", "review")
    with pytest.raises(RuntimeError):
        place.last.resume()
    place.mend()
    assert place.last.resume() == "fine"
    assert place.calls == ["model 0", "asked with review", "fragile", "fragile"]
