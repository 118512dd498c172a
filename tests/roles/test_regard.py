from __future__ import annotations

from pathlib import Path
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from protocol import administration as admin
from protocol import play
from roles.manager import Manager
from roles.regard import in_words, moved, turn
from tests.roles.test_manager import ask, prompt_text, say
from tests.roles.test_saves import hosted
from tests.roles.test_world import change

FOND = "I have grown fond of Guest."


@given(st.lists(st.floats(-1, 1), max_size=200))
def test_a_feeling_stays_between_its_ends(steps: list[float]) -> None:
    regard = 0.0
    for step in steps:
        regard = moved(regard, step)
        assert -1 <= regard <= 1


def test_a_change_of_heart_is_told_once_where_the_bound_is_passed() -> None:
    assert turn(0.3, 0.45, "Ben") == "I have grown fond of Ben."
    assert turn(0.45, 0.5, "Ben") == ""
    assert turn(-0.3, -0.5, "Ben") == "I have turned against Ben."
    assert in_words("wary", 0.5) == "wary; grown fond"
    assert in_words("", 0.1) == ""


async def relations(manager: Manager, agent: str) -> dict[str, tuple[str, float]]:
    reply = (await ask(manager, "memory", admin.MemoryRequest(agent=agent)))[0]
    return {
        one.who: (one.feeling, one.strength) for one in cast(admin.MemoryReply, reply).relations
    }


async def test_a_line_moves_what_is_felt_by_its_mood_and_says_so(manager: Manager) -> None:
    reply = await say(manager, "Hello?")
    step = -0.05 if reply.emotion == "afraid" else 0.0
    assert (await relations(manager, "anna"))["player"] == ("wary", step)
    routing = manager.house.transcript.find(reply.line, None).routing
    assert any(why.startswith(f"feels {step:+.2f} for player") for why in routing)
    await say(manager, "Hello?", agent="ben", ephemeral=True)
    assert await relations(manager, "ben") == {}


async def test_an_event_moves_what_its_witnesses_feel_for_those_in_it(
    world_folder: Path, tmp_path: Path
) -> None:
    change(world_folder / "world.toml", "importance = 0.8", "importance = 0.8\nregard = 0.3")
    manager = await hosted(world_folder, tmp_path / "state")
    event = play.EventRequest(kind="lamp_out", text="Guest saves Ben.", who=["player", "ben"])
    try:
        await ask(manager, "event", event)
        assert await relations(manager, "ben") == {"player": ("", 0.3)}
        assert (await relations(manager, "anna"))["player"] == ("wary", 0.0)  # wasn't there
        await ask(manager, "save", play.SaveRequest(slot="before"))
        await ask(manager, "event", event)
        assert await relations(manager, "ben") == {"player": ("grown fond", 0.51)}
        lines = [await say(manager, "Hello?", agent="ben") for _ in range(3)]
        assert [prompt_text(manager, line.line).count(FOND) for line in lines] == [1, 1, 1]
        await ask(manager, "restore", play.RestoreRequest(slot="before"))
        assert await relations(manager, "ben") == {"player": ("", 0.3)}
        later = await say(manager, "Hello?", agent="ben")
        assert FOND not in prompt_text(manager, later.line)
    finally:
        await manager.close()
