"""A tier on a Ray cluster: replicas behind one Backend, requests routed to the right one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TypeVar, cast

from cluster.link import Loaded, Placement, ReplicaLink, connect, draining_nodes
from cluster.routing import Route, choose
from engine.backend import ENGINE, State, lost
from engine.config import EngineConfig
from engine.errors import AdapterError, BackendError, EngineError
from engine.requests import (
    AdapterInfo,
    Delta,
    EngineStats,
    Event,
    Finished,
    GenerationRequest,
    Started,
)

log = logging.getLogger("biblioteca.cluster")
_TEND_S = 1.0
_BUSY_SHARE = 0.8  # of all rows in use: time for another replica
_Answer = TypeVar("_Answer")
_IDLE_TENDINGS = 30  # seconds in a row that one replica less would do


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolConfig:
    """How many replicas, and where.

    Attributes:
        address: of the cluster's head, or "auto" for the one of this machine.
        least, most: replicas; between them their number follows the load.
    """

    address: str = "auto"
    least: int = 1
    most: int = 1
    placement: Placement = field(default_factory=Placement)


class RayBackend:
    """A Backend (engine/backend.py) over several replicas.

    A request whose replica dies before a word was said is sent to another one, once.

    Args:
        route: picks the seat of a request; benchmarks pass another one to compare with.
    """

    def __init__(
        self,
        config: EngineConfig,
        pool: PoolConfig,
        factory: str = ENGINE,
        route: Route = choose,
    ) -> None:
        self._config, self._pool, self._factory, self._route = config, pool, factory, route
        self._links: list[ReplicaLink] = []
        self._gone = 0  # restarts of links that are no more
        self._loaded: dict[str, Loaded] = {}
        self._where: dict[str, ReplicaLink | None] = {}  # None: between two replicas
        self._cancelled: set[str] = set()  # while they were between two
        self._changed = asyncio.Event()
        self._failure = ""
        self._closed = False
        self._refused = False  # since the last tending
        self._idle = 0
        self._working: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> State:
        """Ready as soon, and as long, as one replica is."""
        states = {link.state for link in self._links}
        if self._closed:
            return "closed"
        if "ready" in states:
            return "ready"
        if self._failure or states == {"failed"}:
            return "failed"
        return "restarting" if self.restarts else "starting"

    @property
    def restarts(self) -> int:
        """Replicas lost after they had been ready."""
        return self._gone + sum(link.restarts for link in self._links)

    @property
    def replicas(self) -> list[ReplicaLink]:
        """Every replica, whatever its state."""
        return list(self._links)

    async def start(self) -> None:
        """Begin joining the cluster."""
        self._keeper = asyncio.create_task(self._keep())

    async def wait_ready(self) -> None:
        """Return once a replica is ready. Raises: EngineError if none can be."""
        while (state := self.state) in ("starting", "restarting"):
            self._changed.clear()
            await self._changed.wait()
        if state != "ready":
            raise self._why()

    async def submit(self, request: GenerationRequest) -> AsyncIterator[Event]:
        """Run a request (see Backend.submit); where every replica is full it ends as "busy"."""
        name = request.request_id
        if name in self._where:
            yield lost(name, f"a request named {name!r} is already running")
            return
        self._where[name] = None
        try:
            async with aclosing(self._try_twice(request)) as events:
                async for event in events:
                    yield event
        finally:
            del self._where[name]
            self._cancelled.discard(name)

    async def cancel(self, request_id: str) -> bool:
        """Stop a request within one step; False if it is not live."""
        if request_id not in self._where:
            return False
        link = self._where[request_id]
        if link is None or link.state != "ready":
            self._cancelled.add(request_id)
            return True
        return await link.cancel(request_id)

    async def load_adapter(self, name: str, path: Path, *, pinned: bool = False) -> AdapterInfo:
        """Load it on one replica now, on others when they first need it."""
        ready = [link for link in self._links if link.state == "ready"]
        if not ready:
            raise self._why()
        version = self._loaded[name].version + 1 if name in self._loaded else 1
        loaded = Loaded(path, pinned, version)
        asked = GenerationRequest(request_id="", prompt="", adapter=name)
        link = self._choose(ready, asked) or ready[0]
        info = await link.hold(name, loaded)
        assert info is not None  # this version is new everywhere
        self._loaded[name] = loaded
        return self._shown(info)

    async def unload_adapter(self, name: str) -> None:
        """Forget it everywhere. Raises: AdapterError for an unknown name."""
        if self._loaded.pop(name, None) is None:
            raise AdapterError(f"no adapter named {name!r} is loaded")
        await asyncio.gather(*(link.drop(name) for link in self._links))

    async def adapters(self) -> list[AdapterInfo]:
        """Every adapter known, its rows counted over all replicas."""
        known: dict[str, AdapterInfo] = {}
        for infos in await self._from_all(lambda link: link.adapters()):
            for info in infos:
                if info.name in self._loaded:
                    known[info.name] = _joined(known.get(info.name), self._shown(info))
        return list(known.values())

    async def stats(self) -> EngineStats:
        """Counters and gauges, added up."""
        found = await self._from_all(lambda link: link.stats())
        if not found:
            raise BackendError(f"the engine is {self.state}")
        names = [one.name for one in fields(EngineStats)]
        total = {name: sum(getattr(one, name) for one in found) for name in names}
        total["last_step_age_s"] = min(one.last_step_age_s for one in found)
        return EngineStats(**total)

    async def tend(self) -> None:
        """One look at load and nodes; it happens every second by itself."""
        staying = [link for link in self._links if not link.leaving]
        draining = await asyncio.to_thread(draining_nodes)
        for link in staying:
            if link.node in draining:
                log.warning("%s leaves its node, which is drained", link.seat.name)
                self._beside(self._substitute(link))
        wanted = self._wanted(len(staying), sum(link.seat.live for link in staying))
        if wanted > len(staying):
            await self._add()
        elif wanted < len(staying):
            self._beside(self._retire(min(staying, key=lambda link: link.seat.live)))
        self._refused = False

    async def replace_all(self) -> None:
        """Drain and replace every replica, one after another: a change of version without a gap."""
        for link in list(self._links):
            if not link.leaving:
                await self._substitute(link)

    async def close(self) -> None:
        """Kill every replica; the cluster stays."""
        if self._closed:
            return
        self._closed = True
        self._changed.set()
        self._keeper.cancel()
        for task in self._working:
            task.cancel()
        await asyncio.gather(self._keeper, *self._working, return_exceptions=True)
        await asyncio.gather(*(link.close() for link in self._links))

    # Requests

    async def _try_twice(self, request: GenerationRequest) -> AsyncGenerator[Event, None]:
        """Run it; once more if its replica dies before a word was said."""
        clock = asyncio.get_running_loop().time
        began_s, started, said = clock(), False, False
        for last in (False, True):
            link = self._choose(self._links, request)
            if link is None:
                yield self._no_room(request)
                return
            restarts = link.restarts
            async with aclosing(self._speak(link, request)) as events:
                async for event in events:
                    died = isinstance(event, Finished) and link.restarts > restarts
                    if died and not said and not last and await self._another(request, began_s):
                        break
                    if isinstance(event, Started) and started:
                        continue  # of the first try; it was shown the same
                    started = started or isinstance(event, Started)
                    said = said or (isinstance(event, Delta) and bool(event.text))
                    yield event
                else:
                    return
            request = self._again(request, clock() - began_s)

    async def _speak(
        self, link: ReplicaLink, request: GenerationRequest
    ) -> AsyncGenerator[Event, None]:
        """Run a request on one replica, its adapter brought there first."""
        self._where[request.request_id] = link
        link.seat.live += 1
        link.seat.took(request)
        try:
            if request.adapter is not None and request.adapter in self._loaded:
                await link.hold(request.adapter, self._loaded[request.adapter])
            async with aclosing(
                cast("AsyncGenerator[Event, None]", link.submit(request))
            ) as events:
                async for event in events:
                    yield event
        except EngineError as error:
            yield lost(request.request_id, str(error))
        finally:
            link.seat.live -= 1
            self._where[request.request_id] = None
            self._changed.set()  # somebody may wait for a drained replica

    def _choose(
        self, links: Sequence[ReplicaLink], request: GenerationRequest
    ) -> ReplicaLink | None:
        """The replica for a request, or None if every open one is full."""
        seat = self._route([link.seat for link in links], request)
        return next((link for link in links if link.seat is seat), None)

    async def _another(self, request: GenerationRequest, began_s: float) -> bool:
        """Wait for a ready replica as long as the request may; False if there will be none."""
        limit_s = None if request.deadline_ms is None else began_s + request.deadline_ms / 1000
        try:
            async with asyncio.timeout_at(limit_s):
                await self.wait_ready()
        except (TimeoutError, EngineError):
            return False
        return request.request_id not in self._cancelled

    def _again(self, request: GenerationRequest, spent_s: float) -> GenerationRequest:
        log.warning("%s is sent to another replica: no word was said", request.request_id)
        if request.deadline_ms is None:
            return request
        return replace(request, deadline_ms=max(request.deadline_ms - spent_s * 1000, 0.001))

    def _no_room(self, request: GenerationRequest) -> Finished:
        if self.state != "ready":
            return lost(request.request_id, str(self._why()))
        self._refused = True
        live = sum(link.seat.live for link in self._links)
        num = sum(link.seat.open for link in self._links)
        why = f"every replica is full: {live} requests on {num}"
        return replace(lost(request.request_id, why), reason="busy")

    def _why(self) -> BackendError:
        failures = [str(link.failure) for link in self._links if link.failure]
        return BackendError(self._failure or "; ".join(failures) or f"the engine is {self.state}")

    def _shown(self, info: AdapterInfo) -> AdapterInfo:
        """An adapter of a replica as it is known here."""
        loaded = self._loaded[info.name]
        return replace(info, path=str(loaded.path), version=loaded.version)

    # Replicas

    async def _keep(self) -> None:
        """Join, start the least number of replicas, then follow load and nodes."""
        try:
            await asyncio.to_thread(connect, self._pool.address)
        except BackendError as error:
            self._failure = str(error)
            self._changed.set()
            return
        for _ in range(self._pool.least):
            await self._add()
        while True:
            await asyncio.sleep(_TEND_S)
            await self.tend()

    async def _from_all(self, ask: Callable[[ReplicaLink], Awaitable[_Answer]]) -> list[_Answer]:
        """What every ready replica answers; one that falls meanwhile has no part in it."""
        ready = [link for link in self._links if link.state == "ready"]
        answers = await asyncio.gather(*map(ask, ready), return_exceptions=True)
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def _add(self) -> ReplicaLink:
        link = ReplicaLink(self._config, self._factory, self._pool.placement, self._changed.set)
        self._links.append(link)
        await link.start()
        return link

    def _beside(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)

    async def _substitute(self, link: ReplicaLink) -> None:
        """Start another replica, then drain this one; it stays if no other can be had."""
        link.leaving = True
        other = await self._add()
        try:
            await other.wait_ready()
        except EngineError as error:
            log.error("%s stays: another one did not start: %s", link.seat.name, error)
            link.leaving = False
            link = other
        await self._retire(link)

    async def _retire(self, link: ReplicaLink) -> None:
        """Let what runs there end, then close it."""
        link.leave()
        while link.seat.live and link.state == "ready":
            self._changed.clear()
            await self._changed.wait()
        await link.close()
        self._gone += link.restarts
        self._links.remove(link)

    def _wanted(self, num: int, live: int) -> int:
        """How many replicas there should be by the load of this moment."""
        rows = self._config.max_rows
        if (self._refused or live > _BUSY_SHARE * rows * num) and num < self._pool.most:
            self._idle = 0
            return num + 1
        idle = num > self._pool.least and live < _BUSY_SHARE * rows * (num - 1) / 2
        self._idle = self._idle + 1 if idle else 0
        if self._idle < _IDLE_TENDINGS:
            return max(num, self._pool.least)
        self._idle = 0
        return num - 1


def _joined(one: AdapterInfo | None, other: AdapterInfo) -> AdapterInfo:
    """The same adapter on two replicas."""
    if one is None:
        return other
    return replace(
        other,
        resident=one.resident or other.resident,
        num_running=one.num_running + other.num_running,
    )
