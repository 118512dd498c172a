"""A replica: one engine (or shelf) inside a Ray actor, commands in, reports out.

The frames are those of a worker process (engine/wire.py): nothing but bytes goes through Ray.
All reports of a moment travel together, so that a step of many rows costs one message.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from cluster.parcel import NodeStore, Parcel
from engine.requests import Started
from engine.service import Command, Report, Service
from engine.wire import HEADER, pack, unpack

_APART_S = 0.01  # messages of a busy replica: a reader sees no difference


class Replica:
    """The actor. Whoever made it is its only client."""

    def __init__(self, store: str) -> None:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # see engine/backend.py
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._store = NodeStore(Path(store).expanduser())
        self._outbox: deque[bytes] = deque()  # filled by the engine's thread
        self._silent: set[str] = set()  # requests that have begun and said nothing

    async def find(self, parcel: bytes) -> str:
        """Where this node has a parcel's content; "" if nowhere."""
        found = await asyncio.to_thread(self._store.find, Parcel.unpack(parcel))
        return str(found or "")

    async def keep(self, parcel: bytes, refs: list[Any]) -> str:
        """Fetch a parcel's files from the object store and keep them; returns where."""
        described = Parcel.unpack(parcel)
        contents = await asyncio.gather(*refs)
        named = {
            name: content for (name, _), content in zip(described.files, contents, strict=True)
        }
        return str(await asyncio.to_thread(self._store.keep, described, named))

    async def open(self, setup: bytes) -> tuple[int, str]:
        """Begin building the core; reports tell when it is ready.

        Returns our process id, and Ray's id of the node.
        """
        import ray

        factory, config = unpack(setup[HEADER.size :])
        self._arrived, self._urgent = Bell(), Bell()
        self._service = Service(factory, config, self._emit)
        self._service.start()
        return os.getpid(), str(ray.get_runtime_context().get_node_id())

    async def put(self, frame: bytes) -> None:
        """Take a command."""
        self._service.put(Command(*unpack(frame[HEADER.size :])))

    async def reports(self) -> AsyncIterator[bytes]:
        """Frames, as many as there are, for as long as the actor lives.

        A first word and whatever is no word go at once. Every step's words by themselves would
        take Ray more time than the steps take, and in the engine's own process.
        """
        clock = asyncio.get_running_loop().time
        free_s = 0.0
        while True:
            await self._arrived.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(free_s):
                    await self._urgent.wait()
            free_s = clock() + _APART_S
            self._arrived.silence()
            self._urgent.silence()
            frames = [self._outbox.popleft() for _ in range(len(self._outbox))]
            if frames:
                yield b"".join(frames)

    def _emit(self, report: Report) -> None:
        """Take a report of the engine's thread."""
        self._outbox.append(pack(report))
        self._arrived.ring()
        if self._is_urgent(report):
            self._urgent.ring()

    def _is_urgent(self, report: Report) -> bool:
        if report.kind != "event":
            return True
        if isinstance(report.value, Started):
            self._silent.add(report.value.request_id)
            return False
        first = report.value.request_id in self._silent
        self._silent.discard(report.value.request_id)
        return first


class Bell:
    """An event that a thread sets for an event loop; set again, it costs nothing.

    Waking a loop takes it from the engine's thread: once a message is enough, once a token is not.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event, self._rung = asyncio.Event(), False

    def ring(self) -> None:
        """Set it, from any thread."""
        if not self._rung:
            self._rung = True
            self._loop.call_soon_threadsafe(self._event.set)

    def silence(self) -> None:
        """Clear it, before what it told of is looked at."""
        self._rung = False
        self._event.clear()

    async def wait(self) -> None:
        """Return once it is set."""
        await self._event.wait()
