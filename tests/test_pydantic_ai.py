"""Agents in flows: what they do is journaled, and what is journaled is not done again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from agentbench import AgentBench
from plain_git import git
from pydantic_ai import Agent
from pydantic_ai.durable_exec import CapabilityOperationId, DurableOperation, ParameterTransports
from pydantic_ai.exceptions import UserError
from pydantic_ai.messages import ModelResponse, TextPart
from pydantic_ai.models.test import TestModel
from pydantic_ai.usage import RequestUsage

from kitaru_fs import DivergenceError, OutputError, StepFailed, StepTimeout
from kitaru_fs.errors import UsageError
from kitaru_fs.pydantic_ai import KitaruDurability, OutsideFlowWarning, agent_flow
from kitaru_fs.pydantic_ai.known import Known
from kitaru_fs.pydantic_ai.operations import describe
from kitaru_fs.pydantic_ai.usage import usage_of

WRITER = """
    agent = Agent(
        scripted(
            [("write", {"name": "a.txt", "text": "one"})],
            [("write", {"name": "b.txt", "text": "two"}), ("look", {})],
            "both are written",
        ),
        name="writer",
        instructions="Write what you are asked for.",
        capabilities=[KitaruDurability()],
    )

    @agent.tool_plain
    def write(name: str, text: str) -> str:
        called(f"write {name}")
        (files() / name).write_text(text)
        return f"{name} is written"

    @agent.tool_plain
    async def look() -> list[str]:
        called("look")
        return sorted(path.name for path in files().iterdir())

    @flow
    async def main(prompt: str) -> str:
        result = await agent.run(prompt)
        saved(result)
        await fragile()
        return result.output
"""


def test_each_request_and_each_tool_call_is_a_step(place: AgentBench) -> None:
    place.write(WRITER)
    place.mend()
    assert place.run("write a and b") == "both are written"
    shown = [(entry["kind"], entry["name"]) for entry in place.entries[1:-2]]
    assert shown[:3] == [("model", "writer.model"), ("tool", "write"), ("model", "writer.model")]
    assert sorted(shown[3:5]) == [("tool", "look"), ("tool", "write")]
    assert shown[5:] == [("model", "writer.model")]

    request = place.named("writer.model")
    asked = {"kind": "user-prompt", "content": "write a and b"}
    assert request["input"]["messages"] == [{"request": [asked]}]
    assert request["input"]["instructions"] == "Write what you are asked for."
    assert request["input"]["tools"] == ["write", "look"]
    assert request["output"]["parts"][0]["tool_name"] == "write"
    assert request["usage"]["requests"] == 1
    assert request["usage"]["input_tokens"] > 0
    assert "cost" not in request["usage"]

    call = place.named("write")
    assert call["input"] == {"name": "a.txt", "text": "one"}
    assert call["output"] == {"kind": "tool_return", "result": "a.txt is written"}
    assert call["files"] == ["a.txt"]
    assert place.last.read("a.txt", at="write#1") == b"one"
    with pytest.raises(UsageError):
        place.last.read("b.txt", at="write#1")


def test_a_commit_says_who_did_what_and_was_asked_what(place: AgentBench) -> None:
    place.write(WRITER)
    place.mend()
    place.run("write a and b")
    log = git(place.last.path, "log", "--reverse", "--format=%an%n%B%x00", home=place.path)
    commits = [commit.strip().split("\n") for commit in log.split("\0")]
    assert commits[1][:4] == ["writer", "step 1: writer.model", "", "write a and b"]
    assert any(line.startswith("Kitaru-Tokens: in=") for line in commits[1])
    assert commits[2][:6] == [
        "writer",
        "step 2: write",
        "",
        "name: a.txt",
        "text: one",
        "asked: write a and b",
    ]
    assert commits[3][3] == "write: a.txt is written"


def test_a_resumed_run_repeats_nothing_and_has_the_same_messages(place: AgentBench) -> None:
    place.write(WRITER)
    with pytest.raises(RuntimeError, match="not yet"):
        place.run("write a and b")
    before = place.calls
    place.mend()
    assert place.last.resume() == "both are written"
    assert place.calls == [*before, "fragile"]
    first, second = place.messages
    assert first == second


def test_a_changed_prompt_is_divergence_that_shows_both(place: AgentBench) -> None:
    place.write(WRITER)
    with pytest.raises(RuntimeError):
        place.run("write a and b")
    before = place.calls
    place.write(WRITER.replace("agent.run(prompt)", 'agent.run(prompt + ", please")'))
    with pytest.raises(DivergenceError) as caught:
        place.last.resume()
    assert '"write a and b"' in caught.value.message
    assert '"write a and b, please"' in caught.value.message
    assert place.calls == before


def test_tools_that_overlap_keep_their_identity_whatever_ends_first(place: AgentBench) -> None:
    place.write("""
        agent = Agent(
            scripted([("race", {"car": 1}), ("race", {"car": 1}), ("race", {"car": 2})], "over"),
            name="racer",
            capabilities=[KitaruDurability()],
        )
        running = []
        turn = None

        @agent.tool
        async def race(ctx: RunContext, car: int) -> int:
            global turn
            turn = turn or asyncio.Condition()
            running.append(ctx.tool_call_id)
            place = len(running)
            called(f"race {place}")
            async with turn:
                turn.notify_all()
                await turn.wait_for(lambda: len(running) == 3 and finished[0] == 3 - place)
                finished[0] += 1
                turn.notify_all()
            return place

        finished = [0]

        @flow
        async def main() -> None:
            saved(await agent.run("race"))
            await fragile()
        """)
    with pytest.raises(RuntimeError):
        place.run()
    before = place.calls
    raced = [entry for entry in place.entries if entry["name"] == "race"]
    assert [entry["output"]["result"] for entry in raced] == [3, 2, 1]
    assert len({entry["key"] for entry in raced}) == 3
    assert raced[0]["overlap"] == ["race"]
    place.mend()
    place.last.resume()
    assert place.calls == [*before, "fragile"]
    first, second = place.messages
    assert first == second
    assert [part["content"] for part in first[2]["parts"]] == [1, 2, 3]


def test_a_sibling_that_is_not_journaled_runs_alone_on_resume(place: AgentBench) -> None:
    place.write("""
        agent = Agent(
            scripted([("quick", {}), ("frail", {})], "over"),
            name="pair",
            capabilities=[KitaruDurability()],
        )
        ended = None

        @agent.tool_plain
        async def quick() -> str:
            called("quick")
            return "quick"

        @agent.tool_plain
        async def frail() -> str:
            called("frail")
            while broken() and not any(p.match("*quick*") for p in journal()):
                await asyncio.sleep(0)
            if broken():
                raise RuntimeError("not yet")
            return "frail"

        def journal():
            return (files().parent / "journal").glob("*/*.json")

        @flow
        async def main() -> str:
            result = await agent.run("both")
            saved(result)
            return result.output
        """)
    with pytest.raises(RuntimeError, match="not yet"):
        place.run()
    assert sorted(place.calls) == ["frail", "model 0", "quick"]
    place.mend()
    assert place.last.resume() == "over"
    assert sorted(place.calls) == ["frail", "frail", "model 0", "model 1", "quick"]
    returned = place.messages[0][2]["parts"]
    assert [part["content"] for part in returned] == ["quick", "frail"]


def test_agents_run_at_the_same_time_and_one_after_another(place: AgentBench) -> None:
    place.write("""
        twins = Agent(
            scripted([("draw", {})], lambda m: f"drew {m[-1].parts[0].content}"),
            name="twin",
            capabilities=[KitaruDurability()],
        )
        other = Agent(scripted("hm", name="other"), name="other",
                      capabilities=[KitaruDurability()])
        drawn = [0]

        @twins.tool_plain
        async def draw() -> int:
            called("draw")
            drawn[0] += 1
            return drawn[0]

        @flow
        async def main() -> list[str]:
            both = await asyncio.gather(twins.run("go"), twins.run("go"))
            more = await twins.run("go", message_history=both[0].new_messages())
            last = await other.run("go")
            for result in (*both, more, last):
                saved(result)
            await fragile()
            return [result.output for result in (*both, more, last)]
        """)
    with pytest.raises(RuntimeError):
        place.run()
    before = place.calls
    place.mend()
    *both, more, last = place.last.resume()
    # Which of the two drew first is the threads' business; that it stays so is replay's.
    assert (sorted(both), more, last) == (["drew 1", "drew 2"], "drew 3", "hm")
    assert place.calls == [*before, "fragile"]
    assert place.messages[:4] == place.messages[4:]
    runs = [messages[-1]["run_id"] for messages in place.messages[:4]]
    assert len(set(runs)) == 4


def test_control_flow_of_pydantic_ai_is_output(place: AgentBench) -> None:
    place.write("""
        agent = Agent(
            scripted([("guess", {"n": 1})], [("guess", {"n": 2})], [("send", {})]),
            name="guesser",
            output_type=[str, DeferredToolRequests],
            capabilities=[KitaruDurability()],
        )

        @agent.tool_plain(retries=3)
        def guess(n: int) -> str:
            called(f"guess {n}")
            if n == 1:
                raise ModelRetry("higher")
            return "yes"

        @agent.tool_plain
        def send() -> str:
            called("send")
            raise ApprovalRequired(metadata={"to": "all"})

        @flow
        async def main() -> str:
            result = await agent.run("guess")
            await fragile()
            return result.output.approvals[0].tool_name
        """)
    with pytest.raises(RuntimeError):
        place.run()
    before = place.calls
    place.mend()
    assert place.last.resume() == "send"
    assert place.calls == [*before, "fragile"]
    assert place.named("guess")["output"] == {"kind": "model_retry", "message": "higher"}
    assert place.named("send")["output"]["kind"] == "approval_required"
    failed = [entry["name"] for entry in place.entries if entry["kind"] == "failed"]
    assert failed == ["fragile"]


def test_a_tool_that_raises_leaves_nothing_and_is_tried_again(place: AgentBench) -> None:
    place.write("""
        agent = Agent(
            scripted([("frail", {}), ("plain", {})], "over"),
            name="tough",
            capabilities=[KitaruDurability(tool_retries=0)],
        )
        tried = [0]

        @agent.tool_plain(metadata={"kitaru": {"retries": 1, "backoff": 0, "timeout": 60}},
                          sequential=True)
        def frail() -> int:
            called("frail")
            tried[0] += 1
            (files() / f"{tried[0]}.txt").touch()
            if tried[0] == 1:
                raise OSError("gone")
            return this_step().attempt

        @agent.tool_plain(metadata={"kitaru": False})
        def plain() -> str:
            called("plain")
            return "inline"

        @flow
        async def main() -> str:
            saved(result := await agent.run("try"))
            return result.output
        """)
    assert place.run() == "over"
    frail = [entry for entry in place.entries if entry["name"] == "frail"]
    assert [(entry["kind"], entry["attempt"]) for entry in frail] == [("failed", 1), ("tool", 2)]
    assert frail[0]["error"]["message"] == "gone"
    assert frail[1]["output"]["result"] == 2
    assert frail[1]["files"] == ["2.txt"]
    assert sorted(path.name for path in (place.last.path / "files").iterdir()) == ["2.txt"]
    assert [part["content"] for part in place.messages[0][2]["parts"]] == [2, "inline"]
    assert "plain" not in {entry["name"] for entry in place.entries}


def test_a_request_that_fails_is_tried_again_and_raised_as_itself(place: AgentBench) -> None:
    place.write("""
        def refuse(messages):
            raise ModelHTTPError(429, "gpt", {"error": "slow down"})

        agent = Agent(scripted(refuse), name="refused",
                      capabilities=[KitaruDurability(model_retries=2, model_backoff=0.001)])

        @flow
        async def main() -> int:
            try:
                await agent.run("anything")
            except ModelHTTPError as error:
                await fragile()
                return error.status_code
            return 0
        """)
    with pytest.raises(RuntimeError):
        place.run()
    assert place.calls == ["model 0"] * 3 + ["fragile"]
    place.mend()
    assert place.last.resume() == 429
    assert place.calls == ["model 0"] * 3 + ["fragile"] * 2
    failed = [entry for entry in place.entries if entry["name"] == "refused.model"]
    assert [entry["attempt"] for entry in failed] == [1, 2, 3]


def test_a_request_that_takes_too_long_is_given_up(place: AgentBench) -> None:
    place.write("""
        async def forever(messages, info):
            await asyncio.Event().wait()

        agent = Agent(FunctionModel(forever), name="slow",
                      capabilities=[KitaruDurability(model_timeout=0.05)])

        @flow
        async def main() -> None:
            await agent.run("anything")
        """)
    with pytest.raises(StepTimeout, match=r"slow\.model"):
        place.run()


def test_a_result_without_a_json_form_names_the_tool_and_the_run_can_go_on(
    place: AgentBench,
) -> None:
    code = """
        class Odd:
            pass

        agent = Agent(scripted([("odd", {})], "over"), name="strange",
                      capabilities=[KitaruDurability()])

        @agent.tool_plain
        def odd() -> object:
            return Odd()

        @flow
        async def main() -> str:
            return (await agent.run("anything")).output
        """
    place.write(code)
    with pytest.raises(OutputError, match="'odd' of agent 'strange' cannot be journaled"):
        place.run()
    place.write(code.replace("return Odd()", "return 1"))
    assert place.last.resume() == "over"
    assert place.calls == ["model 0", "model 1"]


def test_an_unreadable_recorded_result_is_no_mistake_of_the_model() -> None:
    class Unreadable:
        def dump(self, value: object) -> object:
            return value

        def load(self, payload: object) -> object:
            raise ValueError("a newer format")

    async def handler(params: object) -> object:
        return params

    class NoIdentity:
        def project(self, params: object) -> tuple[object, ...]:
            return ()

    agent = Agent(TestModel(), name="reader", capabilities=[KitaruDurability()])
    durability = KitaruDurability.from_agent(agent)
    assert durability is not None
    bound = durability.get_durable_operation_backend().bind(
        DurableOperation(
            operation_id=CapabilityOperationId("any", operation="thing"),
            handler=handler,
            parameter_transport=ParameterTransports().event_stream_handler(),
            cache_identity=NoIdentity(),
            result_codec=Unreadable(),
            config_role="capability",
        )
    )
    with pytest.raises(OutputError, match="a newer format"):
        asyncio.run(bound(None))  # pyright: ignore[reportArgumentType]


def test_an_operation_of_a_later_release_is_a_step_like_any_other() -> None:
    later: Any = object()
    operation = describe("helper", later, "helper__new.thing", ("whatever",), Known(), "helper")
    assert (operation.name, operation.kind, operation.input) == ("helper.new.thing", "step", {})


def test_a_plain_tool_knows_its_step_in_its_thread(place: AgentBench) -> None:
    place.write("""
        agent = Agent(scripted([("plain", {})], "over"), name="threaded",
                      capabilities=[KitaruDurability()])

        @agent.tool_plain
        def plain() -> str:
            note(seen="here")
            (files() / "here.txt").touch()
            return f"{this_step().name} {this_step().number}"

        @flow
        def main() -> str:
            return agent.run_sync("anything").output
        """)
    # `run_sync` makes a loop where the thread has none, and leaves it open.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    assert place.load()() == "over"
    asyncio.set_event_loop(None)
    loop.close()
    entry = place.named("plain")
    assert entry["output"]["result"] == "plain 2"
    assert entry["metadata"]["seen"] == "here"
    assert entry["files"] == ["here.txt"]


def test_an_agent_that_a_tool_runs_is_part_of_its_step(place: AgentBench) -> None:
    place.write("""
        inner = Agent(scripted("four", name="inner"), name="inner",
                      capabilities=[KitaruDurability(outside="error")])
        outer = Agent(scripted([("ask", {})], "over"), name="outer",
                      capabilities=[KitaruDurability()])

        @outer.tool_plain
        async def ask() -> str:
            await inner.run("two and one")
            return (await inner.run("two and two")).output

        @flow
        async def main() -> str:
            return (await outer.run("anything")).output
        """)
    assert place.run() == "over"
    names = [entry["name"] for entry in place.entries[1:-1]]
    assert names == ["outer.model", "ask", "outer.model"]
    assert place.named("ask")["usage"]["requests"] == 2


def test_streams_and_event_handlers_are_durable(place: AgentBench) -> None:
    place.write("""
        async def talk(messages, info):
            turn = sum(isinstance(message, ModelResponse) for message in messages)
            called(f"model {turn}")
            if turn == 0:
                yield {0: DeltaToolCall(name="look", json_args="{}", tool_call_id="c1")}
            else:
                yield "all "
                yield "done"

        async def watch(ctx, events):
            async for event in events:
                called(f"event {event.event_kind}")

        agent = Agent(FunctionModel(stream_function=talk), name="talker",
                      capabilities=[KitaruDurability(event_stream_handler=watch)])

        @agent.tool_plain
        def look() -> str:
            called("look")
            return "nothing"

        @flow
        async def main() -> str:
            async with agent.run_stream("talk") as stream:
                said = await stream.get_output()
            saved(stream)
            async with agent.iter("talk") as run:
                async for _ in run:
                    pass
            saved(run.result)
            await fragile()
            return said + " " + run.result.output
        """)
    with pytest.raises(RuntimeError):
        place.run()
    before = place.calls
    assert before.count("look") == 2
    assert "event function_tool_result" in before
    place.mend()
    assert place.last.resume() == "all done all done"
    assert place.calls == [*before, "fragile"]
    assert place.messages[:2] == place.messages[2:]
    streamed = place.named("talker.model")
    assert streamed["input"]["stream"] is True
    assert streamed["usage"]["requests"] == 1


def test_a_conversation_is_not_stored_again_with_each_request(place: AgentBench) -> None:
    place.write("""
        def say(messages):
            return [("tell", {"what": f"{len(messages):04d}" + "x" * 500})]

        agent = Agent(scripted(*[say] * 30, "over"), name="long",
                      capabilities=[KitaruDurability()])

        @agent.tool_plain
        def tell(what: str) -> str:
            return what

        @flow
        async def main() -> str:
            return (await agent.run("talk")).output
        """)
    place.run()
    files = sorted(place.last.path.glob("journal/*/*long.model.json"))
    sizes = [file.stat().st_size for file in files]
    assert len(sizes) == 31
    assert sizes[29] < sizes[1] + 100


@pytest.mark.parametrize("how", ["run", "override", "hook"])
def test_a_model_object_that_is_not_registered_is_refused_and_the_run_can_go_on(
    place: AgentBench, how: str
) -> None:
    code = """
        from pydantic_ai.capabilities import Hooks

        HOW = "run"
        other = scripted("ha")
        hooks = Hooks()

        @hooks.on.before_model_request
        async def switch(ctx, request_context):
            if HOW == "hook":
                request_context.model = other
            return request_context

        agent = Agent(scripted("hm"), name="choosy",
                      capabilities=[hooks, KitaruDurability(models={"one": scripted("no")})])

        @flow
        async def main() -> str:
            await fragile()
            if HOW == "override":
                with agent.override(model=other):
                    return (await agent.run("anything")).output
            return (await agent.run("anything", model=other if HOW == "run" else None)).output
        """.replace("run", how, 1)
    place.mend()
    place.write(code)
    with pytest.raises(UsageError) as caught:
        place.run()
    assert caught.value.message == (
        "agent 'choosy' was given a model object (function:function:answer:) that a resume could"
        " not find again"
    )
    assert 'KitaruDurability(models={"mine": model})' in (caught.value.hint or "")
    place.write(code.replace('{"one": scripted("no")}', '{"mine": other}'))
    assert place.last.resume() == "ha"
    assert place.calls == ["fragile", "model 0"]


def test_the_result_of_an_agent_s_run_is_no_step_s_output(place: AgentBench) -> None:
    code = """
        from pydantic_ai.run import AgentRunResult

        agent = Agent(scripted("hm"), name="whole", capabilities=[KitaruDurability()])

        @step
        async def ask() -> AgentRunResult[str]:
            return await agent.run("anything")

        @flow
        async def main() -> str:
            return (await ask()).output
        """
    place.write(code)
    with pytest.raises(OutputError) as caught:
        place.run()
    assert caught.value.message == (
        "the output of step 'ask' cannot be journaled: it is of type"
        " `pydantic_ai.run.AgentRunResult`, which has no JSON form"
    )
    assert caught.value.hint == "return its `output`, or what its `all_messages()` returns"
    place.write(
        code.replace("-> AgentRunResult[str]", "-> str")
        .replace('run("anything")', 'run("anything")).output')
        .replace("return await", "return (await")
        .replace("(await ask()).output", "await ask()")
    )
    assert place.last.resume() == "hm"


def test_a_test_s_model_by_its_name_takes_the_place_of_an_agent_s(place: AgentBench) -> None:
    place.write("""
        agent = Agent(scripted("hm"), name="tested", capabilities=[KitaruDurability()])

        @flow
        async def main() -> str:
            result = await agent.run("anything")
            await fragile()
            return result.output
        """)
    main = place.load()
    agent = main.function.__globals__["agent"]
    with agent.override(model="test"):
        with pytest.raises(RuntimeError):
            asyncio.run(main())
        place.mend()
        assert place.last.resume() == "success (no tool calls)"
    assert place.calls == ["fragile", "fragile"]


def test_two_agents_of_one_name_in_a_flow_are_refused(place: AgentBench) -> None:
    place.write("""
        def made():
            return Agent(scripted("hm"), name="same", capabilities=[KitaruDurability()])

        @flow
        async def main() -> None:
            await made().run("anything")
            await made().run("anything")
        """)
    with pytest.raises(UsageError, match="two agents of this flow are named 'same'"):
        place.run()


def test_an_agent_without_a_name_is_refused() -> None:
    with pytest.raises(UserError, match="needs to have a unique `name`"):
        Agent(TestModel(), capabilities=[KitaruDurability()])


def test_outside_a_flow_an_agent_warns_once_or_refuses_or_is_let_be() -> None:
    def agent(**options: Any) -> Agent:
        return Agent(TestModel(), name="loose", capabilities=[KitaruDurability(**options)])

    warned = agent()
    with pytest.warns(OutsideFlowWarning, match="'loose' was run outside a flow"):
        asyncio.run(warned.run("anything"))
    # Every warning is an error here: a second one would be raised.
    asyncio.run(warned.run("anything"))
    with pytest.raises(UsageError, match="'loose' was run outside a flow"):
        asyncio.run(agent(outside="error").run("anything"))
    asyncio.run(agent(outside="allow").run("anything"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"outside": "maybe"}, "outside='maybe'"),
        ({"model_retries": -1}, "retries must be a whole number, not -1"),
        ({"tool_retries": 1.5}, "retries must be a whole number, not 1.5"),
        ({"tool_timeout": 0}, "timeout must be more than 0"),
        ({"model_backoff": -1}, "model: backoff must be a number of seconds, not -1"),
        ({"tool_max_backoff": "1m"}, "tool: max_backoff must be a number of seconds, not '1m'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        KitaruDurability(**options)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ('{"kitaru": {"retrys": 2}}', "'retrys' is not known\ndid you mean 'retries'"),
        ('{"kitaru": {"timeout": "soon"}}', "timeout must be a number of seconds, not 'soon'"),
        ('{"kitaru": 3}', "must be a mapping or False"),
    ],
)
def test_metadata_of_a_tool_that_makes_no_sense_names_the_tool(
    place: AgentBench, metadata: str, said: str
) -> None:
    place.write(f"""
        agent = Agent(scripted([("odd", {{}})], "over"), name="odd",
                      capabilities=[KitaruDurability()])

        @agent.tool_plain(metadata={metadata})
        def odd() -> str:
            return "odd"

        @flow
        async def main() -> None:
            await agent.run("anything")
        """)
    with pytest.raises(UsageError) as caught:
        place.run()
    assert "tool 'odd'" in str(caught.value)
    assert said in str(caught.value)


def test_the_price_is_the_tables_and_unknown_where_it_knows_nothing() -> None:
    def response(**more: Any) -> ModelResponse:
        usage = RequestUsage(input_tokens=1000, output_tokens=100)
        return ModelResponse(parts=[TextPart("hm")], usage=usage, **more)

    known = usage_of(response(model_name="gpt-4o", provider_name="openai"))
    assert known.cost == pytest.approx(0.0035)
    assert known.currency == "USD"
    unknown = usage_of(response(model_name="nobody-knows", provider_name="openai"))
    assert (unknown.cost, unknown.currency) == (None, None)
    assert (unknown.input_tokens, unknown.output_tokens) == (1000, 100)


BARE = """
    class Answer(BaseModel):
        words: list[str]

    def answer(messages):
        return [("final_result", {"words": messages[0].parts[0].content.split()})]

    agent = Agent(scripted([("look", {})], answer), name="helper", output_type=Answer)

    @agent.tool_plain
    def look() -> str:
        called("look")
        if broken():
            raise RuntimeError("not yet")
        return "nothing"
"""


def test_a_bare_agent_is_a_flow_of_its_own(place: AgentBench) -> None:
    place.write(BARE)
    helper = place.load("agent")
    assert helper.name == "helper"
    workspace = place.workspace
    flow, target = workspace.load("agents/them.py:agent")
    path = workspace.create(flow, {"prompt": json_raw("two words")}, target=target)
    run = workspace.run(path.name)
    with pytest.raises(RuntimeError, match="not yet"):
        run.resume()
    place.mend()
    assert run.resume().words == ["two", "words"]
    assert place.calls == ["model 0", "look", "look", "model 1"]
    assert place.entries[-1]["output"] == {"words": ["two", "words"]}


def json_raw(value: Any) -> Any:
    import msgspec

    return msgspec.Raw(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Agent(TestModel()), "has no name"),
        (lambda: Agent(TestModel(), name="x", deps_type=int), "needs dependencies (int)"),
        (lambda: Agent(name="x"), "cannot be made durable: An agent needs to have a `model`"),
    ],
)
def test_an_agent_that_cannot_be_a_flow_is_refused_in_a_sentence(
    make: Callable[[], Agent[Any, Any]], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        agent_flow(make(), "x")
    assert said in caught.value.message


def test_a_durable_agent_is_a_flow_as_it_is(place: AgentBench) -> None:
    place.write(
        BARE.replace(
            "output_type=Answer",
            "output_type=Answer, retries=0, capabilities=[KitaruDurability(tool_retries=1)]",
        )
    )
    with pytest.raises(RuntimeError):
        asyncio.run(place.load("agent")("two words"))
    assert [e["attempt"] for e in place.entries if e["name"] == "look"] == [1, 2]


def test_an_error_that_cannot_be_built_again_is_named(place: AgentBench) -> None:
    place.write("""
        class Strange(Exception):
            def __init__(self, a, b):
                super().__init__("strange")
                self.c = object()

        def fail(messages):
            raise Strange(1, 2)

        agent = Agent(scripted(fail), name="failing", capabilities=[KitaruDurability()])

        @flow
        async def main() -> None:
            await agent.run("anything")
        """)
    with pytest.raises(StepFailed, match="Strange"):
        place.run()
