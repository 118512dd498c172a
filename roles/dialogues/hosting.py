"""Hosts a world for rehearsals: engines loaded once, any number of games on them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from roles.dialogues.errors import DialogueError
from roles.dialogues.expectations import Instruments
from roles.dialogues.instruments import read_instruments
from roles.dialogues.rehearsal import Rehearsals
from roles.dialogues.stage import OpenStage, in_process
from roles.engines import TIERS
from roles.errors import WorldError
from roles.manager import Manager
from roles.store import Store
from roles.world import DIRECTOR, World


@dataclass(frozen=True, kw_only=True)
class Hosted:
    """A world whose engines are ready."""

    world: World
    manager: Manager
    instruments: Instruments
    rehearsals: list[Rehearsals] = field(default_factory=list)

    def stages(self, world: World | None = None) -> OpenStage:
        """Stages on these engines, in this world or another reading of its files."""
        self.rehearsals.append(Rehearsals(self.manager.house, self.manager, world))
        return in_process(self.rehearsals[-1])


@asynccontextmanager
async def hosted(world: World, *, own_process: Collection[str] = ()) -> AsyncIterator[Hosted]:
    """Load a world's models and wait until they are ready.

    Args:
        own_process: tiers whose engine runs in a process of its own; the others' run in this one.

    Raises:
        WorldError: a base is missing.
        DialogueError: an engine could not start.
    """
    if missing := [one for one in world.model_problems() if one.key.endswith(".base")]:
        raise WorldError(missing)
    manager = Manager(with_backends(world, own_process), Store())
    await manager.start()
    try:
        await manager.wait_ready()
        for engine in manager.house.engines:
            if engine.error:
                raise DialogueError(f"the {engine.tier} engine could not start: {engine.error}")
        host = Hosted(world=world, manager=manager, instruments=read_instruments(world))
        try:
            yield host
        finally:
            for rehearsals in host.rehearsals:
                rehearsals.close()
    finally:
        await manager.close()


def with_backends(world: World, own_process: Collection[str] = ()) -> World:
    """The same world with its engines in this process, but for those tiers that have their own."""
    tiers = world.spec.tiers
    changed: dict[str, Any] = {
        name: tier.model_copy(update={"backend": "subprocess" if name in own_process else "inline"})
        for name in TIERS
        if (tier := getattr(tiers, name)) is not None
    }
    spec = world.spec.model_copy(update={"tiers": tiers.model_copy(update=changed)})
    return replace(world, spec=spec)


def with_adapter(world: World, npc: str, folder: Path) -> World:
    """The same world with another adapter for a character, or for the director."""
    if npc == DIRECTOR:
        tiers = world.spec.tiers
        table = tiers.director.model_copy(update={"adapter": str(folder.resolve())})
        tiers = tiers.model_copy(update={"director": table})
        return replace(world, spec=world.spec.model_copy(update={"tiers": tiers}))
    spec = world.npcs[npc].model_copy(update={"adapter": str(folder.resolve())})
    return replace(world, npcs={**world.npcs, npc: spec})


def with_base(world: World, tier: Literal["director", "npc"], folder: str) -> World:
    """The same world on another base for a tier."""
    tiers = world.spec.tiers
    table = getattr(tiers, tier).model_copy(update={"base": folder})
    spec = world.spec.model_copy(update={"tiers": tiers.model_copy(update={tier: table})})
    return replace(world, spec=spec)
