"""Scripts of play: the demos of a world go round in turn, and time goes on."""

from __future__ import annotations

from pathlib import Path

from roles.script import Step, demo_of, read_script
from roles.world import World, find_world


def test_demos_are_played_in_turn_and_begin_again(tmp_path: Path) -> None:
    assert [demo_of(tmp_path, turn).name for turn in (1, 2)] == ["demo.toml"] * 2
    for name in ("demo.toml", "demo_3.toml", "demo_2.toml"):
        (tmp_path / name).touch()
    names = [demo_of(tmp_path, turn).name for turn in range(1, 5)]
    assert names == ["demo.toml", "demo_2.toml", "demo_3.toml", "demo.toml"]


def test_every_round_of_the_starter_world_can_be_played_and_brings_other_events() -> None:
    world, seen = World.load("biblioteca_eterna"), list[str]()
    for turn in range(1, 5):
        steps = read_script(demo_of(find_world("biblioteca_eterna"), turn), frozenset(world.agents))
        events = [step.event for step in steps if step.event]
        assert events
        assert set(events) <= world.spec.events.keys()
        seen += events
    assert len(seen) == len(set(seen))


def test_a_later_round_is_later_in_the_game() -> None:
    assert Step(tick=True, now=300).later(900).now == 1200
    assert Step(tick=True).later(900).now is None
