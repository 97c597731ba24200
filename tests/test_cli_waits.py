"""`answer`, `waits` and `send` on the command line, and how runs that wait are shown."""

from __future__ import annotations

import signal
import time

import pytest
from cli_program import Program
from plain_git import git

FLOWS = """
import asyncio
import os
from kitaru_fs import files, flow, receive, sleep, step, wait


def tell(word):
    if "TEST_GATE" in os.environ:
        os.write(int(os.environ["TEST_GATE"]), word.encode() + b"\\n")


@step
async def act(what: str) -> str:
    return what


@flow
async def publish() -> str:
    (files() / "draft.md").write_text("a draft")
    if await wait("publish", "Publish this?\\nIt is for good.", schema=bool):
        return await act("published")
    return "kept"


@flow
async def named() -> str:
    name = await wait("name", "Whose is it?", schema=str, timeout=3600, default="nobody")
    return f"it is {name}'s"


@flow
async def twice() -> list[int]:
    return list(await asyncio.gather(wait("a", schema=int), wait("b", schema=int)))


@flow
async def child() -> bool:
    return await wait("ok", "Is it ok?", schema=bool)


@flow
async def parent() -> str:
    (files() / "p.md").write_text("p")
    return f"the child said {await child()}"


@flow
async def orders() -> list[int]:
    return [await receive("orders", schema=int) for _ in range(2)]


@flow
async def naps() -> str:
    await sleep(3600)
    return "rested"


@step
async def hold() -> str:
    tell("holding")
    await asyncio.sleep(600)
    return "never"


@flow
async def beside() -> list:
    return list(await asyncio.gather(wait("a", schema=int), hold()))


@flow
async def telling() -> int:
    tell("begun")
    return await wait("w", schema=int)
"""


FORMS = """
import asyncio
from typing import Any, Literal
from pydantic import BaseModel
from kitaru_fs import flow, wait


class Place(BaseModel):
    name: str
    floor: int | None = None
    tags: list[str] = []
    inner: "list[Place]" = []


ASKED = [
    bool, int | None, bool | int, Literal["a", "b"], list[str], list[Place], dict[str, Any], Any
]


@flow
async def form() -> None:
    await asyncio.gather(*(wait(f"w{n}", schema=one) for n, one in enumerate(ASKED)))
"""

IN_WORDS = [
    "yes or no",
    "a whole number or null",
    "yes or no, or a whole number",
    'one of "a", "b"',
    "a list, each a text",
    'a list, each {"name": a text, "floor"?: a whole number or null, '
    '"tags"?: a list, each a text, "inner"?: a list, each Place}',
    "{...}",
    "any JSON, or text",
]


@pytest.fixture
def kitaru(tmp_path):
    program = Program(tmp_path)
    (program.workspace / "agents" / "waiting.py").write_text(FLOWS)
    (program.workspace / "kitaru.toml").write_text('linger = "0"\n')
    return program


def run(kitaru, flow):
    """Runs a flow until it waits; returns its id."""
    done = kitaru("run", flow)
    assert done.status == 3, done
    assert done.out == ""
    [made] = [path for path in kitaru.runs if f"-{flow}-" in path.name]
    assert git(made, "status", "--porcelain") == ""
    return made.name


def test_what_may_be_replied_is_said_in_words(kitaru):
    (kitaru.workspace / "agents" / "forms.py").write_text(FORMS)
    run(kitaru, "form")
    shown = kitaru.good("waits").splitlines()
    assert [line.strip() for line in shown if "reply:" in line] == [
        f"reply: {form}" for form in IN_WORDS
    ]


class TestWaiting:
    def test_ends_with_3_and_says_what_for_and_how_to_answer(self, kitaru):
        done = kitaru("run", "publish")
        [made] = kitaru.runs
        assert done.status == 3
        for text in ("Publish this?", "It is for good.", "yes or no", f"kitaru answer {made.name}"):
            assert text in done.err
        assert (made / "files" / "draft.md").read_text() == "a draft"
        state = kitaru("status", "--json").json
        assert (state["status"], state["holder"], state["step"]) == ("waiting", None, 1)
        assert [sorted(wait)[:4] for wait in state["waits"]] == [
            ["asked", "name", "question", "run"]
        ]
        assert "waiting" in kitaru.good("runs", "--status", "waiting")
        assert "Publish this?" in kitaru.good("status")

    def test_shows_the_status_object_to_a_program(self, kitaru):
        done = kitaru("run", "named", "--json")
        assert (done.status, done.json["status"]) == (3, "waiting")
        [wait] = done.json["waits"]
        assert (wait["name"], wait["schema"], wait["default"]) == (
            "name",
            {"type": "string"},
            "nobody",
        )
        assert done.json["until"] == wait["until"]

    def test_a_sleep_says_until_when(self, kitaru):
        made = run(kitaru, "naps")
        state = kitaru("status", "--json").json
        assert (state["waits"], state["status"]) == ([], "waiting")
        assert "until" in state
        assert "in 59 min" in kitaru.good("status", made)

    def test_a_receive_says_on_which_topic(self, kitaru):
        run(kitaru, "orders")
        assert kitaru("status", "--json").json["topics"] == ["orders"]

    def test_an_interrupt_leaves_the_question_open(self, kitaru):
        (kitaru.workspace / "kitaru.toml").write_text('linger = "1h"\n')
        started = kitaru.start("run", "telling")
        assert started.told() == "begun"
        while not kitaru("waits", "--json").json:
            time.sleep(0.02)
        started.signal(signal.SIGINT)
        assert started.end().status == 130
        assert kitaru("status", "--json").json["status"] == "waiting"
        assert kitaru("answer", "5", "--resume").out == "5\n"

    def test_an_interrupted_step_beside_a_wait_is_not_forgotten(self, kitaru):
        started = kitaru.start("run", "beside")
        assert started.told() == "holding"
        started.signal(signal.SIGTERM)
        assert started.end().status == 130
        state = kitaru("status", "--json").json
        assert (state["status"], [one["name"] for one in state["waits"]]) == ("interrupted", ["a"])

    def test_killed_it_reads_interrupted_and_can_be_answered(self, kitaru):
        (kitaru.workspace / "kitaru.toml").write_text('linger = "1h"\n')
        started = kitaru.start("run", "telling")
        assert started.told() == "begun"
        while not kitaru("waits", "--json").json:
            time.sleep(0.02)
        started.signal(signal.SIGKILL)
        started.end()
        assert kitaru("status", "--json").json["status"] == "interrupted"
        assert kitaru("answer", "5").status == 0
        assert kitaru("resume").out == "5\n"


class TestAnswer:
    def test_commits_the_reply_by_the_humans_name(self, kitaru):
        made = run(kitaru, "publish")
        assert kitaru.good("answer", made, "yes") == f"run {made}: answered at step 2\n"
        log = kitaru.good("git", made, "--", "log", "-1", "--format=%s|%an|%ae")
        assert log == "reply 2: publish|Ada|ada@example.org\n"
        assert kitaru("status", "--json").json["waits"] == []
        assert (kitaru("resume").out, kitaru("resume").status) == ("published\n", 0)

    def test_takes_a_text_as_it_is_where_a_text_is_asked_for(self, kitaru):
        run(kitaru, "named")
        assert kitaru("answer", "Grace Hopper", "--resume").out == "it is Grace Hopper's\n"

    def test_names_one_of_several(self, kitaru):
        made = run(kitaru, "twice")
        done = kitaru("answer", "1")
        assert (done.status, "a (step 1), b (step 2)" in done.err) == (2, True), done
        assert kitaru("answer", made, "1", "--wait", "a").status == 0
        assert kitaru("answer", made, "2", "--wait", "b", "--resume", "--json").json["output"] == [
            1,
            2,
        ]

    def test_reject_refuses_with_a_reason(self, kitaru):
        made = run(kitaru, "publish")
        assert kitaru("answer", "--reject", "too early").status == 0
        done = kitaru("resume", made)
        assert (done.status, "WaitRejected" in done.err, "too early" in done.err) == (1, True, True)

    def test_reject_takes_a_run_for_a_run(self, kitaru):
        made = run(kitaru, "named")
        assert kitaru("answer", made, "--reject").status == 0
        assert kitaru("resume").out == "it is nobody's\n"

    def test_reject_does_not_guess_whether_a_word_is_a_run(self, kitaru):
        run(kitaru, "named")
        done = kitaru("answer", "named", "--reject")
        assert (done.status, "may be the RUN or the reason" in done.err) == (2, True)
        assert len(kitaru("waits", "--json").json) == 1

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ([], "answer needs a VALUE"),
            (["maybe"], "'maybe' is not of type 'boolean'"),
            (["yes", "--wait", "other"], "does not wait for a reply named 'other'"),
            (["nosuchrun", "yes"], "no run fits 'nosuchrun'"),
            (["last", "yes", "no"], "'no' is too much"),
        ],
    )
    def test_mistakes_change_nothing(self, kitaru, words, said):
        made = run(kitaru, "publish")
        before = git(kitaru.workspace / "runs" / made, "show-ref", "--head")
        done = kitaru("answer", *words)
        assert (done.status, done.out, said in done.err) == (2, "", True), done
        error = kitaru("answer", *words, "--json").error
        assert said in error["message"]
        assert git(kitaru.workspace / "runs" / made, "show-ref", "--head") == before

    def test_to_one_answered_already_and_to_a_completed_run(self, kitaru):
        run(kitaru, "publish")
        kitaru.good("answer", "no")
        done = kitaru("answer", "no")
        assert (done.status, "was answered at step 2" in done.err) == (2, True), done
        assert kitaru("resume").out == "kept\n"
        done = kitaru("answer", "no")
        assert (done.status, "is completed: it waits for no reply" in done.err) == (2, True), done

    def test_reaches_the_process_that_holds_the_run(self, kitaru):
        (kitaru.workspace / "kitaru.toml").write_text('linger = "1h"\n')
        started = kitaru.start("run", "telling")
        assert started.told() == "begun"
        while not kitaru("waits", "--json").json:
            time.sleep(0.02)
        done = kitaru("answer", "7")
        assert (done.status, "answered at step 2" in done.out) == (0, True), done
        ended = started.end()
        assert (ended.status, ended.out) == (0, "7\n")
        log = kitaru.good("git", "last", "--", "log", "--format=%an", "--grep=^reply 2", "-1")
        assert log == "Ada\n"

    def test_undo_takes_an_unused_one_back_and_says_what_it_was(self, kitaru):
        made = run(kitaru, "publish")
        kitaru.good("answer", "yes")
        kitaru.good("undo")
        assert "earlier reply: true, by Ada on main" in kitaru.good("status", made)
        assert "earlier reply: true, by Ada on main" in kitaru.good("waits")
        kitaru.good("redo")
        assert kitaru("resume").out == "published\n"


class TestChildren:
    def test_a_child_that_waits_shows_in_its_parent(self, kitaru):
        made = run(kitaru, "parent")
        state = kitaru("status", made, "--json").json
        [wait] = state["waits"]
        assert (state["status"], wait["name"]) == ("waiting", "ok")
        assert "-child-" in wait["run"]
        assert (kitaru.workspace / "runs" / made / "files" / "p.md").read_text() == "p"
        assert len(kitaru("waits", "--json").json) == 1
        trailers = git(
            kitaru.workspace / "runs" / made,
            *("log", "-1", "--format=%s|%(trailers:key=Kitaru-Status,valueonly)"),
        )
        assert trailers.strip() == "child 2: child|waiting"

        assert kitaru("answer", made, "yes").status == 0
        assert kitaru("resume", made).out == "the child said True\n"
        assert kitaru("status", made, "--json").json["waits"] == []

    def test_a_child_that_was_answered_by_its_own_name(self, kitaru):
        made = run(kitaru, "parent")
        kitaru.good("answer", "child", "no")
        assert kitaru("resume", made).out == "the child said False\n"


class TestSend:
    def test_brings_messages_in_order(self, kitaru):
        made = run(kitaru, "orders")
        assert kitaru.good("send", made, "orders", "1") == f"run {made}: message 2 on orders\n"
        assert "resume" in kitaru("send", made, "orders", "2").err
        assert kitaru("resume", made, "--json").json["output"] == [1, 2]

    def test_refuses_what_does_not_fit(self, kitaru):
        made = run(kitaru, "orders")
        done = kitaru("send", made, "orders", "many")
        assert (done.status, "'many' is not of type 'integer'" in done.err) == (2, True), done
        assert kitaru("send", made, "other", "many").status == 0
        assert kitaru("status", "--json").json["status"] == "waiting"
