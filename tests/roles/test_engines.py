from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from protocol import administration as admin
from protocol import messages as wire
from roles.breaker import Breaker
from roles.manager import Manager
from roles.speech import NO_WORD
from roles.store import Store
from roles.world import World
from tests.roles.test_manager import ask, interrupted, say


@pytest.fixture
async def separate(world_folder: Path) -> AsyncIterator[Manager]:
    """The small world with engines in processes of their own."""
    file = world_folder / "world.toml"
    text = file.read_text(encoding="utf-8").replace('backend = "inline"\n', "")
    file.write_text(text, encoding="utf-8")
    manager = Manager(World.load(world_folder), Store())
    manager.house.deadline_ms = 60_000  # no line falls back just because the machine is busy
    await manager.start()
    await manager.wait_ready()
    yield manager
    await manager.close()


async def test_an_engine_killed_under_a_line_is_replaced_and_told(separate: Manager) -> None:
    engine = separate.house.engines["npc"]
    first = await say(separate, "Hello?", seed=4, ephemeral=True)
    pid = getattr(engine.backend, "pid", 0)

    async def kill() -> None:
        os.kill(pid, signal.SIGKILL)

    body = wire.SayRequest(agent="ben", text="Tell me all.", max_tokens=700)
    broken = await interrupted(separate, "say", body, kill)
    assert isinstance(broken, wire.SayReply)
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
    assert manager.house.lines_being_spoken == []


async def test_lines_that_want_a_word_at_once_do_not_close_the_engine_to_others(
    manager: Manager,
) -> None:
    manager.house.deadline_ms = 0
    for _ in range(5):
        assert (await say(manager, "Hello?")).cause == NO_WORD
    manager.house.deadline_ms = 60_000
    assert not (await say(manager, "Hello?")).fallback


async def test_a_silent_engine_rests_and_only_who_has_time_waits_for_it(manager: Manager) -> None:
    engine = manager.house.engines["npc"]
    engine.table = engine.table.model_copy(update={"deadline_ms": 0})  # any silence is too long
    engine.breaker = Breaker(failures=3, rest_s=0.3)
    manager.house.deadline_ms = 0
    assert [(await say(manager, "Hello?")).cause for _ in range(3)] == [NO_WORD] * 3
    manager.house.deadline_ms = 10_000
    engine.breaker.rest_s = 60
    assert "rests" in (await say(manager, "Hello?")).cause
    engine.breaker.rest_s = 0.3
    manager.house.deadline_ms = 86_400_000
    assert not (await say(manager, "Hello?")).fallback


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
