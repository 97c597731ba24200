"""Every kind of durable operation is journaled, and replayed without being done again."""

from __future__ import annotations

from typing import Any

import pytest
from agentbench import AgentBench

MODEL = """
    class Patient(FunctionModel):
        '''A model that makes its caller come back, compacts, and is told when it is given up.'''

        def __init__(self, *turns):
            self.turns = list(turns)
            self.asked = 0
            super().__init__(self.answer)

        def answer(self, messages, info):
            last = messages[-1]
            polls = isinstance(last, ModelResponse) and last.state == "suspended"
            turn = sum(isinstance(m, ModelResponse) and m.state == "complete" for m in messages)
            called(f"model {turn}{' polled' if polls else ''}")
            if not polls:
                self.asked += 1
                if self.asked == 1:
                    return ModelResponse(
                        parts=[], state="suspended", provider_response_id="job-1",
                        provider_name="patient",
                    )
            return ModelResponse(
                parts=[TextPart("done")], provider_response_id="job-1", provider_name="patient"
            )

        def continuation_delay(self, response):
            called("delay")
            return 0.001

        async def cancel_suspended_response(self, response):
            called(f"cancel {response.provider_response_id}")

        async def compact_messages(self, request_context, *, instructions=None):
            called(f"compact {len(request_context.messages)}")
            return ModelResponse(parts=[TextPart("in short")])
"""


def _kinds(place: AgentBench) -> list[str]:
    return [f"{e['kind']} {e['name']}" for e in place.entries if e["kind"] in ("model", "step")]


def test_a_suspended_response_is_polled_for_once(place: AgentBench) -> None:
    place.write(
        MODEL
        + """
    agent = Agent(Patient(), name="patient", capabilities=[KitaruDurability()])

    @flow
    async def main() -> str:
        result = await agent.run("wait")
        with (OUTSIDE / "messages").open("ab") as log:
            log.write(result.all_messages_json() + b"\\n")
        await fragile()
        return result.output
    """
    )
    with pytest.raises(RuntimeError):
        place.run()
    before = [call for call in place.calls if call != "delay"]
    place.mend()
    assert place.last.resume() == "done"
    after = [call for call in place.calls if call != "delay"]
    assert before == ["model 0", "model 0 polled", "fragile"]
    assert after == [*before, "fragile"]
    assert place.messages[0] == place.messages[1]
    assert _kinds(place)[:2] == ["model patient.model", "model patient.model"]


def test_a_suspended_response_is_cancelled_once(place: AgentBench) -> None:
    place.write(
        MODEL
        + """
    class Broken(Patient):
        def answer(self, messages, info):
            last = messages[-1]
            if isinstance(last, ModelResponse) and last.state == "suspended":
                called("model 0 polled")
                raise ValueError("no such job")
            return super().answer(messages, info)

    agent = Agent(Broken(), name="patient", capabilities=[KitaruDurability()])

    @flow
    async def main() -> str:
        try:
            await agent.run("wait")
        except ValueError as error:
            called(str(error))
        await fragile()
        return "given up"
    """
    )
    with pytest.raises(RuntimeError):
        place.run()
    before = place.calls.count("cancel job-1")
    place.mend()
    assert place.last.resume() == "given up"
    assert before == 1
    assert place.calls.count("cancel job-1") == 1
    assert place.calls.count("no such job") == 2
    assert "step patient.cancel" in _kinds(place)


def test_compaction_is_a_step(place: AgentBench) -> None:
    place.write(
        MODEL
        + """
    from pydantic_ai.capabilities import AbstractCapability

    class Compacting(AbstractCapability):
        async def before_model_request(self, ctx, request_context):
            if len(request_context.messages) > 2:
                short = await request_context.model.compact_messages(
                    request_context, instructions="briefly"
                )
                request_context.messages[:] = [short, request_context.messages[-1]]
            return request_context

    class Quick(Patient):
        def answer(self, messages, info):
            turn = len(messages)
            called(f"model {turn}")
            if turn == 1:
                return ModelResponse(parts=[ToolCallPart("look", {})])
            return ModelResponse(parts=[TextPart(messages[0].parts[0].content)])

    agent = Agent(Quick(), name="compact",
                  capabilities=[Compacting(), KitaruDurability()])

    @agent.tool_plain
    def look() -> str:
        called("look")
        return "nothing"

    @flow
    async def main() -> str:
        result = await agent.run("go on")
        saved(result)
        await fragile()
        return result.output
    """
    )
    assert place.resumes_alike() == "in short"
    assert place.calls.count("compact 3") == 1
    entry = place.named("compact.compact")
    assert entry["kind"] == "model"
    assert entry["input"]["compact"] == "briefly"
    assert entry["usage"]["requests"] == 1


def test_a_dynamic_toolset_is_listed_and_called_in_steps(place: AgentBench) -> None:
    place.write("""
        from pydantic_ai.toolsets import FunctionToolset
        from pydantic_ai.toolsets import DynamicToolset

        def make(ctx: RunContext):
            called(f"make {ctx.run_step}")
            toolset = FunctionToolset()

            @toolset.tool_plain
            def look() -> str:
                called("look")
                return "seen"

            @toolset.tool_plain(args_validator=lambda ctx, n: called(f"valid {n}"))
            def count(n: int) -> int:
                called(f"count {n}")
                return n

            return toolset

        agent = Agent(scripted([("look", {}), ("count", {"n": 3})], "over"), name="dynamic",
                      toolsets=[DynamicToolset(make, id="made")],
                      capabilities=[KitaruDurability()])

        @flow
        async def main() -> str:
            result = await agent.run("go")
            saved(result)
            await fragile()
            return result.output
        """)
    assert place.resumes_alike() == "over"
    named = [entry["name"] for entry in place.entries]
    assert named.count("made.tools") == 2
    assert named.count("count.validate") == 1
    assert {"look", "count"} <= set(named)


def test_an_operation_of_a_capability_is_a_step(place: AgentBench) -> None:
    place.write("""
        from pydantic_ai.capabilities import AbstractCapability, durable_operation

        class Weather(AbstractCapability):
            id = "weather"

            @durable_operation(name="fetch")
            async def fetch(self, ctx: RunContext, town: str) -> dict[str, int]:
                called(f"fetch {town}")
                return {"degrees": 7}

            async def before_run(self, ctx):
                called(f"degrees")
                self.found = await self.fetch(ctx, "Bern")

        agent = Agent(scripted("cold"), name="weather",
                      capabilities=[Weather(), KitaruDurability()])

        @flow
        async def main() -> str:
            result = await agent.run("how is it?")
            with (OUTSIDE / "messages").open("ab") as log:
                log.write(result.all_messages_json() + b"\\n")
            await fragile()
            return result.output
        """)
    with pytest.raises(RuntimeError):
        place.run()
    place.mend()
    assert place.last.resume() == "cold"
    assert place.calls.count("fetch Bern") == 1
    assert place.calls.count("model 0") == 1
    entry = place.named("weather.fetch")
    assert (entry["kind"], entry["input"]) == ("step", {"town": "Bern"})
    assert entry["output"]["value"] == {"degrees": 7}
    assert place.messages[0] == place.messages[1]


EVENTS = """
    async def talk(messages, info):
        turn = sum(isinstance(message, ModelResponse) for message in messages)
        called(f"model {turn}")
        if turn == 0:
            yield {0: DeltaToolCall("slow", "{}", tool_call_id="c1"),
                   1: DeltaToolCall("quick", "{}", tool_call_id="c2")}
        else:
            for word in ("all ", "is ", "well"):
                yield word

    agent = Agent(FunctionModel(stream_function=talk), name="talker",
                  capabilities=[KitaruDurability()])
    first = [True]

    @agent.tool_plain
    async def slow() -> str:
        called("slow")
        for _ in range(50):
            await asyncio.sleep(0)
        return "slow"

    @agent.tool_plain
    async def quick() -> str:
        called("quick")
        return "quick"

    def kept(events):
        import json
        from pydantic import TypeAdapter
        from pydantic_ai.messages import AgentStreamEvent
        kinds = [getattr(event, "event_kind", type(event).__name__) for event in events]
        with (OUTSIDE / "messages").open("ab") as log:
            log.write(json.dumps(kinds).encode() + b"\\n")
"""


def _same_events(place: AgentBench, body: str) -> list[Any]:
    place.write(EVENTS + body)
    place.resumes_alike()
    return place.messages


def test_an_event_stream_has_the_same_events_in_the_same_order(place: AgentBench) -> None:
    first, _ = _same_events(
        place,
        """
    @flow
    async def main() -> None:
        events = []
        async with agent.run_stream_events("talk") as stream:
            async for event in stream:
                events.append(event)
        kept(events)
        await fragile()
    """,
    )
    assert first.count("function_tool_call") == 2
    assert first.count("function_tool_result") == 2
    assert "part_start" in first


def test_iterating_over_nodes_streams_the_same_events(place: AgentBench) -> None:
    _same_events(
        place,
        """
    @flow
    async def main() -> None:
        events = []
        async with agent.iter("talk") as run:
            async for node in run:
                if Agent.is_model_request_node(node) or Agent.is_call_tools_node(node):
                    async with node.stream(run.ctx) as stream:
                        async for event in stream:
                            events.append(event)
        kept(events)
        await fragile()
    """,
    )


def test_text_that_streams_is_the_same(place: AgentBench) -> None:
    _same_events(
        place,
        """
    @flow
    async def main() -> None:
        async with agent.run_stream("talk") as stream:
            texts = [text async for text in stream.stream_text(debounce_by=None)]
        with (OUTSIDE / "messages").open("ab") as log:
            import json
            log.write(json.dumps(texts).encode() + b"\\n")
        await fragile()
    """,
    )


def test_output_that_is_structured_validated_and_limited(place: AgentBench) -> None:
    place.write("""
        from pydantic_ai.exceptions import UsageLimitExceeded
        from pydantic_ai.usage import UsageLimits

        class Town(BaseModel):
            name: str

        class River(BaseModel):
            length: int

        agent = Agent(
            scripted([("final_result_River", {"length": "long"})],
                     [("final_result_Town", {"name": "bern"})],
                     [("final_result_Town", {"name": "Bern"})]),
            name="mapper", output_type=[Town, River], retries={"output": 3},
            capabilities=[KitaruDurability()],
        )

        @agent.output_validator
        def capital(found: Town | River) -> Town | River:
            called(f"valid {found}")
            if isinstance(found, Town) and not found.name.istitle():
                raise ModelRetry("a capital letter, please")
            return found

        chatty = Agent(scripted([("more", {})], [("more", {})], "never"), name="chatty",
                       capabilities=[KitaruDurability()])

        @chatty.tool_plain
        def more() -> str:
            called("more")
            return "more"

        @flow
        async def main() -> Town | River:
            result = await agent.run("where?")
            saved(result)
            try:
                await chatty.run("talk", usage_limits=UsageLimits(request_limit=2))
            except UsageLimitExceeded as error:
                called("limited")
            await fragile()
            return result.output
        """)
    with pytest.raises(RuntimeError):
        place.run()
    before = place.calls
    place.mend()
    assert place.last.resume().name == "Bern"
    # What the flow's own code does is done again: validators, handlers. What it asks is not.
    after = place.calls[len(before) :]
    assert [call for call in after if call.split()[0] in ("model", "more")] == []
    assert after.count("limited") == 1
    assert place.messages[0] == place.messages[1]


def test_an_agent_is_another_s_tool_in_a_step_or_beside_it(place: AgentBench) -> None:
    code = """
        inner = Agent(scripted([("dig", {})], "gold", name="inner"), name="inner",
                      capabilities=[KitaruDurability()])

        @inner.tool_plain
        def dig() -> str:
            called("dig")
            return "dug"

        outer = Agent(scripted([("ask", {"n": 1}), ("ask", {"n": 2})], "rich", name="outer"),
                      name="outer", capabilities=[KitaruDurability()])

        @outer.tool(metadata=METADATA)
        async def ask(ctx: RunContext, n: int) -> str:
            result = await inner.run("dig", usage=ctx.usage)
            return result.output

        @flow
        async def main() -> str:
            result = await outer.run("go")
            saved(result)
            await fragile()
            return f"{result.output} {result.usage.requests}"
        """
    place.write(code.replace("METADATA", "None"))
    assert place.resumes_alike().startswith("rich")
    named = [entry["name"] for entry in place.entries]
    assert named.count("ask") == 2
    assert "inner.model" not in named
    # What the inner agent used is in the step's entry.
    assert place.named("ask")["usage"]["requests"] == 2


def test_an_inner_agent_can_have_steps_of_its_own(place: AgentBench) -> None:
    place.write("""
        inner = Agent(scripted([("dig", {})], "gold", name="inner"), name="inner",
                      capabilities=[KitaruDurability()])

        @inner.tool_plain
        def dig() -> str:
            called("dig")
            return "dug"

        outer = Agent(scripted([("ask", {"n": 1}), ("ask", {"n": 2})], "rich", name="outer"),
                      name="outer", capabilities=[KitaruDurability()])

        @outer.tool(metadata={"kitaru": False})
        async def ask(ctx: RunContext, n: int) -> str:
            result = await inner.run("dig", usage=ctx.usage)
            return result.output

        @flow
        async def main() -> str:
            result = await outer.run("go")
            saved(result)
            await fragile()
            return f"{result.output} {result.usage.requests}"
        """)
    assert place.resumes_alike() == "rich 6"
    named = [entry["name"] for entry in place.entries]
    assert named.count("inner.model") == 4
    assert named.count("dig") == 2
    assert "ask" not in named
