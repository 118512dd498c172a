"""What a player types: a command, or something said."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from rich.console import Console

from protocol import administration as admin
from protocol.async_client import AsyncClient
from roles.play import Player
from roles.screen import Screen
from roles.script import Step
from roles.world import World
from tests.roles.worlds_for_tests import write_world


class Recorded(Player):
    """A player whose steps are written down instead of done."""

    steps: list[Step]

    async def _step(self, step: Step) -> None:
        self.steps.append(step)


@pytest.fixture
def player(tmp_path: Path) -> Recorded:
    world = World.load(write_world(tmp_path))
    tiers = {"director": "director", **dict.fromkeys(world.npcs, "npc")}
    infos = {
        agent: admin.AgentInfo.model_validate(
            {"agent": agent, "tier": tiers.get(agent, "book"), "state": "ready"}
        )
        for agent in world.agents
    }
    made = Recorded(cast(AsyncClient, None), Screen(Console(quiet=True), infos), world, 0)
    made.steps = []
    return made


@pytest.mark.parametrize(
    "line",
    [
        "look at this!",
        "read to me",
        "talk to me, Anna",
        "ask me anything",
        "quit that",
        "Hello",
        "talk",
    ],
)
async def test_what_is_no_command_is_said(player: Recorded, line: str) -> None:
    assert await player.command(line)
    assert [step.say for step in player.steps] == [{"anna": line}]


@pytest.mark.parametrize("slash", ["", "/"])
async def test_commands_are_done(player: Recorded, slash: str) -> None:
    book = next(a for a, info in player.screen.agents.items() if info.tier == "book")
    for line in (f"ask {book} who was it?", f"read {book} 2", "tick", "event A bell rings."):
        assert await player.command(slash + line)
    done = [(s.ask, s.read, s.page, s.tick, s.text) for s in player.steps]
    assert done == [
        ({book: "who was it?"}, None, None, False, ""),
        ({}, book, 2, False, ""),
        ({}, None, None, True, ""),
        ({}, None, None, False, "A bell rings."),
    ]
    assert not await player.command(slash + "quit")
