"""Steps with an effect outside of the run: the intent comes first; a crash leaves it unknown."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from cli_program import Program
from flowbench import FlowBench
from plain_git import git

from kitaru_fs import files, step, this_step
from kitaru_fs.errors import RunWaiting, UsageError, WaitRejected

MAIL = "sends the mail"


@pytest.fixture(autouse=True)
def no_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KITARU_LINGER", "0")


def mailer(bench: FlowBench, on_unknown: Any = "ask") -> Any:
    """A flow that sends a mail, and dies, once, between sending it and its commit."""

    @step
    def write() -> str:
        (files() / "mail.txt").write_text("Dear Ada")
        return "Dear Ada"

    @step(effect=MAIL, on_unknown=on_unknown)
    def send(text: str) -> str | None:
        bench.did(f"{text} {this_step().idempotency_key}")
        bench.die()
        return "sent"

    @step
    def note(said: str | None) -> str:
        return f"it was {said}"

    def body() -> str:
        return note(send(write()))

    return body


def keys(bench: FlowBench) -> list[str]:
    return [line.rpartition(" ")[2] for line in bench.done]


def test_the_intent_stands_before_the_call_and_holds_its_key(bench):
    seen: list[list[str]] = []

    @step(effect=MAIL)
    def send() -> str:
        seen.append(bench.log())
        return this_step().idempotency_key

    key = bench.start(send)
    assert seen == [["start: main", "intent 1: send"]]
    assert bench.log() == ["start: main", "intent 1: send", "step 2: send", "completed: main"]
    intent = bench.entry(1)
    assert (intent.kind, intent.effect, intent.idempotency_key) == ("intent", MAIL, key)
    assert f"Kitaru-Effect: {MAIL}" in bench.git("log", "--format=%B", "HEAD~2..HEAD~1")


def test_without_a_result_it_is_a_humans_to_say(bench):
    body = mailer(bench)
    bench.crash(body)
    assert bench.log()[-1] == "intent 2: send"
    unanswered(bench, body)
    (wait,) = bench.run.waits
    assert wait["name"] == "was-send-done"
    assert f"step 2 (send) {MAIL}, and its process died: was it done?" in wait["question"]
    assert len(bench.done) == 1
    assert bench.log()[-1] == "wait 4: was-send-done"


def unanswered(bench: FlowBench, body: Any) -> None:
    """Resumes until a human is asked."""
    with pytest.raises(RunWaiting):
        bench.resume(body)
    assert bench.run.status == "waiting"


@pytest.mark.parametrize(
    ("answer", "result", "times"),
    [
        ("retry", "it was sent", 2),
        ("skip", "it was None", 1),
        ({"done": "posted"}, "it was posted", 1),
    ],
)
def test_what_a_human_says_is_what_becomes_of_it(bench, answer, result, times):
    body = mailer(bench)
    bench.crash(body)
    unanswered(bench, body)
    bench.run.answer(answer)
    assert bench.resume(body) == result
    assert len(bench.done) == times
    assert len(set(keys(bench))) == 1
    # It is all in the journal: replayed, it is neither asked nor done again.
    bench.run.rewind("note")
    assert bench.resume(body) == result
    assert len(bench.done) == times


def test_an_answer_counts_for_one_intent(bench):
    body = mailer(bench)
    bench.crash(body)
    unanswered(bench, body)
    bench.run.answer("retry")
    bench.crash(body, resume=True)
    assert len(bench.done) == 2
    unanswered(bench, body)
    bench.run.answer({"done": "posted"})
    assert bench.resume(body) == "it was posted"
    assert len(bench.done) == 2
    kinds = [line.kind for line in bench.run.log()]
    assert (kinds.count("intent"), kinds.count("wait"), kinds.count("reply")) == (2, 2, 2)


@pytest.mark.parametrize("answer", ["perhaps", {"done": 3}, {"other": "x"}, {}, 3])
def test_an_answer_that_does_not_fit_is_refused(bench, answer):
    body = mailer(bench)
    bench.crash(body)
    unanswered(bench, body)
    try:
        bench.run.answer(answer)
    except UsageError:
        pass
    else:
        # Only the flow knows what its step returns.
        unanswered(bench, body)
    assert len(bench.run.waits) == 1
    assert len(bench.done) == 1


def test_a_refused_answer_is_the_flows_to_handle(bench):
    body = mailer(bench)
    bench.crash(body)
    unanswered(bench, body)
    bench.run.answer(None, reject=True)
    with pytest.raises(WaitRejected):
        bench.resume(body)


def test_the_code_may_say_it(bench):
    bench.crash(mailer(bench))
    assert bench.resume(mailer(bench, "retry")) == "it was sent"


def test_the_last_answer_may_be_taken_back(bench):
    body = mailer(bench)
    bench.crash(body)
    unanswered(bench, body)
    bench.run.answer("skip")
    bench.run.undo()
    unanswered(bench, body)
    bench.run.answer("retry")
    assert bench.resume(body) == "it was sent"


def test_an_async_flow_is_asked_while_others_go_on(bench):
    @step(effect=MAIL)
    async def send() -> str:
        bench.did("sent")
        bench.die()
        return "sent"

    @step
    async def other() -> str:
        bench.did("other")
        return "other"

    async def body() -> list[str]:
        return list(await asyncio.gather(send(), other()))

    bench.crash(body)
    unanswered(bench, body)
    assert bench.counts["other"] == 1
    bench.run.answer({"done": "posted"})
    assert bench.resume(body) == ["posted", "other"]
    assert bench.counts == {"sent": 1, "other": 1}


def test_retry_passes_the_same_key_on(bench):
    body = mailer(bench, "retry")
    bench.crash(body)
    bench.crash(body, resume=True)
    assert bench.resume(body) == "it was sent"
    assert len(set(keys(bench))) == 1
    assert len(bench.done) == 3


def test_retry_passes_the_same_key_on_from_a_branch_that_begins_at_the_intent(bench):
    body = mailer(bench, "retry")
    bench.crash(body)
    intent = bench.run.log()[-1].commit
    bench.resume(body)
    git(bench.run.path, "checkout", "-q", intent)
    bench.resume(body)
    assert bench.run.state()["branch"] == "branch-2"
    assert len(set(keys(bench))) == 1
    # From before the intent it is another mail.
    git(bench.run.path, "checkout", "-q", f"{intent}~1")
    bench.resume(body)
    assert len(set(keys(bench))) == 2


def test_skip_takes_it_for_done_now_and_on_every_replay(bench):
    body = mailer(bench, "skip")
    bench.crash(body)
    assert bench.resume(body) == "it was None"
    assert len(bench.done) == 1
    assert (bench.entry("send").metadata or {})["skipped"]
    bench.run.rewind("note")
    assert bench.resume(body) == "it was None"
    assert len(bench.done) == 1


def test_each_attempt_has_an_intent_and_the_same_key(bench):
    seen: list[str] = []

    @step(effect=MAIL, retries=2, backoff=0)
    def send() -> None:
        seen.append(this_step().idempotency_key)
        if len(seen) < 3:
            raise OSError("no connection")

    bench.start(send)
    kinds = [line.kind for line in bench.run.log()]
    assert kinds == ["start", "intent", "failed", "intent", "failed", "intent", "step", "end"]
    assert len(set(seen)) == 1


def test_a_failed_attempt_is_not_unknown(bench):
    seen: list[int] = []

    @step(effect=MAIL)
    def send() -> int:
        seen.append(1)
        if len(seen) == 1:
            raise OSError("no connection")
        return len(seen)

    with pytest.raises(OSError, match="no connection"):
        bench.start(send)
    assert bench.resume(send) == 2


def test_a_step_that_was_given_up_in_the_middle_is_unknown(bench):
    @step(effect=MAIL, on_unknown="skip")
    async def send() -> int | None:
        bench.did("sent")
        await asyncio.Event().wait()

    async def body() -> int | None:
        sending = asyncio.ensure_future(send())
        while not bench.done:
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        raise ValueError("given up")

    async def again() -> int | None:
        return await send()

    with pytest.raises(ValueError, match="given up"):
        bench.start(body)
    assert bench.resume(again) is None
    assert bench.done == ["sent"]


def test_two_at_the_same_time_are_told_apart(bench):
    @step(effect=MAIL, on_unknown="retry")
    async def send(to: str) -> str:
        bench.did(to)
        if to == "bob":
            while "step" not in [line.kind for line in bench.run.log()]:
                await asyncio.sleep(0)
            bench.die()
        return to

    async def body() -> list[str]:
        return list(await asyncio.gather(send("ada"), send("bob")))

    bench.crash(body)
    assert bench.resume(body) == ["ada", "bob"]
    assert bench.counts == {"ada": 1, "bob": 2}


def test_in_a_fork_it_is_done_again_without_a_question(bench):
    body = mailer(bench)
    bench.start(body)
    fork = bench.run.fork("send")
    assert [line.kind for line in fork.log()] == ["start", "step", "intent", "fork"]
    assert fork.resume() == "it was sent"
    assert len(set(keys(bench))) == 2


def test_a_fork_that_keeps_all_keeps_the_question(bench):
    body = mailer(bench)
    bench.crash(body)
    bench.run.fork()
    unanswered(bench, body)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"on_unknown": "retry"}, "for a step with an effect"),
        ({"effect": "x", "on_unknown": "guess"}, "must be"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        step(**options)


def test_what_may_be_skipped_may_return_none(bench):
    @step(effect=MAIL, on_unknown="skip")
    def send() -> int:
        bench.did("sent")
        return 1

    with pytest.raises(UsageError, match="returns None, and 'send' must not"):
        bench.start(send)
    assert bench.done == []


# What a rewind says of it


def test_a_rewind_names_what_it_cannot_undo(bench):
    @step(effect="orders a pizza")
    def order(number: int) -> int:
        if number == 2:
            raise ValueError("closed")
        return number

    @step
    def plain() -> int:
        return 0

    def body() -> None:
        plain()
        for number in (1, 2):
            try:
                order(number)
            except ValueError:
                plain()

    bench.start(body)
    run = bench.run
    planned = run.rewind("1", dry_run=True)
    found = [(effect.step, effect.name, effect.outcome) for effect in planned.cannot_undo]
    assert found == [(3, "order", "done"), (5, "order", "failed")]
    assert run.rewind("3", dry_run=True).cannot_undo == planned.cannot_undo[1:]
    # To the intent itself: what it came to is left behind.
    assert run.rewind("2", dry_run=True).cannot_undo == planned.cannot_undo
    done = run.rewind("1")
    assert done.cannot_undo == planned.cannot_undo
    assert run.refresh().undo().cannot_undo == []
    assert run.refresh().redo().cannot_undo == planned.cannot_undo


def test_what_is_not_known_is_named_too(bench):
    bench.crash(mailer(bench))
    (effect,) = bench.run.rewind("write", dry_run=True).cannot_undo
    assert (effect.step, effect.effect, effect.outcome) == (2, MAIL, "unknown")
    (effect,) = bench.run.rewind("0").cannot_undo
    assert effect.outcome == "unknown"


AGENT = """
import os
from kitaru_fs import flow, step

@step
def write() -> str:
    return "Dear Ada"

@step(effect="sends the mail")
def send(text: str) -> None:
    if "DIE" in os.environ:
        os.kill(os.getpid(), 9)

@flow
def mail() -> None:
    send(write())
"""


@pytest.fixture
def kitaru(tmp_path: Path) -> Program:
    made = Program(tmp_path)
    (made.workspace / "agents" / "mail.py").write_text(AGENT)
    return made


def test_the_commands_say_it_in_words_and_in_json(kitaru):
    done = kitaru("run", "mail")
    assert "step 2: send: sends the mail" in done.err
    assert "intent: send" in kitaru.good("log", "last")
    planned = kitaru.good("rewind", "last@write", "--dry-run")
    assert "cannot undo: sends the mail (step 3: send)" in planned
    told = json.loads(kitaru.good("rewind", "last@write", "--json"))
    assert told["cannot_undo"] == [
        {"step": 3, "name": "send", "effect": "sends the mail", "outcome": "done"}
    ]


def test_an_unknown_effect_ends_a_resume_with_three(kitaru):
    assert kitaru("run", "mail", DIE="1").status == -9
    done = kitaru("resume", "last")
    assert done.status == 3
    assert "sends the mail, and its process died: was it done?" in kitaru.good("waits")
    assert kitaru("answer", "last", "maybe").status == 2
    kitaru.good("answer", "last", "skip", "--resume")
    assert "whether it was done is not known" in kitaru.good("rewind", "last@0", "--dry-run")
    assert json.loads(kitaru.good("status", "--json"))["status"] == "completed"
