from __future__ import annotations

from pathlib import Path

import pytest

from protocol import administration as admin
from protocol import messages as wire
from protocol import play
from protocol.errors import Refusal
from roles.manager import Manager
from tests.roles.test_manager import ask, interrupted, prompt_text, say
from tests.roles.test_world import change


async def reload(manager: Manager, **fields: bool) -> list[admin.FileChange]:
    reply = (await ask(manager, "reload", admin.ReloadRequest(**fields)))[0]
    assert isinstance(reply, admin.ReloadReply)
    return reply.changes


async def test_an_edit_takes_effect_and_conversations_go_on(
    manager: Manager, world_folder: Path
) -> None:
    first = await say(manager, "Where is the clock?")
    change(world_folder / "lore" / "house.md", "stopped at nine", "stopped at ten")
    change(world_folder / "npcs" / "anna.toml", "You are brisk", "You are slow")
    changes = await reload(manager)
    assert [(x.file, x.change, x.about) for x in changes] == [
        ("lore/house.md", "changed", "~clock"),
        ("npcs/anna.toml", "changed", ""),
    ]
    second = await say(manager, "Where is the clock?")
    shown = prompt_text(manager, second.line)
    assert "You are slow" in shown
    assert "Fact: The clock in the hall stopped at ten." in shown
    assert first.text in shown


async def test_a_broken_edit_keeps_the_old_world_and_says_why(
    manager: Manager, world_folder: Path
) -> None:
    change(world_folder / "npcs" / "anna.toml", "persona =", "personna =")
    with pytest.raises(Refusal, match=r"npcs/anna\.toml: personna.*did you mean 'persona'"):
        await reload(manager)
    line = await say(manager, "Hello?")
    assert "You are brisk" in prompt_text(manager, line.line)


async def test_a_line_being_spoken_outlives_a_reload_and_even_its_character(
    manager: Manager, world_folder: Path
) -> None:
    change(world_folder / "npcs" / "anna.toml", "You are brisk", "You are slow")
    hall = play.SceneRequest(scene="hall", place="hall", present=["anna", "ben"])
    await ask(manager, "scene", hall)
    body = wire.SayRequest(agent="anna", text="Tell me.", max_tokens=40)
    first = await interrupted(manager, "say", body, lambda: reload(manager))
    assert isinstance(first, wire.SayReply)
    assert manager.house.play.cast["anna"].part.mood == first.emotion
    change(world_folder / "npcs" / "ben.toml", 'place = "cellar"', 'place = "hall"')
    (world_folder / "npcs" / "anna.toml").unlink()
    change(world_folder / "lore" / "house.md", "know: staff", "know: ben")
    second = await interrupted(manager, "say", body, lambda: reload(manager))
    assert isinstance(second, wire.SayReply)
    assert second.text
    assert "anna" not in manager.house.play.cast
    scene = wire.ConverseRequest(scene="hall", text="Hello?", max_lines=2)
    (*_, answer) = await ask(manager, "converse", scene)
    assert isinstance(answer, wire.ConverseReply)
    assert [line.agent for line in answer.lines] == ["ben"]


async def test_checking_alone_changes_nothing(manager: Manager, world_folder: Path) -> None:
    change(world_folder / "npcs" / "anna.toml", "You are brisk", "You are slow")
    assert len(await reload(manager, check_only=True)) == 1
    line = await say(manager, "Hello?")
    assert "You are brisk" in prompt_text(manager, line.line)
    assert len(await reload(manager)) == 1
