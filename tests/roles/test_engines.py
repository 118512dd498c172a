from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from protocol import administration as admin
from roles.manager import Manager
from roles.store import Store
from roles.world import World
from tests.roles.test_manager import ask, say


@pytest.fixture
async def separate(world_folder: Path) -> AsyncIterator[Manager]:
    """The small world with engines in processes of their own."""
    file = world_folder / "world.toml"
    text = file.read_text(encoding="utf-8").replace('backend = "inline"\n', "")
    file.write_text(text, encoding="utf-8")
    manager = Manager(World.load(world_folder), Store())
    await manager.start()
    await manager.wait_ready()
    yield manager
    await manager.close()


async def test_an_engine_killed_under_a_line_is_replaced_and_told(separate: Manager) -> None:
    engine = separate.house.engines["npc"]
    first = await say(separate, "Hello?", seed=4, ephemeral=True)
    speaking = asyncio.create_task(say(separate, "Tell me all.", max_tokens=700, agent="ben"))
    while not any(line.text for line in separate.house.lines_being_spoken):
        await asyncio.sleep(0.005)
    pid = getattr(engine.backend, "pid", 0)
    os.kill(pid, signal.SIGKILL)
    broken = await speaking
    assert broken.cause
    assert broken.text
    waiting = await say(separate, "Are you there?")
    assert waiting.text
    while engine.state != "ready":
        await asyncio.sleep(0.05)
    again = await say(separate, "Hello?", seed=4, conversation="new", ephemeral=True)
    assert again.text == first.text
    assert again.adapter is not None
    stats = (await ask(separate, "stats", admin.StatsRequest()))[0]
    assert isinstance(stats, admin.StatsReply)
    assert [info.running for info in stats.engines] == [0, 0]


async def test_a_line_that_misses_its_deadline_is_an_authored_one(manager: Manager) -> None:
    manager.house.deadline_ms = 0.001
    reply = await say(manager, "Hello?")
    assert reply.fallback
    assert reply.text in {"One moment.", "Let me think."}
    assert "deadline" in reply.cause
    manager.house.deadline_ms = None
    assert not (await say(manager, "Hello?")).fallback
    assert manager.house.lines_being_spoken == []


async def test_levels_of_focus_pick_budget_priority_and_model(manager: Manager) -> None:
    near = await say(manager, "Hello?", ephemeral=True)
    far = await say(manager, "Hello?", focus="far", ephemeral=True)
    away = await say(manager, "Hello?", focus="offstage", ephemeral=True)
    lines = [manager.house.transcript.find(x.line, None) for x in (near, far, away)]
    assert [line.priority for line in lines] == [20, 10, 0]
    assert lines[1].sampling.max_tokens == lines[0].sampling.max_tokens // 2
    assert away.fallback
    assert away.usage.prompt_tokens == 0
    assert "focus far: the request said so" in lines[1].routing


async def test_an_important_event_lifts_those_who_saw_it(manager: Manager) -> None:
    from protocol import play

    await ask(manager, "focus", play.FocusRequest(agent="anna", level="far"))
    event = play.EventRequest(kind="lamp_out", text="Dark!", who=["anna"], importance=0.9)
    await ask(manager, "event", event)
    levels = []
    for _ in range(4):
        line = manager.house.transcript.find((await say(manager, "Hello?")).line, None)
        levels.append(line.routing[0].split(":")[0])
    assert levels == ["focus near"] * 3 + ["focus far"]
