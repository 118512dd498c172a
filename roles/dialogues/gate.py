"""The gate: an adapter takes a character's place only if the character's scripts still hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from roles.dialogues.checking import FOLDER, scripts_of
from roles.dialogues.goldens import without_goldens
from roles.dialogues.hosting import hosted, with_adapter
from roles.dialogues.report import failures, where
from roles.dialogues.runner import Outcome, check
from roles.world import DIRECTOR, World

GateCheck = Callable[[str, Path], list[str]]


def scripts_gate(world: World) -> GateCheck:
    """A check for `promote`: (agent, candidate's folder) to the reasons against it.

    It plays every script that the agent speaks in, with the candidate as its adapter, but for
    goldens: other words are what another adapter is for.
    """

    def gate(agent: str, candidate: Path) -> list[str]:
        return asyncio.run(reasons_against(world, agent, candidate))

    return gate


async def reasons_against(world: World, agent: str, candidate: Path) -> list[str]:
    """Why an adapter must not take a character's place; [] if nothing speaks against it."""
    if agent not in (DIRECTOR, *world.npcs) or not (world.root / FOLDER).is_dir():
        return []
    sources = [one for one in scripts_of(world) if agent in one.script.agents]
    if not sources:
        return []
    changed = with_adapter(world, agent, candidate)
    async with hosted(changed) as host:
        engine = host.manager.house.engines["director" if agent == DIRECTOR else "npc"]
        if agent in engine.refused:
            return [f"the engine can't hold it: {engine.refused[agent]}"]
        verdict = await check(sources, changed, host.stages(), host.instruments)
    verdict = without_goldens(verdict)
    return [reason for outcome in verdict.outcomes for reason in _reasons(outcome)]


def _reasons(outcome: Outcome) -> list[str]:
    found = [
        (turn, finding) for _, turn, finding in failures(outcome) if finding.severity != "warning"
    ]
    if outcome.passed:
        return []
    turn, finding = found[0]
    place = where(outcome.source, turn, finding)
    return [f"{outcome.source.id} ({outcome.rate}): {place}: {finding.key}: {finding.message}"]
