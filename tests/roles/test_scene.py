from __future__ import annotations

from typing import Any, cast

import pytest

from protocol import messages as wire
from protocol import play
from protocol.errors import Refusal
from roles.manager import Manager
from tests.roles.test_manager import ask, interrupted, prompt_text, say


@pytest.fixture
async def hall(manager: Manager) -> Manager:
    """Anna and Ben are in the hall."""
    scene = play.SceneRequest(scene="hall", place="hall", present=["anna", "ben"])
    await ask(manager, "scene", scene)
    return manager


async def converse(manager: Manager, text: str, **fields: Any) -> list[wire.SayReply]:
    body = wire.ConverseRequest(scene="hall", text=text, **fields)
    parts = await ask(manager, "converse", body)
    assert isinstance(parts[0], wire.Accepted)
    return cast(wire.ConverseReply, parts[-1]).lines


async def test_whoever_is_called_by_name_answers_in_that_order(hall: Manager) -> None:
    lines = await converse(hall, "Ben and Anna, good evening!")
    assert [line.agent for line in lines] == ["ben", "anna"]
    assert [line.agent for line in await converse(hall, "Well, anna?")] == ["anna"]


async def test_unaddressed_words_go_to_whom_they_concern_most(hall: Manager) -> None:
    lines = await converse(hall, "Has anybody seen the silver spoons?", max_lines=1)
    assert [line.agent for line in lines] == ["anna"]  # she alone knows of them


async def test_unaddressed_words_go_to_whoever_feels_most_for_their_speaker(
    hall: Manager,
) -> None:
    assert (await converse(hall, "And so on.", max_lines=1, seed=1))[0].agent == "anna"
    hall.house.play.set_last_speaker("hall", "")
    hall.house.play.feel("ben", "player", -0.5)
    assert (await converse(hall, "And so on.", max_lines=1, seed=1))[0].agent == "ben"


async def test_one_character_does_not_do_all_the_talking(hall: Manager) -> None:
    speakers = [(await converse(hall, "And so on.", max_lines=1))[0].agent for _ in range(4)]
    assert speakers in (["anna", "ben"] * 2, ["ben", "anna"] * 2)


async def test_an_aside_is_heard_by_one_alone(hall: Manager) -> None:
    await converse(hall, "The password is Quince.", aside_to="ben")
    texts = [memory.text for memory in hall.house.play.memories.all("anna")]
    assert not any("Quince" in text for text in texts)
    line = await say(hall, "What is the password?", scene="hall")
    assert "Quince" not in prompt_text(hall, line.line)


async def test_what_others_said_is_in_the_next_prompt(hall: Manager) -> None:
    first = (await converse(hall, "Ben, the roses are called Bellamy."))[0]
    line = await say(hall, "Well?", scene="hall")
    assert "Bellamy" in prompt_text(hall, line.line)
    assert f"Ben said: {first.text}"[:20] in prompt_text(hall, line.line)


async def test_nobody_speaks_over_a_scripted_scene(hall: Manager) -> None:
    await ask(hall, "hush", play.HushRequest(scene="hall"))
    with pytest.raises(Refusal) as caught:
        await converse(hall, "Hello?")
    assert caught.value.code == "conflict"
    with pytest.raises(Refusal, match="hushed"):
        await say(hall, "Hello?")
    await ask(hall, "hush", play.HushRequest(scene="hall", on=False))
    assert await converse(hall, "Hello?")


async def test_a_scripted_scene_stops_a_line_being_spoken(hall: Manager) -> None:
    body = wire.SayRequest(agent="anna", text="Tell me all.", scene="hall", max_tokens=500)
    reply = await interrupted(
        hall, "say", body, lambda: ask(hall, "hush", play.HushRequest(scene="hall"))
    )
    assert isinstance(reply, wire.SayReply)
    assert reply.cause
    dialogue = hall.house.play.dialogue("anna", "player", "")
    assert dialogue.messages[-1].text.endswith(reply.text)


async def test_chatter_stops_when_the_player_speaks_and_keeps_what_was_said(
    hall: Manager,
) -> None:
    chatter = wire.ConverseRequest(scene="hall", text="So I said.", speaker="ben", max_tokens=500)
    reply = await interrupted(
        hall, "converse", chatter, lambda: converse(hall, "Anna, listen to me.")
    )
    lines = cast(wire.ConverseReply, reply).lines
    assert len(lines) == 1
    assert lines[0].cause
    dialogue = hall.house.play.dialogue("anna", "ben", "")
    assert dialogue.messages[-1].text.endswith(lines[0].text)


async def test_an_unknown_scene_or_listener_is_refused(hall: Manager) -> None:
    with pytest.raises(Refusal, match="nobody is in scene"):
        await ask(hall, "converse", wire.ConverseRequest(scene="attic", text="Hello?"))
    with pytest.raises(Refusal, match="not in scene"):
        await converse(hall, "Hello?", aside_to="zoe")
