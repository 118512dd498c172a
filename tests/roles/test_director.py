from __future__ import annotations

import json
from pathlib import Path

import pytest

from protocol import messages as wire
from protocol import play
from roles.director import WAIT, Director, event_due, wrong_way
from roles.manager import Manager
from roles.store import Store
from roles.world import World
from tests.roles.test_manager import ask, say
from tests.roles.test_world import change
from tests.roles.worlds_for_tests import write_world

STAGED = """
[directives.stage]
description = "let an event happen"
arguments = { event = "event" }
[directives.hint]
description = "let a character hint at something"
arguments = { who = "npc", about = "text" }
goal = "Hint at {about}."

[events.lamp_out]"""


@pytest.fixture
def director(tmp_path: Path) -> Director:
    folder = write_world(tmp_path)
    change(folder / "world.toml", "\n[events.lamp_out]", STAGED)
    return Director(World.load(folder), Store())


def test_events_raise_the_tension_and_time_calms_it(director: Director) -> None:
    assert director.stage.tension == 2
    director.take_event("lamp_out", "The lamp goes out.", 0.8, {})
    assert director.stage.tension == 4
    director.advance(600.0)
    assert director.stage.tension == pytest.approx(2.0)
    director.advance(60.0)  # a clock never goes back
    assert director.stage.now == 600
    for _ in range(20):
        director.take_event("lamp_out", "Again.", 0.8, {})
    assert director.stage.tension == 10


def test_its_prompt_stays_as_long_as_it_is_over_thousands_of_events(director: Director) -> None:
    def play_on(ticks: int) -> int:
        for tick in range(ticks):
            for number in range(3):
                director.take_event(
                    "noise", f"Noise {tick:04} {number}. " * 9, 0.5, {f"t{tick:04}": 1}
                )
            director.settle(WAIT, "l1", "")
        director.take_event("noise", "Noise. " * 40, 0.5, {})
        length = sum(len(message.text) for message in director.prompt())
        director.settle(WAIT, "l1", "")
        return length

    early, late = play_on(10), play_on(500)
    assert late <= 1.05 * early


def test_events_wait_for_their_tick_and_then_become_story(director: Director) -> None:
    for number in range(10):
        director.take_event("noise", f"Noise {number}.", 0.5, {})
    seen = director.prompt()[1].text
    assert "Event: Noise 7." in seen
    assert "Event: Noise 8." not in seen
    director.settle(WAIT, "l1", "")
    seen = director.prompt()[1].text
    assert "Event: Noise 8." in seen
    assert "Story: Noise 4. Noise 5. Noise 6. Noise 7." in seen


def test_far_off_the_curve_no_event_leads_away_from_it(director: Director) -> None:
    world = director.world
    tension = world.spec.events["lamp_out"].tension
    assert tension > 0
    assert "lamp_out" in wrong_way(world, 9, 2)
    assert "lamp_out" not in wrong_way(world, 2, 9)
    assert not wrong_way(world, 5, 4)
    director.take_event("lamp_out", "The lamp goes out.", 0.8, {})
    closed = director.closed(frozenset({"anna"}))
    assert "lamp_out" in closed["event"]
    assert closed["npc"] == {"anna"}


def test_where_the_model_waits_far_off_the_curve_an_event_is_staged(director: Director) -> None:
    wait, stage = json.dumps(WAIT), {"do": "stage", "event": "lamp_out"}
    director.stage.tension = director.wanted
    assert director.decide(wait, frozenset()) == (WAIT, "")
    director.stage.tension = director.wanted - 3
    directive, why = director.decide(wait, frozenset())
    assert directive == stage
    assert "far too calm" in why
    assert director.decide(wait, frozenset({"anna"})) == (WAIT, "")  # a scripted scene
    director.settle(directive, "l1", why)
    assert director.decide(wait, frozenset()) == (WAIT, "")  # the game hasn't staged it yet
    director.take_event("lamp_out", "The lamp goes out.", 0.8, {})
    director.stage.tension = director.wanted - 3
    assert director.decide(wait, frozenset()) == (WAIT, "")  # nothing is left that would help


def test_the_event_that_leads_nearest_to_the_curve_is_due() -> None:
    world = World.load()
    assert event_due(world, 1, 4) == {"do": "stage", "event": "water_rises"}
    assert event_due(world, 1, 4, frozenset({"water_rises"})) == {
        "do": "stage",
        "event": "inspector_arrives",
    }
    assert event_due(world, 7, 4) == {"do": "stage", "event": "quiet_hour"}
    assert event_due(world, 3, 4) is None


def test_canon_overrules_a_directive(director: Director) -> None:
    stage = json.dumps({"do": "stage", "event": "lamp_out"})
    assert director.decide(stage, frozenset()) == (json.loads(stage), "")
    director.take_event("lamp_out", "The lamp goes out.", 0.8, {})
    directive, why = director.decide(stage, frozenset())
    assert directive == WAIT
    assert "has happened already" in why
    hint = json.dumps({"do": "hint", "who": "anna", "about": "the key"})
    assert director.decide(hint, frozenset({"anna"}))[0] == WAIT
    assert director.decide(hint, frozenset({"ben"}))[0] == json.loads(hint)


@pytest.mark.parametrize("answer", ['{"do": "dir', "[]", "{}", "hello"])
def test_an_answer_that_is_no_directive_is_to_wait(director: Director, answer: str) -> None:
    directive, why = director.decide(answer, frozenset())
    assert directive == WAIT
    assert why


def test_a_directive_becomes_a_direction_in_the_worlds_own_words(director: Director) -> None:
    hint = {"do": "hint", "who": "anna", "about": "the key"}
    assert director.direction(hint) == ("anna", "", "Hint at the key.")
    direct = {"do": "direct", "who": "ben", "mood": "afraid", "goal": "find the lamp"}
    assert director.direction(direct) == ("ben", "afraid", "find the lamp")
    assert director.direction(WAIT) is None
    assert director.direction({"do": "stage", "event": "lamp_out"}) is None


def test_its_state_outlives_it(director: Director) -> None:
    director.take_event("lamp_out", "The lamp goes out.", 0.8, {"quest": "open"})
    again = Director(director.world, director._store)
    assert again.stage == director.stage
    assert again.happened == {"lamp_out"}


async def test_a_tick_without_an_answer_leaves_its_events_waiting(manager: Manager) -> None:
    await ask(manager, "event", play.EventRequest(kind="noise", text="A noise."))
    manager.house.deadline_ms = 0.001
    reply = (await ask(manager, "tick", wire.TickRequest()))[-1]
    assert isinstance(reply, wire.TickReply)
    assert reply.waited
    assert reply.fallback
    assert manager.house.play.director.stage.waiting == ["A noise."]


async def test_what_is_said_to_somebody_offstage_reaches_the_director(manager: Manager) -> None:
    reply = await say(manager, "Where are you?", focus="offstage")
    assert reply.fallback
    waiting = manager.house.play.director.stage.waiting
    assert waiting == ["Guest said to Anna, who is elsewhere: Where are you?"]
