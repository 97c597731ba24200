"""What the journal holds of a conversation: each thing once."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from agentbench import AgentBench
from plain_git import git

from kitaru_fs import DivergenceError, Workspace

TALK = """
    def say(messages):
        return [("tell", {"what": f"{len(messages):04d}" + "x" * 500})]

    agent = Agent(scripted(*[say] * TURNS, "over"), name="long", instructions="Be brief. " * 50,
                  capabilities=[KitaruDurability()])

    @agent.tool_plain
    def tell(what: str) -> str:
        return what[::-1]

    @flow
    async def main() -> str:
        return (await agent.run("talk")).output
"""


def _requests(place: AgentBench) -> list[dict[str, Any]]:
    return [entry for entry in place.entries if entry["name"].endswith(".model")]


def test_a_request_names_what_it_adds_and_the_request_that_it_goes_on_from(
    place: AgentBench,
) -> None:
    place.write(TALK.replace("TURNS", "3"))
    place.run()
    first, second, third, _ = _requests(place)
    assert first["input"]["messages"] == [{"request": [{"kind": "user-prompt", "content": "talk"}]}]
    assert "after" not in first["input"]
    assert second["input"]["after"] == first["key"]
    assert third["input"]["after"] == second["key"]
    # The model's answer is the output of the request before, the tool's return that of its entry.
    ((part,),) = (message["request"] for message in second["input"]["messages"])
    assert part["kind"] == "tool-return"
    assert part["tool_name"] == "tell"
    assert "content" not in part
    assert first["input"]["instructions"].startswith("Be brief. Be brief.")
    assert list(second["input"]["instructions"]) == ["as_before"]


def test_a_conversation_is_not_stored_again_with_each_request(place: AgentBench) -> None:
    place.write(TALK.replace("TURNS", "40"))
    place.run()
    sizes = [
        file.stat().st_size for file in sorted(place.last.path.glob("journal/*/*long.model.json"))
    ]
    assert len(sizes) == 41
    assert sizes[39] < sizes[1] + 100


def test_a_run_grows_with_its_conversation_and_not_with_its_square() -> None:
    from campaigns.conversation import measure

    short, long = measure(30), measure(90)
    more = long.messages - short.messages
    assert more > 200_000
    # The history once a request would be 20 times this.
    assert long.git - short.git < 3 * more
    assert long.journal - short.journal < 3 * more


def test_a_history_that_was_edited_is_stored_anew_from_where_it_differs(place: AgentBench) -> None:
    place.write("""
        agent = Agent(scripted("yes"), name="same", capabilities=[KitaruDurability()])

        @flow
        async def main() -> None:
            first = await agent.run("one")
            second = await agent.run("two", message_history=first.all_messages())
            edited = second.all_messages()
            edited[2] = ModelRequest(parts=[UserPromptPart("three")])
            await agent.run("four", message_history=edited)
        """)
    place.run()
    first, second, third = _requests(place)
    assert second["input"]["after"] == first["key"]
    assert [list(message) for message in second["input"]["messages"]] == [["request"]]
    assert third["input"]["after"] == first["key"]
    kinds = [next(iter(message)) for message in third["input"]["messages"]]
    assert kinds == ["request", "response", "request"]
    assert third["input"]["messages"][0]["request"][0]["content"] == "three"


PICTURE = bytes(range(256)) * 40


@pytest.fixture
def picture(place: AgentBench) -> Path:
    file = place.path / "picture.png"
    file.write_bytes(PICTURE)
    return file


LOOK = """
    from pydantic_ai import BinaryContent
    from pydantic_ai.messages import FilePart

    def picture():
        return BinaryContent((OUTSIDE / "picture.png").read_bytes(), media_type="image/png")

    def paint(messages):
        return ModelResponse(parts=[FilePart(picture()), TextPart("here")])

    def answer(messages, info):
        turn = sum(isinstance(message, ModelResponse) for message in messages)
        called(f"model {turn}")
        if turn < 3:
            return ModelResponse(parts=[ToolCallPart("look", {})])
        return paint(messages)

    agent = Agent(FunctionModel(answer), name="looker", capabilities=[KitaruDurability()])

    @agent.tool_plain
    def look() -> BinaryContent:
        called("look")
        return picture()

    @flow
    async def main() -> list[str]:
        result = await agent.run(["what is this?", picture()])
        saved(result)
        (image,) = result.response.images
        await fragile()
        return [image.media_type, str(len(image.data)), str(image.data[255])]
"""


def test_a_picture_is_stored_once_beside_the_first_entry_that_has_it(
    place: AgentBench, picture: Path
) -> None:
    place.write(LOOK)
    assert place.resumes_alike() == ["image/png", str(len(PICTURE)), "255"]
    run = place.last.path
    (beside,) = run.glob("journal/*/*.png")
    assert beside.read_bytes() == PICTURE
    digest = beside.name.split(".")[-2]
    assert [entry["step"] for entry in place.entries if "beside" in entry] == [1]
    assert place.entries[1]["beside"] == [f"{digest}.png"]
    text = base64.b64encode(PICTURE).decode()[:200]
    for file in run.glob("journal/*/*.json"):
        assert text not in file.read_text()
    returned = place.named("look")["output"]["result"]
    assert (returned["data"], returned["media_type"]) == (f"beside:{digest}", "image/png")
    git(run, "fsck", "--strict", home=place.path)


def test_another_picture_is_another_question(place: AgentBench, picture: Path) -> None:
    place.write(LOOK)
    with pytest.raises(RuntimeError):
        place.run()
    picture.write_bytes(PICTURE[::-1])
    place.mend()
    with pytest.raises(DivergenceError) as caught:
        place.last.resume()
    assert "messages[0].request[0].content[1].data" in caught.value.message


def test_a_long_text_is_beside_the_entry(place: AgentBench) -> None:
    place.write("""
        agent = Agent(scripted("yes"), name="reader", capabilities=[KitaruDurability()])

        @flow
        async def main() -> None:
            saved(await agent.run("word " * 30_000))
            await fragile()
        """)
    place.resumes_alike()
    (beside,) = place.last.path.glob("journal/*/*.txt")
    assert beside.read_text() == "word " * 30_000
    (message,) = _requests(place)[0]["input"]["messages"]
    assert message["request"][0]["content"] == f"beside:{beside.name.split('.')[-2]}"
    (body,) = [line.subject for line in place.last.log() if line.kind == "model"]
    assert body == "step 1: reader.model"


def test_what_a_tool_says_in_the_form_of_a_file_beside_is_itself(place: AgentBench) -> None:
    place.write("""
        agent = Agent(scripted([("odd", {})], "yes"), name="odd", capabilities=[KitaruDurability()])

        @agent.tool_plain
        def odd() -> dict[str, str]:
            return {"kind": "binary", "data": "beside:0123456789abcdef", "mine": "yes"}

        @flow
        async def main() -> None:
            saved(await agent.run("go"))
            await fragile()
        """)
    place.resumes_alike()
    assert place.messages[0][2]["parts"][0]["content"]["data"] == "beside:0123456789abcdef"


def test_a_run_that_is_copied_keeps_its_pictures(place: AgentBench, picture: Path) -> None:
    place.write(LOOK)
    with pytest.raises(RuntimeError):
        place.run()
    before = place.calls
    place.mend()
    origin = place.last.path
    copy = origin.with_name(f"{origin.name}-copy")
    git(place.path, "clone", "-q", str(origin), str(copy), home=place.path)
    assert Workspace(place.path / "ws").run(copy.name).resume()[1] == str(len(PICTURE))
    assert place.calls == [*before, "fragile"]
