"""What a running server holds: the world, the game being played in it, the engines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.errors import EngineError
from protocol import messages as wire
from protocol import telemetry
from roles.book import BookOnShelf
from roles.engines import Engine, Engines
from roles.errors import AgentError, RestoredError, SaveError
from roles.line import Line, Transcript
from roles.npc import Character
from roles.playthrough import Playthrough
from roles.problems import nearest
from roles.store import Store
from roles.world import DIRECTOR, World

log = logging.getLogger("biblioteca.roles")
Publish = Callable[[str, wire.Body], None]
Notify = Callable[[wire.Notice], None]


@dataclass(slots=True)
class Chatter:
    """Talk going on in a scene; `yields` to the player if it is among characters only."""

    scene: str
    key: str
    yields: bool
    stopped: bool = False

    def owns(self, line: Line) -> bool:
        """Whether a line is part of this talk."""
        return line.key.startswith(f"{self.key}.")


class House:
    """Everything that answering a request may need, in one place.

    Attributes:
        publish: sends a telemetry event (type, body) to whoever watches.
        notify: tells every client.
        epoch: grows with every restore; a line of an older one has no place to be kept.
        deadline_ms: how long a first word may take, instead of what the tiers' tables say.
    """

    def __init__(self, world: World, store: Store, engines: Engines) -> None:
        self.world, self.store, self.engines = world, store, engines
        self.play = Playthrough(world, store)
        self.transcript = Transcript()
        self.publish: Publish = lambda kind, body: None
        self.notify: Notify = lambda notice: None
        self.deadline_ms: float | None = None
        self.epoch = 0
        self._speaking: dict[str, tuple[Line, Engine]] = {}
        self._chatter: list[Chatter] = []
        self._mouths: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def tier(self, agent: str) -> wire.Tier:
        """Which tier an agent belongs to. Raises: AgentError."""
        if agent == DIRECTOR:
            return "director"
        if agent in self.world.npcs:
            return "npc"
        if agent in self.world.books:
            return "book"
        raise AgentError(f"no agent {agent!r} in this world; {nearest(agent, self.world.agents)}")

    def character(self, agent: str) -> Character:
        """A character by id. Raises: AgentError."""
        if self.tier(agent) != "npc":
            raise AgentError(f"{agent!r} is no character; {nearest(agent, self.world.npcs)}")
        return self.play.cast[agent]

    def book(self, agent: str) -> BookOnShelf:
        """A book by id. Raises: AgentError."""
        if self.tier(agent) != "book":
            raise AgentError(f"{agent!r} is no book; {nearest(agent, self.world.books)}")
        return self.play.shelf[agent]

    def engine_of(self, agent: str) -> Engine | None:
        """The engine an agent's lines run on; None for a book in a world without shelf."""
        tier = self.tier(agent)
        if tier == "book" and self.world.books[agent].adapter:
            return self.engines["npc"]
        return self.engines.get(tier)

    @property
    def folder(self) -> Path:
        """Where the running game is kept. Raises: SaveError if in memory only."""
        if self.store.path is None:
            raise SaveError("this game is kept in memory only; serve it with a state folder")
        return self.store.path.parent

    @property
    def blends(self) -> dict[str, dict[str, float]]:
        """Adapters mixed in this game, by name: the share of each part."""
        found: dict[str, dict[str, float]] = self.store.get("blends", {})
        return found

    def patience_ms(self, engine: Engine) -> float:
        """How long the first word of a line on this engine may take, in milliseconds."""
        return engine.table.deadline_ms if self.deadline_ms is None else self.deadline_ms

    async def reopen(self) -> None:
        """Go on from what the store now holds; lines being spoken are stopped and forgotten."""
        self.epoch += 1
        await self._stop(lambda line: True)
        self.play = Playthrough(self.world, self.store)
        self.transcript.forget_after(self.store.get("lines", 0))

    def check(self, line: Line) -> None:
        """Raises: RestoredError if the game was restored since the line began."""
        if line.epoch != self.epoch:
            raise RestoredError("the game was restored while the line was being spoken")

    async def silence(self, agents: Collection[str]) -> None:
        """Stop what these characters are saying; what was spoken stands."""
        await self._stop(lambda line: line.agent in agents)

    async def cut(self, line: Line) -> None:
        """Stop one line where it is; what was spoken stands."""
        await self._stop(lambda one: one is line)

    async def _stop(self, wanted: Callable[[Line], bool]) -> None:
        for line, engine in list(self._speaking.values()):
            if wanted(line):
                with contextlib.suppress(EngineError):  # it fell: then nobody speaks there
                    await engine.backend.cancel(line.key)

    @property
    def lines_being_spoken(self) -> list[Line]:
        """Lines that are on an engine now."""
        return [line for line, _ in self._speaking.values()]

    @contextlib.contextmanager
    def speaking(self, line: Line, engine: Engine) -> Iterator[None]:
        """While a line is on an engine, a restore can stop it."""
        self._speaking[line.key] = line, engine
        try:
            yield
        finally:
            self._speaking.pop(line.key, None)

    @contextlib.contextmanager
    def chattering(self, scene: str, key: str, *, chatter: bool) -> Iterator[Chatter]:
        """While characters talk in a scene; chatter among themselves can be stopped."""
        talk = Chatter(scene=scene, key=key, yields=chatter)
        self._chatter.append(talk)
        try:
            yield talk
        finally:
            self._chatter.remove(talk)

    async def quieten(self, scene: str) -> None:
        """Stop chatter in a scene: the player speaks. What was spoken stands."""
        for talk in [x for x in self._chatter if x.scene == scene and x.yields]:
            talk.stopped = True
            await self._stop(talk.owns)

    @contextlib.asynccontextmanager
    async def mouth(self, conversation: str) -> AsyncIterator[None]:
        """A conversation's turn to speak: one line at a time in each."""
        async with self._mouths[conversation]:
            yield

    def began(self, line: Line) -> wire.Accepted:
        """Tell the watchers, and the client, that a line will be spoken."""
        self.transcript.running[line.agent] += 1
        started = telemetry.LineStarted(
            line=line.id,
            agent=line.agent,
            tier=line.tier,
            speaker=line.speaker,
            text=line.said,
            scene=line.scene,
        )
        self.publish("line_started", started)
        return wire.Accepted(line=line.id, agent=line.agent, tier=line.tier, adapter=line.adapter)

    def spoke(self, line: Line, text: str) -> wire.Delta:
        """A piece of a line goes out; the first one with the line's mood."""
        mood = line.emotion if not line.text else ""
        line.heard(text)
        delta = telemetry.LineDelta(line=line.id, agent=line.agent, text=text)
        self.publish("line_delta", delta)
        return wire.Delta(text=text, emotion=mood or None)

    def ended(self, line: Line, *, whole: bool) -> None:
        """Tell the watchers that a line is over, and keep it."""
        self.transcript.running[line.agent] -= 1
        if line.cause:
            log.info("line %s of %s: %s", line.id, line.agent, line.cause)
        if line.epoch == self.epoch:
            self.transcript.add(line)
        if whole:
            info = line.info().model_dump()
            self.publish("line_ended", telemetry.LineEnded.model_validate(info))
        else:
            failed = telemetry.LineFailed(
                line=line.id, agent=line.agent, code="cancelled", message=line.cause
            )
            self.publish("line_failed", failed)
