"""One-off questions to models, and names for models."""

from __future__ import annotations

import pytest
from agentbench import AgentBench

from kitaru_fs.errors import UsageError

ASK = """
    from kitaru_fs import llm

    def answer(messages, info):
        called(f"asked {messages[-1].parts[-1].content}")
        if info.output_tools:
            tool = info.output_tools[0]
            wrapped = tool.outer_typed_dict_key
            value = {"lines": 2, "words": ["a", "b"]}
            value = {wrapped: 7} if wrapped else value
            return ModelResponse(parts=[ToolCallPart(tool.name, value)])
        return ModelResponse(parts=[TextPart("an answer")])

    model = FunctionModel(answer)

    class Counted(BaseModel):
        lines: int
        words: list[str]
"""


def test_a_question_is_asked_once(place: AgentBench) -> None:
    place.write(
        ASK
        + """
    @flow
    async def main() -> list[str]:
        text = await llm("what?", model=model)
        both = await asyncio.gather(llm("same", model=model), llm("same", model=model))
        number = await llm("how many?", model=model, output_type=int, instructions="count")
        counted = await llm("count", model=model, output_type=Counted)
        await fragile()
        return [text, *both, str(number), str(counted.words)]
    """
    )
    told = ["an answer", "an answer", "an answer", "7", "['a', 'b']"]
    assert place.resumes_alike() == told
    asked = [entry for entry in place.entries if entry["name"] == "llm.model"]
    assert len(asked) == 5
    assert asked[0]["kind"] == "model"
    assert asked[0]["usage"]["requests"] == 1


def test_in_a_step_and_outside_a_flow_it_is_a_plain_request(place: AgentBench) -> None:
    place.write(
        ASK
        + """
    @step
    async def judge() -> str:
        return await llm("in a step", model=model)

    @flow
    async def main() -> str:
        return await judge()

    if __name__ == "__main__":
        print(asyncio.run(llm("outside", model=model)))
    """
    )
    assert place.run() == "an answer"
    assert place.named("judge")["usage"]["requests"] == 1
    assert "llm.model" not in {entry["name"] for entry in place.entries}


def test_without_a_model_it_says_where_to_name_one(place: AgentBench) -> None:
    place.write("""
        from kitaru_fs import llm

        @flow
        async def main() -> str:
            return await llm("what?")
        """)
    with pytest.raises(UsageError) as caught:
        place.run()
    assert "[models] default" in caught.value.hint


def test_names_of_the_settings_are_models_for_questions_and_agents(place: AgentBench) -> None:
    place.settings('[models]\nfast = "test"\ndefault = "test"\n')
    place.write("""
        from kitaru_fs import llm

        agent = Agent("fast", name="aliased", capabilities=[KitaruDurability()])

        @flow
        async def main() -> list[str]:
            said = [await llm("one"), await llm("two", model="fast")]
            result = await agent.run("three")
            other = await agent.run("four", model="default")
            saved(result)
            await fragile()
            return [*said, result.output, other.output]
        """)
    said = "success (no tool calls)"
    assert place.resumes_alike() == [said] * 4
    asked = [entry["input"]["model"] for entry in place.entries if entry["kind"] == "model"]
    assert asked == ["default", "fast", "fast", "default"]


def test_a_name_that_stands_for_another_model_now_is_the_same_question(
    place: AgentBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.settings('[models]\nfast = "test"\n')
    place.write("""
        from kitaru_fs import llm

        @flow
        async def main() -> str:
            said = await llm("one", model="fast")
            await fragile()
            return said
        """)
    with pytest.raises(RuntimeError):
        place.run()
    monkeypatch.setenv("OPENAI_API_KEY", "never-used")
    place.settings('[models]\nfast = "openai:gpt-5-mini"\n')
    place.mend()
    assert place.last.resume() == "success (no tool calls)"
