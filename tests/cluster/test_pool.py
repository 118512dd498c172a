"""What the pool does with its replicas, on replicas in this process; tests/cluster/test_ray.py
has real ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from cluster import pool as pools
from cluster.link import Loaded, Placement
from cluster.pool import PoolConfig, RayBackend
from cluster.routing import Seat
from engine.backend import InlineBackend, State
from engine.config import EngineConfig
from engine.requests import (
    AdapterInfo,
    Delta,
    Event,
    Finished,
    GenerationRequest,
    SamplingParams,
    Started,
)
from engine.service import Command

NUMBERS = count(1)
LONG = 100_000


class Replica(InlineBackend):
    """A link whose actor is a thread here; `die` takes it away and starts another one."""

    def __init__(
        self, config: EngineConfig, factory: str, placement: Placement, changed: Callable[[], None]
    ) -> None:
        super().__init__(config, factory)
        limit = config.max_rows + placement.waiting
        self.seat = Seat(name=f"r{next(NUMBERS)}", slots=config.adapter_slots, limit=limit)
        self.node, self.leaving, self._tell = self.seat.name, False, changed
        self.held: dict[str, Loaded] = {}

    @property
    def failure(self) -> Exception | None:
        return self._failure

    def leave(self) -> None:
        self.leaving, self.seat.open = True, False

    async def hold(self, name: str, loaded: Loaded) -> AdapterInfo | None:
        if self.held.get(name) is loaded:
            return None
        self.held[name] = loaded
        return AdapterInfo(
            name=name,
            digest="d",
            path="/there",
            resident=True,
            pinned=loaded.pinned,
            rank=1,
            size_bytes=1,
        )

    async def drop(self, name: str) -> None:
        self.held.pop(name, None)

    async def die(self) -> None:
        self.restarts += 1
        self._fall("restarting", "its node is gone")
        self._service.put(Command(0, "close"))
        await self.start()

    def _enter(self, state: State) -> None:
        super()._enter(state)
        self.seat.open = state == "ready" and not self.leaving
        self._tell()


@pytest.fixture
async def make(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[Callable[..., Any]]:
    monkeypatch.setattr(pools, "ReplicaLink", Replica)
    monkeypatch.setattr(pools, "connect", lambda address: None)
    monkeypatch.setattr(pools, "draining_nodes", frozenset)
    monkeypatch.setattr(pools, "_TEND_S", 3600.0)  # tests look themselves
    made: list[RayBackend] = []

    async def ready(least: int = 2, most: int = 2, **settings: Any) -> RayBackend:
        placement = Placement(waiting=settings.pop("waiting", 16))
        config = EngineConfig(base=str(tmp_path), **settings)
        pool = PoolConfig(least=least, most=most, placement=placement)
        backend = RayBackend(config, pool, "tests.engine.toy:build_toy")
        made.append(backend)
        await backend.start()
        await backend.wait_ready()
        await asyncio.gather(*(link.wait_ready() for link in backend.replicas))
        return backend

    yield ready
    for backend in made:
        await backend.close()


def asked(name: str, max_tokens: int = 3, **settings: Any) -> GenerationRequest:
    sampling = SamplingParams(max_tokens=max_tokens)
    return GenerationRequest(request_id=name, prompt=name, sampling=sampling, **settings)


async def collect(backend: RayBackend, request: GenerationRequest) -> list[Event]:
    return [event async for event in backend.submit(request)]


def end(events: list[Event]) -> Finished:
    (last,) = [event for event in events if isinstance(event, Finished)]
    assert events[-1] is last
    return last


async def speaker(backend: RayBackend) -> Any:
    """The replica that has a line on it, as soon as one has."""
    while True:
        for link in backend.replicas:
            if link.seat.live:
                return link
        await asyncio.sleep(0)


async def test_a_line_that_said_nothing_is_spoken_by_another_replica(make: Any) -> None:
    backend = await make()
    line = asyncio.create_task(collect(backend, asked("a")))
    link = await speaker(backend)
    await link.die()
    events = await line
    assert end(events).reason == "length"
    assert sum(isinstance(event, Started) for event in events) == 1
    assert "".join(e.text for e in events if isinstance(e, Delta)) == "3 2 1 "
    assert backend.restarts == 1
    assert [link.seat.live for link in backend.replicas] == [0, 0]


async def test_a_line_that_had_begun_ends_with_a_reason(make: Any) -> None:
    backend = await make()
    stream = backend.submit(asked("a", LONG))
    events = [await anext(stream)]
    while not isinstance(events[-1], Delta):
        events.append(await anext(stream))
    await (await speaker(backend)).die()
    events += [event async for event in stream]
    assert end(events).reason == "error"
    assert "its node is gone" in (end(events).error or "")
    assert backend.state == "ready"


async def test_a_line_is_tried_twice_at_most(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    backend = await make(least=1, most=1)
    line = asyncio.create_task(collect(backend, asked("a")))
    await (await speaker(backend)).die()
    while "is sent to another replica" not in caplog.text:
        await asyncio.sleep(0)
    await (await speaker(backend)).die()
    assert end(await line).reason == "error"
    assert backend.restarts == 2


async def test_a_line_cancelled_between_two_replicas_is_not_spoken(make: Any) -> None:
    backend = await make(least=1, most=1)
    line = asyncio.create_task(collect(backend, asked("a", LONG)))
    await (await speaker(backend)).die()
    assert await backend.cancel("a")
    assert end(await line).reason in ("error", "cancelled")
    assert not await backend.cancel("a")


async def test_replicas_follow_the_load(make: Any) -> None:
    backend = await make(least=1, most=2, max_rows=1, waiting=0)
    stream = backend.submit(asked("a", LONG))
    await anext(stream)
    refused = end(await collect(backend, asked("b")))
    assert refused.reason == "busy"
    await backend.tend()
    assert len(backend.replicas) == 2
    await backend.replicas[1].wait_ready()
    assert end(await collect(backend, asked("c"))).reason == "length"
    await stream.aclose()
    for _ in range(pools._IDLE_TENDINGS):
        assert len(backend.replicas) == 2
        await backend.tend()
    while len(backend.replicas) > 1:
        await asyncio.sleep(0)
    await backend.tend()
    assert len(backend.replicas) == 1


async def test_a_drained_node_ends_its_lines_and_gets_no_more(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = await make()
    stream = backend.submit(asked("a", 400))
    await anext(stream)
    old = await speaker(backend)
    monkeypatch.setattr(pools, "draining_nodes", lambda: frozenset({old.node}))
    await backend.tend()
    while old.seat.open:
        await asyncio.sleep(0)
    assert len(backend.replicas) == 3
    assert end([event async for event in stream]).reason == "length"
    while old in backend.replicas:
        await asyncio.sleep(0)
    assert len(backend.replicas) == 2
    assert backend.restarts == 0


async def test_adapters_reach_a_replica_when_it_first_needs_them(make: Any) -> None:
    backend = await make(max_rows=4)
    info = await backend.load_adapter("anna", Path("/here"))
    assert (info.path, info.version) == ("/here", 1)
    assert sum("anna" in link.held for link in backend.replicas) == 1
    lines = [asked(f"n{n}", 50, adapter="anna") for n in range(12)]
    ends = await asyncio.gather(*(collect(backend, each) for each in lines))
    assert {end(events).reason for events in ends} == {"length"}
    assert all("anna" in link.held for link in backend.replicas)  # one alone was too busy
    assert (await backend.load_adapter("anna", Path("/here"))).version == 2
    await backend.unload_adapter("anna")
    assert not any(link.held for link in backend.replicas)
