"""Short forms of what tests/faults does at length with processes of its own."""

from __future__ import annotations

import os
import time

import msgpack
import pytest
import zmq
import zmq.asyncio

from protocol.codec import PROTOCOL
from protocol.server import Server
from tests.protocol.fake_service import FakeService
from tests.protocol.raw import Raw
from tests.protocol.test_server import until


async def test_thousands_of_frames_are_one_bad_message(server: Server) -> None:
    async with Raw(server.connection) as flooding, Raw(server.connection) as other:
        await other.hello()
        await flooding.send_frames(*[b""] * 5_000)
        assert (await flooding.receive())["body"]["code"] == "bad_frame"
        assert (await other.ask("say", {"agent": "echo", "text": "on"}))["body"]["text"] == "on"


async def test_a_crowd_comes_and_goes_and_leaves_nothing(
    server: Server, service: FakeService
) -> None:
    num_descriptors = len(os.listdir("/proc/self/fd"))
    context = zmq.asyncio.Context()
    crowd = [context.socket(zmq.DEALER) for _ in range(100)]
    for number, socket in enumerate(crowd):
        socket.connect(server.connection.work)
        say = {"agent": "wait" if number % 2 else "echo", "text": "x"}
        for t, body in (("hello", {}), ("say", say)):
            frame = msgpack.packb({"t": t, "id": t, "body": body})
            await socket.send_multipart([PROTOCOL, frame])
    for socket in crowd:
        assert await socket.poll(60_000)
    await until(lambda: service.num_running == 50)
    assert len(server.dispatcher.sessions) == 100
    context.destroy(0)
    await until(lambda: len(server.dispatcher.sessions) == 0 and service.num_running == 0)
    await until(lambda: len(os.listdir("/proc/self/fd")) <= num_descriptors)


async def test_somebody_elses_routing_id_opens_nothing(server: Server) -> None:
    owner = Raw(server.connection, ROUTING_ID=b"the-same-id")
    await owner.hello(resume_ms=60_000)
    owner.close()
    await until(lambda: all(s.lost_at is not None for s in server.dispatcher.sessions))
    async with Raw(server.connection, ROUTING_ID=b"the-same-id") as thief:
        assert (await thief.ask("agents"))["body"]["code"] == "no_session"


async def test_a_clock_that_jumps_ends_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    async with Raw(server.connection) as client:
        await client.hello()
        target = await client.send("say", {"agent": "wait", "text": "x"}, ttl_ms=60_000)
        assert (await client.receive())["t"] == "accepted"
        for hours in (1, -1):
            monkeypatch.setattr(time, "time", lambda hours=hours: real() + 3_600 * hours)
            server.dispatcher.sweep()
            assert (await client.ask("ping"))["body"]["open_requests"] == 1
        await client.ask("cancel", {"target": target})
