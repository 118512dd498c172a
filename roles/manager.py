"""The manager: takes every request to whoever answers it. The service behind the server."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Protocol

from protocol import messages as wire
from protocol import telemetry
from protocol.errors import Code, Refusal
from protocol.messages import Body
from protocol.service import Peer, Request
from roles import console, errors, game, library, reload, upkeep
from roles.again import Again
from roles.engines import Engine, Engines, MakeBackend, make_backend
from roles.house import House, Notify, Publish
from roles.question import Question
from roles.scene import Scene
from roles.store import Store
from roles.talk import Talk
from roles.tick import Tick
from roles.world import World

log = logging.getLogger("biblioteca.roles")
_CODES: dict[type[errors.RolesError], Code] = {
    errors.AgentError: Code.UNKNOWN_AGENT,
    errors.LineError: Code.BAD_REQUEST,
    errors.LineNotFoundError: Code.NOT_FOUND,
    errors.MemoryNotFoundError: Code.NOT_FOUND,
    errors.SaveNotFoundError: Code.NOT_FOUND,
    errors.HushedError: Code.CONFLICT,
    errors.WorldError: Code.BAD_REQUEST,
    errors.AdapterRefusedError: Code.CONFLICT,
    errors.RestoredError: Code.CANCELLED,
    errors.BusyError: Code.BUSY,
}
_BUSY_RETRY_MS = 500  # about a line's length at talking pace: then a row is free again


class Spoken(Protocol):
    """A line about to be spoken."""

    def run(self, client_deadline_s: float | None) -> AsyncGenerator[Body, None]:
        """Accepted, Delta*, then the reply."""


LINES: dict[str, Callable[[House, str, Any], Spoken]] = {
    "say": Talk,
    "ask": Question,
    "tick": Tick,
    "converse": Scene,
    "again": Again,
}
ANSWERS: dict[str, Callable[[House, Any], Awaitable[Body]]] = {
    **game.ANSWERS,
    **upkeep.ANSWERS,
    "adapters": library.adapters,
    "reload": reload.reload,
}


async def answer(house: House, request: Request) -> AsyncGenerator[Body, None]:
    """Answer one request in a house: the running game's, or a rehearsal's.

    Raises:
        Refusal: it cannot be answered as asked.
    """
    try:
        if request.type in LINES:
            spoken = LINES[request.type](house, request.key, request.body)
            async with aclosing(spoken.run(request.deadline_s)) as bodies:
                async for body in bodies:
                    yield body
        elif request.type in ANSWERS:
            yield await ANSWERS[request.type](house, request.body)
        else:
            raise Refusal(Code.UNSUPPORTED, f"this server does not offer {request.type!r}")
    except errors.RolesError as error:
        code = _CODES.get(type(error), Code.FAILED)
        field = "agent" if code == Code.UNKNOWN_AGENT else None
        retry_ms = _BUSY_RETRY_MS if code == Code.BUSY else None
        raise Refusal(code, str(error), field=field, retry_ms=retry_ms) from error
    except sqlite3.Error as error:
        log.error("the game's state can't be written: %s", error)
        raise Refusal(Code.FAILED, f"the game's state can't be written: {error}") from error


class Manager:
    """Hosts a world: starts its engines and answers its requests."""

    def __init__(
        self, world: World, store: Store | None = None, make: MakeBackend = make_backend
    ) -> None:
        engines = Engines(world, self._engine_changed, make)
        self.house = House(world, store or Store(), engines)

    async def start(self, publish: Publish | None = None, notify: Notify | None = None) -> None:
        """Begin loading the engines; requests are answered from now on.

        Args:
            publish: takes telemetry events; none are sent without it.
            notify: takes what every client should know.
        """
        self.tell(publish or self.house.publish, notify or self.house.notify)
        await self.house.engines.start()

    def tell(self, publish: Publish, notify: Notify) -> None:
        """From now on, these take events and notices (see `start`)."""
        self.house.publish, self.house.notify = publish, notify

    async def wait_ready(self) -> None:
        """Return when every engine has loaded, or failed to."""
        await self.house.engines.wait_ready()

    async def close(self) -> None:
        """Stop the engines, close the game; what was written stays."""
        await self.house.engines.close()
        self.house.store.close()

    async def handle(self, peer: Peer, request: Request) -> AsyncIterator[Body]:
        """Answer one request (see protocol.service.Service)."""
        async with aclosing(answer(self.house, request)) as bodies:
            async for body in bodies:
                yield body

    def _engine_changed(self, engine: Engine) -> None:
        """Tell the watchers about every agent of an engine, and all clients of its fall."""
        fallen = engine.state in ("restarting", "failed")
        if fallen or (engine.state == "ready" and engine.restarts):
            message = f"the {engine.tier} engine is {engine.state}"
            notice = wire.Notice(kind="engine", message=message, tier=engine.tier)
            self.house.notify(notice)
        for agent in self.house.world.agents:
            if self.house.engine_of(agent) is engine:
                info = console.agent_info(self.house, agent).model_dump()
                self.house.publish("agent_changed", telemetry.AgentChanged.model_validate(info))
