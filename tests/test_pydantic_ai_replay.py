"""A killed agent's resume: the same messages and events, in order, and nobody is asked twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from agentbench import AgentBench

from kitaru_fs import DivergenceError

STREAM = """
    import json

    WORDS = ["all ", "is ", "well ", "here"]

    async def talk(messages, info):
        turn = sum(isinstance(message, ModelResponse) for message in messages)
        called(f"model {turn}")
        if turn == 0:
            yield {0: DeltaToolCall("slow", "{}", tool_call_id="c1"),
                   1: DeltaToolCall("quick", "{}", tool_call_id="c2")}
            return
        for word in WORDS:
            yield word
            if word == DIES_AFTER:
                die()

    async def watch(ctx, events):
        async for event in events:
            if event.event_kind != "part_delta":
                called(f"event {event.event_kind}")

    agent = Agent(FunctionModel(stream_function=talk), name="talker",
                  capabilities=[KitaruDurability(HANDLER)])
    turns = asyncio.Event()

    @agent.tool_plain
    async def slow() -> str:
        called("slow")
        await turns.wait()
        return "slow"

    @agent.tool_plain
    async def quick() -> str:
        called("quick")
        turns.set()
        return "quick"

    def kept(what):
        with (OUTSIDE / "messages").open("ab") as log:
            log.write(json.dumps(what).encode() + b"\\n")

    def told(event):
        kind = event.event_kind
        if kind == "part_delta":
            return [kind, event.delta.content_delta]
        if kind == "part_start":
            return [kind, getattr(event.part, "content", event.part.part_kind)]
        return [kind]
"""

WAYS = {
    "run_stream": """
        async with agent.run_stream("talk") as stream:
            seen = [text async for text in stream.stream_text(delta=True, debounce_by=None)]
        return ["".join(seen), seen]
    """,
    "iter": """
        seen = []
        async with agent.iter("talk") as run:
            async for node in run:
                seen.append([type(node).__name__])
                if Agent.is_model_request_node(node) or Agent.is_call_tools_node(node):
                    async with node.stream(run.ctx) as stream:
                        seen += [told(event) async for event in stream]
        return [run.result.output, seen]
    """,
    "run_stream_events": """
        async with agent.run_stream_events("talk") as stream:
            seen = [told(event) if event.event_kind != "agent_run_result" else [event.result.output]
                    async for event in stream]
        return [seen[-1][0], seen]
    """,
    "event_stream_handler": """
        seen = []
        async def watch(ctx, events):
            seen.extend([told(event) async for event in events])
        result = await agent.run("talk", event_stream_handler=watch)
        return [result.output, seen]
    """,
}


def _streaming(way: str, dies_after: str, handler: str = "") -> str:
    code = STREAM.replace("DIES_AFTER", repr(dies_after)).replace("HANDLER", handler)
    return f"{code}\n    @flow\n    async def main() -> list:{WAYS[way]}"


@pytest.mark.parametrize("way", WAYS)
def test_a_stream_that_is_cut_by_a_kill_comes_whole_and_alike(place: AgentBench, way: str) -> None:
    place.write(_streaming(way, ""))
    whole = place.run()
    assert whole[0] == "all is well here"
    first = place.calls
    assert first == ["model 0", "slow", "quick", "model 1"]

    place.write(_streaming(way, "is "))
    place.crash()
    assert place.last.status == "interrupted"
    place.mend()
    assert place.last.resume() == whole
    # The request that was cut is made again, and nothing that came before it.
    assert place.calls[len(first) :] == [*first, "model 1"]

    # And once more from the end: all of it from the journal.
    before = place.calls
    copy = place.last.fork(str(place.last.log()[-1].step))
    assert copy.resume() == whole
    assert place.calls == before


def test_a_handler_of_the_capability_hears_of_each_event_once(place: AgentBench) -> None:
    place.write(_streaming("run_stream", "is ", "event_stream_handler=watch"))
    place.crash()
    before = place.calls
    place.mend()
    place.last.resume()
    # What the cut request had told is told again, with the request; nothing else is.
    again = ["model 1", "event part_start", "event final_result", "event part_end"]
    assert place.calls == [*before, *again]
    told = [call for call in before if call.startswith("event function_tool_")]
    assert sorted(told) == ["event function_tool_call"] * 2 + ["event function_tool_result"] * 2


SYNC = """
    agent = Agent(scripted([("look", {})], lambda m: f"seen {len(m)}"), name="looker",
                  capabilities=[KitaruDurability()])

    @agent.tool_plain
    def look() -> str:
        called("look")
        return "nothing"

    @flow
    def main() -> list[str]:
        first = agent.run_sync("one")
        second = agent.run_sync("two", message_history=first.all_messages())
        called("between")
        die()
        third = agent.run_sync("three", message_history=second.new_messages())
        return [first.output, second.output, third.output]
"""


def test_a_plain_flow_s_conversations_go_on_from_the_journal(place: AgentBench) -> None:
    place.write(SYNC)
    place.crash()
    before = place.calls
    place.mend()
    done = place.kitaru("resume", "last", "--json")
    assert json.loads(done.stdout)["output"] == ["seen 3", "seen 7", "seen 7"]
    assert place.calls == [*before, "between", "model 0", "look", "model 1"]
    requests = [entry for entry in place.entries if entry["kind"] == "model"]
    assert len(requests) == 6
    # The second conversation goes on from the first one's last request.
    assert requests[2]["input"]["after"] == requests[1]["key"]


RACE = """
    agent = Agent(
        scripted([("race", {"car": car}) for car in (1, 2, 3)],
                 lambda m: " ".join(str(part.content) for part in m[-1].parts)),
        name="racer", capabilities=[KitaruDurability()],
    )
    finish = None

    @agent.tool_plain
    async def race(car: int) -> str:
        global finish
        finish = finish or [asyncio.Event() for _ in range(4)]
        called(f"race {car}")
        order = [3, 1, 2] if broken() else [2, 1, 3]
        place = order.index(car)
        if place:
            await finish[order[place - 1]].wait()
        if car == 2 and broken():
            while sum("-race." in file.name for file in journal()) < 2:
                await asyncio.sleep(0)
            die()
        finish[car].set()
        return f"car {car} of {place}"

    def journal():
        return (files().parent / "journal").glob("*/*.json")

    @flow
    async def main() -> str:
        result = await agent.run("race")
        saved(result)
        return result.output
"""


def test_tools_that_end_in_another_order_after_a_resume_keep_their_results(
    place: AgentBench,
) -> None:
    place.write(RACE)
    place.crash()
    assert [entry["input"] for entry in place.entries if entry["name"] == "race"] == [
        {"car": 3},
        {"car": 1},
    ]
    before = place.calls
    place.mend()
    # The first two have what they returned before the kill; the third is the only one that ran.
    place.write(RACE.replace("if place:", "if False:"))
    assert place.last.resume() == "car 1 of 1 car 2 of 0 car 3 of 0"
    assert place.calls == [*before, "race 2", "model 1"]


MOVED = """
    one = Agent(scripted("first", name="one"), name="one", capabilities=[KitaruDurability()])
    two = Agent(scripted("second", name="two"), name="two", capabilities=[KitaruDurability()])

    @flow
    async def main() -> str:
        said = await one.run("what is first?")
        other = await two.run(f"and after {said.output}?")
        await fragile()
        return other.output
"""

CHANGES: dict[str, tuple[str, str, list[str]]] = {
    "another prompt": (
        "what is first?",
        "what is last?",
        ['"what is first?"', '"what is last?"', "step 1", "one.model"],
    ),
    "another model": (
        'Agent(scripted("first", name="one")',
        'Agent("test"',
        ['model="function:answer', 'came one.model with model="test', "step 1"],
    ),
    "code that moved": (
        """        said = await one.run("what is first?")
        other = await two.run(f"and after {said.output}?")
""",
        """        other = await two.run("and after first?")
        said = await one.run("what is first?")
""",
        ["two.model", "one.model", "step 1"],
    ),
    "a call less": (
        '        other = await two.run(f"and after {said.output}?")\n',
        "        other = said\n",
        ["two.model", "step 2"],
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_changed_is_divergence_that_says_what_differs(place: AgentBench, what: str) -> None:
    old, new, said = CHANGES[what]
    assert old in MOVED
    place.write(MOVED)
    with pytest.raises(RuntimeError, match="not yet"):
        place.run()
    before, entries = place.calls, place.entries
    place.mend()
    place.write(MOVED.replace(old, new))
    with pytest.raises(DivergenceError) as caught:
        place.last.resume()
    for text in said:
        assert text in caught.value.message, caught.value.message
    assert caught.value.hint
    # Nobody was asked, nothing is written, and the code as it was goes on.
    assert (place.calls, place.entries) == (before, entries)
    place.write(MOVED)
    assert place.last.resume() == "second"
    assert place.calls == [*before, "fragile"]


def test_an_operation_of_a_later_release_is_journaled_and_replayed(place: AgentBench) -> None:
    place.write("""
        from dataclasses import dataclass
        from kitaru_fs.engine.protocol import Policy

        @dataclass(frozen=True)
        class LaterId:
            '''A durable operation that no release has yet.'''
            what: str

        agent = Agent(scripted("hm"), name="later", capabilities=[KitaruDurability()])

        async def later(what):
            async def body():
                called(f"later {what}")
                return {"done": what}
            backend = KitaruDurability.from_agent(agent).get_durable_operation_backend()
            return await backend.execute(
                operation_id=LaterId(what), name=f"later__new.{what}", body=body,
                cache_key=(what, object()), config=Policy(),
            )

        @flow
        async def main() -> list:
            both = await asyncio.gather(later("a"), later("b"))
            more = await later("a")
            await fragile()
            return [*both, more]
        """)
    assert place.resumes_alike() == [{"done": "a"}, {"done": "b"}, {"done": "a"}]
    named = [entry["name"] for entry in place.entries if entry["kind"] == "step"]
    assert sorted(named)[:3] == ["fragile", "later.new.a", "later.new.a"]


def _usage(place: AgentBench) -> dict[str, Any]:
    return place.last.state()["usage"]


def test_a_resumed_run_and_a_fork_of_it_count_no_request_twice(place: AgentBench) -> None:
    code = """
        from decimal import Decimal
        from pydantic_ai.usage import RequestUsage

        def answer(messages, info):
            turn = sum(isinstance(message, ModelResponse) for message in messages)
            called(f"model {turn}")
            usage = RequestUsage(input_tokens=1000, output_tokens=100, cost=Decimal("0.25"))
            if turn == 3:
                return ModelResponse(parts=[TextPart("done")], usage=usage)
            return ModelResponse(parts=[ToolCallPart("look", {"n": turn})], usage=usage)

        agent = Agent(FunctionModel(answer), name="spender", capabilities=[KitaruDurability()])

        @agent.tool_plain
        def look(n: int) -> str:
            if n == 1:
                die()
            return "nothing"

        @flow
        async def main() -> float:
            result = await agent.run("go")
            return float(result.usage.cost)
        """
    place.write(code)
    place.crash()
    assert _usage(place)["cost"] == 0.5
    place.mend()
    assert place.last.resume() == 1.0
    assert _usage(place)["cost"] == 1.0
    assert place.calls == [f"model {turn}" for turn in range(4)]
    forked = place.last.fork("look#3")
    assert forked.resume() == 1.0
    (row,) = json.loads(place.kitaru("cost", "--json").stdout)["rows"]
    # Four requests by the run, the last one anew by the fork.
    assert (row["requests"], row["cost"]) == (5, 1.25)


def test_a_flow_that_answers_deferred_calls_itself_goes_on_from_them(place: AgentBench) -> None:
    place.settings('linger = "0s"\n')
    place.write("""
        from kitaru_fs import wait
        from pydantic_ai import DeferredToolResults, ToolDenied

        agent = Agent(
            scripted([("send", {"to": "all"}), ("send", {"to": "me"})],
                     lambda m: " / ".join(str(part.content) for part in m[-1].parts)),
            name="mailer", output_type=[str, DeferredToolRequests],
            capabilities=[KitaruDurability()],
        )

        @agent.tool_plain(requires_approval=True)
        def send(to: str) -> str:
            called(f"send {to}")
            return f"sent to {to}"

        @flow
        async def main() -> str:
            first = await agent.run("send it")
            results = DeferredToolResults()
            for call in first.output.approvals:
                yes = await wait(f"send to {call.args['to']}", schema=bool)
                results.approvals[call.tool_call_id] = yes or ToolDenied("not to them")
            second = await agent.run(
                message_history=first.all_messages(), deferred_tool_results=results
            )
            saved(second)
            die()
            await fragile()
            return second.output
        """)
    place.mend()
    place.kitaru("run", "main", status=3)
    place.kitaru("answer", "last", "no", "--resume", status=3)
    place.last.answer(True)
    (place.path / "mended").unlink()
    with pytest.raises(RuntimeError, match="not yet"):
        place.last.resume()
    place.mend()
    assert place.last.resume() == "not to them / sent to me"
    assert place.calls == ["model 0", "send me", "model 1", "fragile", "fragile"]
    assert place.messages[0] == place.messages[1]


def test_what_a_tool_returns_beside_its_value_is_replayed(place: AgentBench) -> None:
    place.write("""
        from pydantic_ai import BinaryContent, ToolReturn

        def answer(messages, info):
            called(f"model {len(messages)}")
            if len(messages) == 1:
                return ModelResponse(parts=[ToolCallPart("look", {})])
            told = [type(part).__name__ for part in messages[-1].parts]
            return ModelResponse(parts=[TextPart(" ".join(told))])

        agent = Agent(FunctionModel(answer), name="looker", capabilities=[KitaruDurability()])

        @agent.tool_plain
        def look() -> ToolReturn:
            called("look")
            image = BinaryContent(bytes(range(256)) * 8, media_type="image/png")
            return ToolReturn("seen", content=["here it is", image], metadata={"at": [1, None]})

        @flow
        async def main() -> list:
            result = await agent.run("look")
            saved(result)
            returned = result.all_messages()[2].parts[0]
            await fragile()
            return [result.output, returned.metadata]
        """)
    assert place.resumes_alike() == ["ToolReturnPart UserPromptPart", {"at": [1, None]}]
    (beside,) = place.last.path.glob("journal/*/*.png")
    assert beside.read_bytes() == bytes(range(256)) * 8


def test_an_agent_that_a_flow_gave_up_on_is_not_asked_again(place: AgentBench) -> None:
    place.write("""
        async def forever(messages, info):
            called("slow")
            await asyncio.Event().wait()

        slow = Agent(FunctionModel(forever), name="slow", capabilities=[KitaruDurability()])
        quick = Agent(scripted("fine"), name="quick", capabilities=[KitaruDurability()])

        @flow
        async def main() -> str:
            try:
                async with asyncio.timeout(0.2):
                    await slow.run("anything")
            except TimeoutError:
                result = await quick.run("then you")
            die()
            await fragile()
            return result.output
        """)
    place.crash()
    before = place.calls
    assert before[-1] == "model 0"
    place.mend()
    assert place.last.resume() == "fine"
    assert place.calls == [*before, "fragile"]
