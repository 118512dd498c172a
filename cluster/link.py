"""The gateway's end of one replica: starts the actor, keeps it supplied, starts another one.

This is the only file that talks to Ray, together with `connect`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.parcel import describe
from cluster.replica import Replica
from cluster.routing import Seat
from engine.backend import ServedBackend, State
from engine.config import EngineConfig
from engine.errors import BackendError, EngineError
from engine.requests import AdapterInfo
from engine.service import Command, Report
from engine.wire import Cutter, pack, unpack

log = logging.getLogger("biblioteca.cluster")
NAMESPACE = "biblioteca"
# Ray's switch for systems where it keeps to one machine: 127.0.0.1 then stays what it is, and
# nodes listen there alone. Otherwise Ray puts this machine's outer address in its place.
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_connecting = threading.Lock()
_numbers = itertools.count(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """What a replica takes on a node, and how many requests it takes.

    Attributes:
        cpus, gpus: cores and (fractions of) cards that Ray sets aside.
        memory_bytes: likewise; 0 leaves memory out of account.
        waiting: requests that may wait beside the engine's rows; more are "busy".
        store: folder on each node for models and adapters that travel there.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int = 0
    waiting: int = 16
    store: str = "~/.cache/biblioteca/cluster"

    def options(self) -> dict[str, Any]:
        """As Ray takes them. Replicas spread over nodes; deaths are ours to deal with."""
        asked: dict[str, Any] = {"num_cpus": self.cpus, "num_gpus": self.gpus}
        if self.memory_bytes:
            asked["memory"] = self.memory_bytes
        return {**asked, "scheduling_strategy": "SPREAD", "max_restarts": 0}


@dataclass(frozen=True, eq=False, slots=True)
class Loaded:
    """An adapter as it was loaded: the same object means the same version."""

    path: Path
    pinned: bool
    version: int


def connect(address: str) -> None:
    """Join a cluster, once per process; may block for seconds.

    Raises:
        BackendError: Ray isn't installed, or nothing answers there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Calls to an actor that died: their end is told through its reports.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    if address.startswith("127."):
        os.environ.update(LOOPBACK_ONLY)  # read when Ray is imported
    try:
        import ray
    except ImportError:
        raise BackendError('Ray is not installed: pip install "biblioteca[cluster]"') from None
    with _connecting:
        if ray.is_initialized():
            return
        try:
            ray.init(
                address=address,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise BackendError(
                f"no Ray cluster answers at {address!r}; start one with `biblioteca cluster up` "
                f"({str(error).splitlines()[0]})"
            ) from error


class ReplicaLink(ServedBackend):
    """One replica; a new actor takes the place of one that died.

    Attributes:
        seat: how routing sees it.
        node: Ray's id of the node it runs on, "" while it has none.
        pid: its process there.
        MAX_FAILURES: starts in a row that never become ready before it stays "failed".
    """

    MAX_FAILURES = 3

    def __init__(
        self,
        config: EngineConfig,
        factory: str,
        placement: Placement,
        changed: Callable[[], None],
    ) -> None:
        super().__init__(config, factory)
        limit = config.max_rows + placement.waiting
        self.seat = Seat(name=f"replica-{next(_numbers)}", slots=config.adapter_slots, limit=limit)
        self.node, self.pid = "", 0
        self.leaving = False
        self._placement, self._tell = placement, changed
        self._actor: Any = None
        self._held: dict[str, Loaded] = {}
        self._holding: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def failure(self) -> Exception | None:
        """Why it stays "failed"."""
        return self._failure

    def leave(self) -> None:
        """Take no new requests; what runs goes on."""
        self.leaving, self.seat.open = True, False

    async def start(self) -> None:
        """Begin starting the actor."""
        self._keeper = asyncio.create_task(self._keep())

    async def hold(self, name: str, loaded: Loaded) -> AdapterInfo | None:
        """Have this version of an adapter; None if it is there already.

        Raises:
            EngineError: it doesn't fit, or the replica is gone.
        """
        if self._held.get(name) is loaded:
            return None
        async with self._holding[name]:
            if self._held.get(name) is loaded:
                return None
            actor = self._actor
            path = await self._deliver(actor, loaded.path)
            info = await self.load_adapter(name, Path(path), pinned=loaded.pinned)
            if self._actor is actor:
                self._held[name] = loaded
            return info

    async def drop(self, name: str) -> None:
        """Forget an adapter, if it is held."""
        if self._held.pop(name, None) is not None and self._state == "ready":
            await self.unload_adapter(name)

    async def close(self) -> None:
        """Kill the actor; live requests end as "error"."""
        if self._state == "closed":
            return
        self._fall("closed", "the engine was closed")
        self._keeper.cancel()
        await asyncio.gather(self._keeper, return_exceptions=True)

    def _send(self, command: Command) -> None:
        self._actor.put.remote(pack(command))

    def _enter(self, state: State) -> None:
        super()._enter(state)
        self.seat.open = state == "ready" and not self.leaving
        self._tell()

    async def _keep(self) -> None:
        """Run one actor after another until closed or hopeless."""
        failures = 0
        while self._state in ("starting", "restarting"):
            failures = 0 if await self._live() else failures + 1
            if failures >= self.MAX_FAILURES and self.state == "restarting":
                self._failure = BackendError(f"{self.seat.name} keeps dying at start")
                self._fall("failed", str(self._failure))
            await asyncio.sleep(0.5 * failures)

    async def _live(self) -> bool:
        """One actor's life; True if it became ready."""
        self._held.clear()
        self.seat.forget()
        self._was_ready, why = False, "its reports ended"
        watcher = asyncio.create_task(self._watch())
        try:
            self._actor = self._make_actor()
            await self._open()
            cutter = Cutter()
            async for ref in self._actor.reports.remote():
                for content in cutter.feed(await ref):
                    self._take(Report(*unpack(content)))
        except _lost_errors() as error:
            why = _told(error)
        finally:
            watcher.cancel()
            self._kill()
        if self._state not in ("closed", "failed"):
            log.error("%s was lost (%s); %d requests on it", self.seat.name, why, self.seat.live)
            self.restarts += self._was_ready
            self._fall("restarting", f"{self.seat.name} was lost: {why}")
        return self._was_ready

    def _take(self, report: Report) -> None:
        """What a replica tells; a core that falls after it was ready may do better next time."""
        if report.kind == "fatal" and self._was_ready:
            raise BackendError(f"the engine failed: {report.value[1]}")
        self._was_ready = self._was_ready or report.kind == "ready"
        self._receive(report)

    async def _watch(self) -> None:
        """Kill an actor whose engine hangs; its reports end with that."""
        if await self._hangs():
            log.error("%s hung for %g s and is stopped", self.seat.name, self._config.hang_s)
            self._kill()

    def _make_actor(self) -> Any:
        import ray

        base = Path(self._config.base).name
        name = f"{base}/{socket.gethostname()}/{os.getpid()}/{self.seat.name}/{next(_numbers)}"
        options = self._placement.options() | {"name": name}
        return ray.remote(Replica).options(**options).remote(self._placement.store)

    def _kill(self) -> None:
        import ray

        if self._actor is not None:
            with contextlib.suppress(*_lost_errors()):  # the cluster itself may be gone
                ray.kill(self._actor)

    async def _open(self) -> None:
        """Tell a new actor what to build; its base reaches the node first."""
        config, base = self._config, Path(self._config.base)
        if (base / "config.json").is_file():  # else a hub id, or a shelf's folder of students
            config = replace(config, base=await self._deliver(self._actor, base))
        self.pid, self.node = await self._actor.open.remote(pack((self._factory, config)))

    async def _deliver(self, actor: Any, folder: Path) -> str:
        """Where a folder's content lies on the actor's node, sent there if it must be."""
        import ray

        parcel = await asyncio.to_thread(describe, folder)
        try:
            if found := await actor.find.remote(parcel.pack()):
                return str(found)
            paths = [Path(parcel.root) / name for name, _ in parcel.files]
            refs = await asyncio.to_thread(lambda: [ray.put(path.read_bytes()) for path in paths])
            return str(await actor.keep.remote(parcel.pack(), refs))
        except ray.exceptions.RayTaskError as error:  # the actor lives, and says no
            raise BackendError(f"{folder} did not reach {self.seat.name}: {error.cause}") from error
        except _lost_errors() as error:
            while self._state == "ready" and self._actor is actor:  # its reports will end, too
                self._changed.clear()
                await self._changed.wait()
            raise BackendError(f"{self.seat.name} was lost: {_told(error)}") from error


def draining_nodes() -> frozenset[str]:
    """Ids of nodes that `ray drain-node` (or an autoscaler) wants empty."""
    from ray._private.state import state  # Ray tells this nowhere else

    with contextlib.suppress(*_lost_errors()):
        return frozenset(state.get_draining_nodes())
    return frozenset()


def _lost_errors() -> tuple[type[Exception], ...]:
    """What ends an actor's life: Ray's errors, also of a cluster that is gone, and ours."""
    import ray

    return EngineError, ray.exceptions.RayError, RuntimeError, ConnectionError


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
