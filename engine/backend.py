"""Backends: how everything above reaches an engine, wherever it runs. No torch here."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from engine.config import EngineConfig
from engine.errors import BackendError, EngineError
from engine.inbox import Inbox
from engine.requests import (
    AdapterInfo,
    EngineStats,
    Event,
    Finished,
    GenerationRequest,
    Usage,
)
from engine.service import Command, Operation, Report, Service, revive
from engine.wire import Cutter, pack, unpack

log = logging.getLogger("biblioteca.engine")
State = Literal["starting", "ready", "restarting", "failed", "closed"]
_WATCH_S = 2.0  # how often a worker that has work is asked for a sign of life
_LONG_LIFE_S = 60.0  # a worker that dies sooner keeps the next one waiting
_CHUNK_BYTES = 1 << 18
ENGINE = "engine.engine:build_engine"


class Backend(Protocol):
    """An engine as the rest of the house sees it. All methods belong to one event loop."""

    @property
    def state(self) -> State:
        """Where the engine stands now."""

    @property
    def restarts(self) -> int:
        """How often an engine was lost after it had been ready."""

    async def start(self) -> None:
        """Begin loading; returns at once."""

    async def wait_ready(self) -> None:
        """Return once requests run. Raises: EngineError if the engine can't start."""

    def submit(self, request: GenerationRequest) -> AsyncIterator[Event]:
        """Run a request: Started, Delta*, one Finished. Closing the iterator cancels it.

        A request that can't run (unknown adapter, too long) yields only a Finished whose
        reason is "error"; so does one whose engine dies.
        """

    async def cancel(self, request_id: str) -> bool:
        """Stop a request within one step; False if it is not live."""

    async def load_adapter(self, name: str, path: Path, *, pinned: bool = False) -> AdapterInfo:
        """Read an adapter (or student) and serve it under a name; replaces an older version.

        Raises:
            AdapterError: it doesn't fit the base, can't be held exactly, or is damaged.
        """

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Raises: AdapterError for an unknown name."""

    async def adapters(self) -> list[AdapterInfo]:
        """Every adapter known."""

    async def stats(self) -> EngineStats:
        """Counters and gauges."""

    async def close(self) -> None:
        """Stop everything; live requests end as "error"."""


class ServedBackend(ABC):
    """What all backends share: commands numbered out, reports sorted in (see Backend)."""

    def __init__(self, config: EngineConfig, factory: str = ENGINE) -> None:
        self._config, self._factory = config, factory
        self._calls = itertools.count(1)
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._streams: dict[str, asyncio.Queue[Event]] = {}
        self._state: State = "starting"
        self._changed = asyncio.Event()
        self._failure: Exception | None = None
        self.restarts = 0

    @property
    def state(self) -> State:
        """Where the engine stands now."""
        return self._state

    @abstractmethod
    async def start(self) -> None:
        """Begin loading."""

    @abstractmethod
    async def close(self) -> None:
        """Stop everything."""

    @abstractmethod
    def _send(self, command: Command) -> None: ...

    async def wait_ready(self) -> None:
        """Return once requests run."""
        while self._state in ("starting", "restarting"):
            self._changed.clear()
            await self._changed.wait()
        if self._state != "ready":
            raise self._failure or BackendError(f"the engine is {self._state}")

    async def submit(self, request: GenerationRequest) -> AsyncIterator[Event]:
        """Run a request."""
        request_id = request.request_id
        if self._state != "ready" or request_id in self._streams:
            why = f"the engine is {self._state}"
            if request_id in self._streams:
                why = f"a request named {request_id!r} is already running"
            yield lost(request_id, why)
            return
        events = self._streams[request_id] = asyncio.Queue()
        finished = False
        try:
            self._send(Command(0, "submit", (request,)))
            log.debug("%s handed to the engine, adapter %s", request_id, request.adapter)
            while not finished:
                event = await events.get()
                finished = isinstance(event, Finished)
                yield event
        finally:
            self._streams.pop(request_id, None)
            if not finished and self._state == "ready":
                self._send(Command(0, "cancel", (request_id,)))

    async def cancel(self, request_id: str) -> bool:
        """Stop a request."""
        return bool(await self._call("cancel", request_id))

    async def load_adapter(self, name: str, path: Path, *, pinned: bool = False) -> AdapterInfo:
        """Serve an adapter under a name."""
        return cast(AdapterInfo, await self._call("load", name, str(path), pinned))

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter."""
        await self._call("unload", name)

    async def adapters(self) -> list[AdapterInfo]:
        """Every adapter known."""
        return cast("list[AdapterInfo]", await self._call("adapters"))

    async def stats(self) -> EngineStats:
        """Counters and gauges."""
        return cast(EngineStats, await self._call("stats"))

    async def _call(self, operation: Operation, *arguments: Any) -> Any:
        if self._state != "ready":
            raise BackendError(f"the engine is {self._state}")
        call = next(self._calls)
        reply = self._replies[call] = asyncio.get_running_loop().create_future()
        try:
            self._send(Command(call, operation, arguments))
            return await reply
        finally:
            self._replies.pop(call, None)

    async def _hangs(self) -> bool:
        """True once an engine has work and no sign of life between its steps; False if it ended."""
        while True:
            await asyncio.sleep(_WATCH_S)
            if self._state != "ready" or not (self._streams or self._replies):
                continue
            try:
                async with asyncio.timeout(self._config.hang_s):
                    await self.stats()
            except TimeoutError:
                return True
            except BackendError:
                return False

    def _receive(self, report: Report) -> None:
        if report.kind == "event":
            if (events := self._streams.get(report.value.request_id)) is not None:
                events.put_nowait(report.value)
        elif report.kind == "ready":
            self._enter("ready")
        elif report.kind == "fatal":
            self._failure = revive(*report.value)
            self._fall("failed", str(self._failure))
        elif (reply := self._replies.get(report.call)) is not None and not reply.done():
            if report.kind == "reply":
                reply.set_result(report.value)
            else:
                reply.set_exception(revive(*report.value))

    def _enter(self, state: State) -> None:
        self._state = state
        self._changed.set()

    def _fall(self, state: State, why: str) -> None:
        """Leave "ready": whoever waits for the lost engine is told why."""
        self._enter(state)
        for request_id, events in self._streams.items():
            events.put_nowait(lost(request_id, why))
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(BackendError(why))


def lost(request_id: str, why: str) -> Finished:
    """The end of a request that no engine can finish."""
    return Finished(request_id=request_id, reason="error", usage=Usage(), error=why)


class InlineBackend(ServedBackend):
    """An engine in a thread of this process, for tests and small tools."""

    async def start(self) -> None:
        """Start the thread."""
        inbox: Inbox[Report] = Inbox(self._receive)
        self._service = Service(self._factory, self._config, lambda told: inbox.put(*told))
        self._service.start()

    def _send(self, command: Command) -> None:
        self._service.put(command)

    async def close(self) -> None:
        """Stop the thread and wait for it."""
        if self._state == "closed":
            return
        self._service.put(Command(0, "close"))
        await asyncio.to_thread(self._service.join)
        self._fall("closed", "the engine was closed")


class SubprocessBackend(ServedBackend):
    """An engine in a process of its own, started again when it dies.

    Attributes:
        MAX_RESTARTS: deaths in a row without ever becoming ready before it stays "failed".
    """

    MAX_RESTARTS = 3

    def __init__(self, config: EngineConfig, factory: str = ENGINE) -> None:
        super().__init__(config, factory)
        self._loaded: dict[str, tuple[Path, bool]] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The worker's process id, while it runs."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the first worker."""
        self._keeper = asyncio.create_task(self._keep())

    async def load_adapter(self, name: str, path: Path, *, pinned: bool = False) -> AdapterInfo:
        """Load it, and remember it for the next worker."""
        info = await super().load_adapter(name, path, pinned=pinned)
        self._loaded[name] = (path, pinned)
        return info

    async def unload_adapter(self, name: str) -> None:
        """Unload it, here and for the next worker."""
        await super().unload_adapter(name)
        self._loaded.pop(name, None)

    def _send(self, command: Command) -> None:
        if self._process is None or self._process.stdin is None:
            raise BackendError("the engine's process is not running")
        self._process.stdin.write(pack(command))

    async def close(self) -> None:
        """Close the worker's input, which ends it; kill it if that takes over 5 seconds."""
        if self._state == "closed":
            return
        self._fall("closed", "the engine was closed")
        if self._process is not None and self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                await asyncio.wait_for(self._process.wait(), 5.0)
            except TimeoutError:
                self._process.kill()
        if self._keeper is not None:
            await self._keeper

    async def _keep(self) -> None:
        """Run workers one after another until closed or hopeless."""
        failures = short_lives = 0
        clock = asyncio.get_running_loop().time
        while self._state in ("starting", "restarting"):
            began_s = clock()
            was_ready = await self._run_worker()
            failures = 0 if was_ready else failures + 1
            short_lives = 0 if clock() - began_s > _LONG_LIFE_S else short_lives + 1
            if failures >= self.MAX_RESTARTS:
                self._failure = BackendError("the engine's process keeps dying at start")
                self._fall("failed", str(self._failure))
            elif self._state == "restarting" and short_lives > 1:
                await asyncio.sleep(min(0.25 * 2**short_lives, 10.0))

    async def _run_worker(self) -> bool:
        """One worker's life; True if it became ready."""
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "engine.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=worker_environment(self._config),
        )
        if self._state == "closed":  # while it was being started
            process.kill()
        assert process.stdin is not None
        process.stdin.write(pack((self._factory, self._config)))
        self._was_ready, self._last_words = False, ""
        beside = [asyncio.create_task(self._watch(process)), asyncio.create_task(_log(process))]
        with contextlib.suppress(ConnectionError):
            await self._read(process, beside)
        code = await process.wait()
        await asyncio.wait(beside[1:2], timeout=1.0)  # its last lines
        for task in beside:
            task.cancel()
        if self._state not in ("closed", "failed"):
            why = self._last_words or f"the engine's process ended with code {code}"
            log.error("%s; requests lost: %s", why, ", ".join(self._streams) or "none")
            self.restarts += self._was_ready
            self._fall("restarting", why)
        return self._was_ready

    async def _read(
        self, process: asyncio.subprocess.Process, beside: list[asyncio.Task[None]]
    ) -> None:
        """Take a worker's reports until it ends."""
        assert process.stdout is not None
        cutter = Cutter()
        while chunk := await process.stdout.read(_CHUNK_BYTES):
            for report in (Report(*unpack(content)) for content in cutter.feed(chunk)):
                if report.kind == "ready":
                    self._was_ready = True
                    beside.append(asyncio.create_task(self._restore_adapters(report)))
                elif report.kind == "fatal" and self._was_ready:  # the next one may not
                    self._last_words = f"the engine failed: {report.value[1]}"
                else:
                    self._receive(report)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Kill a worker that hangs."""
        if await self._hangs():
            self._last_words = f"the engine hung for {self._config.hang_s:g} s and was stopped"
            process.kill()

    async def _restore_adapters(self, ready: Report) -> None:
        """Give a new worker what the last one had, then say that it is ready."""
        loop = asyncio.get_running_loop()
        restored: dict[str, asyncio.Future[Any]] = {}
        for name, (path, pinned) in self._loaded.items():
            call = next(self._calls)
            restored[name] = self._replies[call] = loop.create_future()
            self._send(Command(call, "load", (name, str(path), pinned)))
        for name, reply in restored.items():
            try:
                await reply
            except EngineError:  # its files changed meanwhile: requests for it will say so
                self._loaded.pop(name)
        self._receive(ready)


async def _log(process: asyncio.subprocess.Process) -> None:
    """Log what a worker writes to its stderr."""
    assert process.stderr is not None
    while chunk := await process.stderr.read(1 << 16):
        for line in chunk.decode(errors="replace").splitlines():
            log.warning("worker %d: %s", process.pid, line)


def worker_environment(config: EngineConfig) -> dict[str, str]:
    """The worker's environment: its thread budget."""
    environment = dict(os.environ, TOKENIZERS_PARALLELISM="false")
    # Threads that spin long at a barrier ruin a step as soon as the game wants a core.
    environment.setdefault("GOMP_SPINCOUNT", "1000")
    if config.threads:
        environment["OMP_NUM_THREADS"] = str(config.threads)
    return environment
