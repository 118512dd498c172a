from __future__ import annotations

from pathlib import Path

import pytest

from engine.requests import Message
from protocol import administration as admin
from protocol.errors import Refusal
from roles.budget import TokenCounter
from roles.dialogue import Dialogue
from roles.manager import Manager
from roles.prompt import reply, turn
from roles.store import Store
from tests.roles.test_manager import ask, prompt_text, say


def exchange(number: int) -> list[Message]:
    return [turn("Guest", f"question {number}"), reply(f"[calm] answer {number}")]


def test_a_dialogue_is_the_same_after_it_was_stored(tmp_path: Path) -> None:
    store = Store(tmp_path / "game.sqlite")
    dialogue = Dialogue(store, "anna|player|")
    dialogue.append("l1", exchange(1))
    assert Dialogue(store, "anna|player|").messages == dialogue.messages
    assert Dialogue(store, "ben|player|").messages == ()
    store.close()


def test_whole_exchanges_leave_a_full_dialogue_oldest_first() -> None:
    store, counter = Store(), TokenCounter("")
    dialogue = Dialogue(store, "anna|player|")
    for number in range(10):
        dialogue.append(f"l{number}", exchange(number))
    total = counter.count_messages(dialogue.messages)
    assert dialogue.roll_up(counter, total) == []
    left = dialogue.roll_up(counter, total - 1)
    assert [turn.line for turn in left] == [f"l{i // 2}" for i in range(len(left))]
    assert counter.count_messages(dialogue.messages) <= total // 2
    assert dialogue.turns[0].message.role == "user"
    assert Dialogue(store, "anna|player|").messages == dialogue.messages
    assert dialogue.rolled_up


async def test_a_long_talk_never_exceeds_its_budget_and_forgets_nothing(
    manager: Manager,
) -> None:
    house = manager.house
    await say(manager, "My brother is called Aldo Farrow.", max_tokens=20)
    context = house.engines["npc"].table.context
    summaries = 0
    for number in range(12):
        line = await say(manager, f"Tell me more about tea, number {number}.", max_tokens=20)
        shown = house.transcript.find(line.line, None)
        assert shown.started is not None
        assert len(shown.started.prompt_token_ids) + 20 <= context
        summaries += any("became a summary" in why for why in shown.routing)
    assert summaries >= 1
    recalled = await say(manager, "What is my brother called?", max_tokens=20)
    last = house.transcript.find(recalled.line, None).prompt[-1].text
    assert "Memory: Guest said: My brother is called Aldo Farrow." in last
    assert "Memory: Earlier, " in last


async def test_a_text_that_can_never_fit_is_refused_with_the_numbers(manager: Manager) -> None:
    with pytest.raises(Refusal, match=r"prompt of \d+ tokens; at most \d+ fit"):
        await say(manager, "x" * 2000)


async def test_a_writer_can_list_edit_pin_and_forget(manager: Manager) -> None:
    await say(manager, "I like roses.")

    async def memory(**fields: object) -> list[admin.MemoryInfo]:
        body = admin.MemoryRequest.model_validate({"agent": "anna", **fields})
        found = (await ask(manager, "memory", body))[0]
        assert isinstance(found, admin.MemoryReply)
        return found.memories

    (first,) = await memory()
    assert first.text == "Guest said: I like roses."
    await memory(op="edit", memory=first.memory, text="Guest said: I like tulips.")
    assert [one.text for one in await memory(query="tulips")] == ["Guest said: I like tulips."]
    await memory(op="pin", memory=first.memory)
    line = await say(manager, "Good evening.")
    assert "Memory: Guest said: I like tulips." in prompt_text(manager, line.line)
    await memory(op="forget", memory=first.memory)
    assert [one.text for one in await memory() if one.memory == first.memory] == []
    line = await say(manager, "Do I like tulips?")
    assert "Memory: Guest said: I like tulips." not in (
        manager.house.transcript.find(line.line, None).prompt[-1].text
    )
