"""The asyncio client, and the watcher of telemetry."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zmq

from protocol import messages as m
from protocol.calls import Call
from protocol.codec import decode
from protocol.connection import Connection, read_connection
from protocol.errors import FrameError, NoServerError
from protocol.operation import SnapshotReply, SnapshotRequest
from protocol.telemetry import EVENTS
from protocol.wire import ClientConfig, Wire


@dataclass(frozen=True, slots=True)
class Observation:
    """One telemetry event.

    Attributes:
        topic: where it was published.
        type: such as "line_ended".
        seq: its number in the topic.
        time_s: when it was published, Unix time.
        body: of the type that `protocol.telemetry.EVENTS` names.
        replayed: it came with a snapshot, at the start or after a gap.
    """

    topic: str
    type: str
    seq: int
    time_s: float
    body: m.Body
    replayed: bool = False


class AsyncClient:
    """A session with a server, on an event loop.

        async with AsyncClient() as client:
            async for part in client.stream("say", SayRequest(agent="ottavia", text="Hello")):
                ...

    Args:
        where: a connection, its file, or None for the default file.
        config: how the client behaves.
    """

    def __init__(
        self, where: Connection | Path | str | None = None, config: ClientConfig | None = None
    ) -> None:
        self._where = where
        self._config = config or ClientConfig()
        self._wire: Wire | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def wire(self) -> Wire:
        """The sockets, once open."""
        assert self._wire is not None, "open() comes first"
        return self._wire

    @property
    def welcome(self) -> m.Welcome:
        """What the server said about itself."""
        assert self.wire.calls.welcome is not None
        return self.wire.calls.welcome

    @property
    def alive(self) -> bool:
        """Whether the server has answered of late."""
        return self.wire.calls.alive

    async def open(self) -> None:
        """Connect.

        Raises:
            NoServerError: there is no such server, or it doesn't answer.
            KeyRefusedError: the keys don't fit.
            VersionError: it speaks another protocol version.
        """
        where = self._where
        if not isinstance(where, Connection):
            where = read_connection(Path(where) if where is not None else None)
        self._loop = asyncio.get_running_loop()
        self._wire = Wire(where, self._config)
        self._hello = next(iter(self._wire.calls.every))
        self._greeted = asyncio.Event()
        self._hello.changed = self._greeted.set
        for socket in self._wire.sockets:
            self._loop.add_reader(socket.FD, self._pump)
        self._timer = self._loop.call_soon(self._tick)
        try:
            async with asyncio.timeout(self._config.timeout_s):
                await self._greeted.wait()
            if self._hello.error is not None:
                raise self._hello.error
        except TimeoutError:
            await self.close()
            raise NoServerError(f"nobody answers at {where.work}; is the server running?") from None
        except BaseException:  # cancelled or interrupted, too: nothing stays open; raised again
            await self.close()
            raise

    async def close(self) -> None:
        """End the session."""
        wire, self._wire = self._wire, None
        if wire is None:
            return
        self._timer.cancel()
        for socket in wire.sockets:
            self._loop.remove_reader(socket.FD)
        if wire.calls.welcome is not None:
            wire.calls.start("bye", m.ByeRequest())
            wire.pump()
        wire.calls.give_up(NoServerError("the client was closed"))
        # Shielded: whoever is cancelled here has still let go of the sockets.
        await asyncio.shield(self._loop.run_in_executor(None, wire.close))

    def _pump(self) -> None:
        """Take in all there is: libzmq's descriptors signal changes, and sending may use one up."""
        if self._wire is None:
            return
        self._wire.pump(idle_ping=True)
        while self._wire.readable:
            self._wire.pump()
        while self._wire.calls.faults:
            fault = self._wire.calls.faults.popleft()
            if not self._hello.ended:
                self._hello.fail(fault)

    def _tick(self) -> None:
        self._pump()
        self._timer = self._loop.call_later(self._config.heartbeat_s / 2, self._tick)

    def start(
        self, t: str, body: m.Body, *, ttl_ms: int | None = None, idem: str | None = None
    ) -> Call:
        """Send a request and return its call at once."""
        call = self.wire.calls.start(t, body, ttl_ms=ttl_ms, idem=idem)
        self._pump()
        return call

    def cancel(self, call: Call) -> None:
        """Stop a call; it ends with a `cancelled` refusal."""
        self.start("cancel", m.CancelRequest(target=call.id))

    async def request(
        self, t: str, body: m.Body, *, ttl_ms: int | None = None, idem: str | None = None
    ) -> Any:
        """Send a request and wait for its reply.

        Raises:
            Refusal: it ended in an error.
            NoServerError: the server has gone silent.
        """
        call = self.start(t, body, ttl_ms=ttl_ms, idem=idem)
        async for _ in self.parts(call):
            pass
        return call.reply

    async def stream(
        self, t: str, body: m.Body, *, ttl_ms: int | None = None, idem: str | None = None
    ) -> AsyncIterator[m.Body]:
        """Send a request: `Accepted`, `Delta`s and the reply as they come.

        Raises:
            Refusal, NoServerError: as for `request`. Closing the iterator early cancels.
        """
        async for part in self.parts(self.start(t, body, ttl_ms=ttl_ms, idem=idem)):
            yield part

    async def parts(self, call: Call) -> AsyncIterator[m.Body]:
        """Everything of a call as it comes.

        Raises:
            Refusal, NoServerError: as for `request`. Closing the iterator early cancels.
        """
        changed = asyncio.Event()
        call.changed = changed.set
        try:
            while True:
                while call.parts:
                    yield call.parts.popleft()
                if call.ended:
                    break
                changed.clear()
                await changed.wait()
        finally:
            if not call.ended and self._wire is not None:
                self.cancel(call)
        if call.error is not None:
            raise call.error

    async def watch(self, topics: list[str]) -> AsyncIterator[Observation]:
        """Telemetry of these topics for ever: first the present state, then events as they come.

        A number that is missing leads to another snapshot, whose events are marked `replayed`.

        Raises:
            Refusal: `forbidden`, the role may not watch; `unsupported`, the server has no control
                or no telemetry address.
            NoServerError: the server has gone silent; watch again once it is back.
        """
        socket = self.wire.subscribe(topics)
        arrived = asyncio.Event()
        self._loop.add_reader(socket.FD, arrived.set)
        seen: dict[str, int] = {}
        session = self.welcome.session
        try:
            for topic in topics:  # one at a time: a long answer would hold up the server's loop
                async for observation in self._snapshot(topic, seen):
                    yield observation
            while True:
                frames = _receive(socket)
                if frames is None:
                    arrived.clear()
                    if not int(socket.get(zmq.EVENTS)) & zmq.POLLIN:
                        await self._arrival(arrived)
                    continue
                if self.welcome.session != session:  # another server: it counts from 1 again
                    session, seen = self.welcome.session, {}
                topic, fields = _fields(frames)
                last = seen.get(topic, 0)
                if fields["seq"] > last + 1:
                    async for missed in self._snapshot(topic, seen):
                        yield missed
                elif fields["seq"] == last + 1:
                    seen[topic] = fields["seq"]
                    if fields["t"] in EVENTS:
                        yield _observation(topic, fields)
        finally:
            self._loop.remove_reader(socket.FD)
            socket.close(0)

    async def _arrival(self, arrived: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(self._config.timeout_s):
                await arrived.wait()
        except TimeoutError:
            if not self.alive:
                raise NoServerError("the server has gone silent") from None

    async def _snapshot(self, topic: str, seen: dict[str, int]) -> AsyncIterator[Observation]:
        reply = await self.request("snapshot", SnapshotRequest(topics=[topic]))
        assert isinstance(reply, SnapshotReply)
        state = reply.topics.get(topic)
        if state is None:
            return  # a topic this server doesn't have
        last = seen.get(topic, 0)
        seen[topic] = state.seq
        for event in state.events:
            if event["seq"] > last and event["t"] in EVENTS:
                yield _observation(topic, event, replayed=True)


def _receive(socket: zmq.Socket[bytes]) -> list[bytes] | None:
    try:
        return socket.recv_multipart(zmq.DONTWAIT)
    except zmq.Again:
        return None


def _fields(frames: list[bytes]) -> tuple[str, dict[str, Any]]:
    """A telemetry message's topic, and its envelope in the form that snapshots use."""
    envelope = decode(frames[1:])
    if envelope.seq is None:
        raise FrameError(f"a telemetry event of {frames[0]!r} has no number")
    fields = {
        "t": envelope.t,
        "seq": envelope.seq,
        "time_s": envelope.time_s,
        "body": envelope.body,
    }
    return frames[0].decode(errors="replace"), fields


def _observation(topic: str, fields: dict[str, Any], replayed: bool = False) -> Observation:
    body = EVENTS[fields["t"]][1].model_validate(fields["body"])
    return Observation(topic, fields["t"], fields["seq"], fields["time_s"] or 0.0, body, replayed)
