"""A replica: one engine (or shelf) inside a Ray actor, commands in, reports out.

The frames are those of a worker process (engine/wire.py): nothing but bytes goes through Ray.
The engine is such a process here, too, beside the actor: Ray's threads in an interpreter cost the
engine that shares it a fifth of its speed (docs/LOG.md). All reports of a moment travel together,
so that a step of many rows costs one message.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgpack

from cluster.parcel import NodeStore, Parcel
from engine.backend import worker_environment
from engine.wire import HEADER, Cutter, unpack

_CHUNK_BYTES = 1 << 18
_APART_S = 0.01  # messages of a busy replica: a reader sees no difference


class Replica:
    """The actor. Whoever made it is its only client."""

    def __init__(self, store: str) -> None:
        self._store = NodeStore(Path(store).expanduser())
        self._outbox: deque[bytes] = deque()
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
        """Start the engine's process; reports tell when it is ready.

        Returns its process id, and Ray's id of the node.
        """
        import ray

        self._arrived, self._urgent = asyncio.Event(), asyncio.Event()
        self._engine = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "engine.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=worker_environment(unpack(setup[HEADER.size :])[1]),
        )
        self._listener = asyncio.create_task(self._listen())
        await self.put(setup)
        return self._engine.pid, str(ray.get_runtime_context().get_node_id())

    async def put(self, frame: bytes) -> None:
        """Hand over a command."""
        assert self._engine.stdin is not None
        self._engine.stdin.write(frame)

    async def reports(self) -> AsyncIterator[bytes]:
        """What the engine writes, as much as there is, for as long as it lives.

        A first word and whatever is no word go at once. Every step's words by themselves would
        take Ray more time than the steps take.
        """
        clock = asyncio.get_running_loop().time
        free_s = 0.0
        while self._outbox or not self._listener.done():
            await self._arrived.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(free_s):
                    await self._urgent.wait()
            free_s = clock() + _APART_S
            self._arrived.clear()
            self._urgent.clear()
            chunks = [self._outbox.popleft() for _ in range(len(self._outbox))]
            if chunks:
                yield b"".join(chunks)

    async def _listen(self) -> None:
        """Take the engine's reports until it ends."""
        assert self._engine.stdout is not None
        cutter = Cutter()
        while chunk := await self._engine.stdout.read(_CHUNK_BYTES):
            self._outbox.append(chunk)
            self._arrived.set()
            urgent = [self._is_urgent(content) for content in cutter.feed(chunk)]  # keeps count
            if any(urgent):
                self._urgent.set()
        self._arrived.set()
        self._urgent.set()

    def _is_urgent(self, content: bytes) -> bool:
        kind, _, value = msgpack.unpackb(content)
        if kind != "event":
            return True
        ((event, told),) = value.items()
        request_id = told["request_id"]
        if event == "Started":
            self._silent.add(request_id)
            return False
        first = request_id in self._silent
        self._silent.discard(request_id)
        return first or event == "Finished"
