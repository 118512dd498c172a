"""The engines of a world: one per tier, started side by side, watched, and told apart."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from books.card import tokenizer_folder
from books.errors import StudentError
from engine.backend import ENGINE, Backend, InlineBackend, State, SubprocessBackend
from engine.config import EngineConfig
from engine.errors import EngineError
from engine.requests import AdapterInfo, EngineStats
from protocol.messages import AdapterUse, Tier
from roles.breaker import Breaker
from roles.budget import TokenCounter
from roles.meaning import EncoderProcess
from roles.schema import Tier as TierTable
from roles.world import DIRECTOR, World

SHELF = "books.shelf:build_shelf"
TIERS: tuple[Tier, ...] = ("director", "npc", "book")
_WATCH_S = 0.5  # how often a change of state is looked for
_STATS_S = 2.0  # an engine that takes longer to tell its figures has none


@dataclass(kw_only=True)
class Engine:
    """One tier's engine and what it holds.

    Attributes:
        adapters: adapters (for books: students) it serves, by name.
        refused: names it could not take, and why.
        prepared: set once it has loaded, with its first adapters, or failed to.
        heard_s: when it last told anybody anything, on the event loop's clock.
    """

    tier: Tier
    table: TierTable
    backend: Backend
    counter: TokenCounter
    breaker: Breaker = field(default_factory=Breaker)
    adapters: dict[str, AdapterInfo] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    prepared: asyncio.Event = field(default_factory=asyncio.Event)
    heard_s: float = 0.0
    error: str = ""

    @property
    def state(self) -> State:
        """Where it stands now."""
        return self.backend.state

    @property
    def restarts(self) -> int:
        """How often it was lost after it had been ready; of replicas, all together."""
        return self.backend.restarts

    async def serve(self, name: str, path: Path, *, pinned: bool = False) -> AdapterUse:
        """Load an adapter (or student) under a name, replacing an older version.

        Raises:
            AdapterError: it doesn't fit; what was served before still is.
        """
        try:
            self.adapters[name] = await self.backend.load_adapter(name, path, pinned=pinned)
        except EngineError as error:
            self.refused[name] = str(error)
            raise
        self.refused.pop(name, None)
        return self.use(name)

    def use(self, name: str) -> AdapterUse:
        """An adapter as the wire names it."""
        info = self.adapters[name]
        return AdapterUse(name=info.name, digest=info.digest, version=info.version)

    async def stats(self) -> EngineStats | None:
        """Its counters, or None while it has none."""
        if self.state != "ready":
            return None
        try:
            async with asyncio.timeout(_STATS_S):
                return await self.backend.stats()
        except (EngineError, TimeoutError):
            return None  # it fell between the question and the answer, or hangs


MakeBackend = Callable[[Tier, TierTable, EngineConfig, str], Backend]


def make_backend(tier: Tier, table: TierTable, config: EngineConfig, factory: str) -> Backend:
    """The backend that a tier's table asks for."""
    if (server := table.server) is not None:
        from cluster.openai import OpenAIBackend, ServerConfig

        key = os.environ.get(server.key_env, "") if server.key_env else ""
        told = server.model_dump(exclude={"key_env"})
        return OpenAIBackend(ServerConfig(base=config.base, key=key, **told))
    if table.backend == "ray":
        return _ray_backend(table, config, factory)
    kind = InlineBackend if table.backend == "inline" else SubprocessBackend
    return kind(config, factory)


def _ray_backend(table: TierTable, config: EngineConfig, factory: str) -> Backend:
    from cluster.link import Placement
    from cluster.pool import PoolConfig, RayBackend

    asked = table.replicas
    placement = Placement(
        cpus=table.threads if asked.cpus is None else asked.cpus,
        gpus=asked.gpus,
        memory_bytes=asked.memory_mb << 20,
        waiting=asked.waiting,
        store=asked.store,
    )
    pool = PoolConfig(
        address=asked.address, least=asked.least, most=asked.most, placement=placement
    )
    return RayBackend(config, pool, factory)


class Engines:
    """Every engine of a world; they load while the gateway already answers.

    Args:
        changed: called with an engine whose state changed.
        make: builds a backend; tests pass their own.

    Attributes:
        encoder: makes memories comparable by meaning, where the world names one.
    """

    def __init__(
        self,
        world: World,
        changed: Callable[[Engine], None] = lambda engine: None,
        make: MakeBackend = make_backend,
    ) -> None:
        self.world, self._changed = world, changed
        self._engines: dict[Tier, Engine] = {}
        folder = world.encoder
        self.encoder = EncoderProcess(folder) if folder is not None else None
        self._tasks: list[asyncio.Task[None]] = []
        for tier in TIERS:
            table: TierTable | None = getattr(world.spec.tiers, tier)
            if table is not None:
                self._engines[tier] = Engine(
                    tier=tier,
                    table=table,
                    backend=make(tier, table, engine_config(world, table), _factory(tier)),
                    counter=TokenCounter(_tokenizer_folder(world, tier, table)),
                )

    def __iter__(self) -> Iterator[Engine]:
        return iter(self._engines.values())

    def get(self, tier: Tier) -> Engine | None:
        """A tier's engine, or None if the world has no such tier."""
        return self._engines.get(tier)

    def __getitem__(self, tier: Tier) -> Engine:
        return self._engines[tier]

    async def start(self) -> None:
        """Begin loading everything; returns at once."""
        for engine in self:
            await engine.backend.start()
            self._tasks.append(asyncio.create_task(self._prepare(engine)))
        if self.encoder is not None:
            self._tasks.append(asyncio.create_task(self.encoder.keep()))

    async def wait_ready(self) -> None:
        """Return when every engine has loaded or failed."""
        await asyncio.gather(*(engine.prepared.wait() for engine in self))

    async def close(self) -> None:
        """Stop every engine that was started."""
        if not self._tasks:
            return
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(engine.backend.close() for engine in self))
        if self.encoder is not None:
            await self.encoder.close()

    async def _prepare(self, engine: Engine) -> None:
        """Wait for an engine, give it its adapters, then watch it."""
        self._changed(engine)
        try:
            await engine.backend.wait_ready()
            for name, path in adapters_of(self.world, engine.tier):
                with contextlib.suppress(EngineError):  # noted in `refused`, by name
                    await engine.serve(name, path)
        except EngineError as error:
            engine.error = str(error)
        engine.prepared.set()
        self._changed(engine)
        await self._watch(engine)

    async def _watch(self, engine: Engine) -> None:
        seen = engine.state, engine.restarts
        while True:
            await asyncio.sleep(_WATCH_S)
            if (now := (engine.state, engine.restarts)) != seen:
                seen = now
                self._changed(engine)


def engine_config(world: World, table: TierTable) -> EngineConfig:
    """A tier's table as its engine takes it."""
    return EngineConfig(
        base=world.base_path(table.base),
        quantization=table.quantization,
        nf4_rounded=table.nf4_rounded,
        threads=table.threads,
        adapter_slots=table.slots,
        max_rank=table.max_rank,
        context_tokens=table.context,
        cache_bytes=table.memory_mb << 20,
    )


def adapters_of(world: World, tier: Tier) -> Iterator[tuple[str, Path]]:
    """What an engine serves from the start: (name, folder)."""
    if tier == "director" and (adapter := world.spec.tiers.director.adapter):
        yield DIRECTOR, (world.root / adapter).resolve()
    if tier == "npc":
        for npc in world.npcs:
            # A server of its own may hold it under the character's id.
            if (folder := world.npc_adapter(npc)) or world.spec.tiers.npc.server:
                yield npc, folder or world.root / "models" / "adapters" / npc
        for name, book in world.books.items():
            if book.adapter:
                yield name, (world.root / book.adapter).resolve()
    if tier == "book":
        for name in world.books:
            if folder := world.student(name):
                yield name, folder


def _factory(tier: Tier) -> str:
    return SHELF if tier == "book" else ENGINE


def _tokenizer_folder(world: World, tier: Tier, table: TierTable) -> str:
    """Where a tier's tokenizer is: a shelf's is any student's."""
    if tier == "book":
        for name in world.books:
            if folder := world.student(name):
                with contextlib.suppress(StudentError):  # its engine will say what is wrong
                    return str(tokenizer_folder(folder))
        return ""
    return world.base_path(table.base)
