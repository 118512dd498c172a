"""Rehearsals: sessions that play in games of their own, beside the running one.

Every script of a check is a rehearsal: it has its own memories, conversations, director and
clock, while all of them share the engines, and so their batches.
"""

from __future__ import annotations

import math
import secrets
import shutil
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from protocol import administration as admin
from protocol import messages as wire
from protocol.errors import Code, Refusal
from protocol.messages import Body
from protocol.service import Peer, Request, Service
from roles.engines import Engines
from roles.house import House
from roles.manager import answer
from roles.problems import nearest
from roles.store import Store
from roles.world import World

MAX_REHEARSALS = 1024  # open at once; the one not used for longest goes
_DAY_MS = 86_400_000.0  # no line of a rehearsal waits that long


class Rehearsals:
    """A service that gives each session that rehearses a house of its own.

    Args:
        house: the running game's; its world and engines are rehearsed with.
        service: answers the sessions that don't rehearse.
        world: another reading of the world for the rehearsals, on the same engines.
    """

    def __init__(self, house: House, service: Service, world: World | None = None) -> None:
        self._house, self._service = house, service
        self._world = world or house.world
        self._open: OrderedDict[str, House] = OrderedDict()
        self._saves = TemporaryDirectory(prefix="biblioteca-rehearsals-")

    async def handle(self, peer: Peer, request: Request) -> AsyncIterator[Body]:
        """Answer one request (see protocol.service.Service)."""
        if isinstance(request.body, admin.RehearseRequest):
            self._drop(peer.session)
            if request.body.op == "open":
                self._begin(peer.session, request.body)
            yield wire.Ok()
            return
        house = self._open.get(peer.session)
        if house is not None:
            self._open.move_to_end(peer.session)
        answers = self._service.handle(peer, request) if house is None else answer(house, request)
        async with aclosing(answers) as bodies:  # type: ignore[type-var]  # an async generator
            async for body in bodies:
                yield body

    def close(self) -> None:
        """End every rehearsal."""
        for session in list(self._open):
            self._drop(session)
        self._saves.cleanup()

    def _begin(self, session: str, wanted: admin.RehearseRequest) -> None:
        spec = self._world.spec.model_copy(update={"seed": wanted.seed})
        house = new_house(replace(self._world, spec=spec), self._house.engines)
        house.store.path = Path(self._saves.name) / secrets.token_hex(8) / "game.sqlite"
        if wanted.deadline_ms is not None:
            house.deadline_ms = wanted.deadline_ms
        try:
            _set_stage(house, wanted)
        except Refusal:
            _end(house)
            raise
        self._open[session] = house
        if len(self._open) > MAX_REHEARSALS:
            self._drop(next(iter(self._open)))

    def _drop(self, session: str) -> None:
        if (house := self._open.pop(session, None)) is not None:
            _end(house)


def new_house(world: World, engines: Engines) -> House:
    """A game of its own on running engines, in which no line falls back for time."""
    house = House(world, Store(), engines)
    house.deadline_ms = _DAY_MS
    return house


def _end(house: House) -> None:
    house.store.close()
    if house.store.path is not None:
        shutil.rmtree(house.store.path.parent, ignore_errors=True)  # there may be no saves


def _set_stage(house: House, wanted: admin.RehearseRequest) -> None:
    """Bring a fresh game to where the rehearsal begins."""
    stage, world = house.play.director.stage, house.world
    for event in wanted.happened:
        if event not in world.spec.events:
            remedy = nearest(event, world.spec.events)
            raise _refused("happened", f"the world has no event {event!r}; {remedy}")
    if not math.isfinite(wanted.now) or wanted.now < 0:
        raise _refused("now", f"{wanted.now} is no game time; use seconds from 0")
    stage.now, stage.happened = wanted.now, list(wanted.happened)
    for name, value in wanted.state.items():
        stage.threads[name] = f"{name.replace('_', ' ')}: {value}"
    house.play.director.keep()
    for planted in wanted.memories:
        if planted.agent not in world.npcs:
            remedy = nearest(planted.agent, world.npcs)
            raise _refused("memories", f"{planted.agent!r} is no character; {remedy}")
        memory = house.play.memories.add(
            planted.agent,
            planted.text,
            kind="told",
            now=planted.now,
            importance=planted.importance,
            participants=planted.participants,
        )
        if planted.pinned:
            house.play.memories.pin(planted.agent, memory.id, on=True)


def _refused(field: str, message: str) -> Refusal:
    return Refusal(Code.BAD_REQUEST, message, field=field)
