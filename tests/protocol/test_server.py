from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from protocol.codec import PROTOCOL
from protocol.connection import read_connection
from protocol.errors import ProtocolError
from protocol.server import Server, ServerConfig
from protocol.sessions import SessionLimits
from tests.protocol.fake_service import FakeService
from tests.protocol.raw import Raw
from tests.protocol.test_codec import BAD_FRAMES


async def until(condition: Any, timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def collect(client: Raw, request_id: str) -> list[dict[str, Any]]:
    """All messages of a request, its terminal one last."""
    messages: list[dict[str, Any]] = []
    while not messages or messages[-1]["t"] not in ("done", "error"):
        message = await client.receive()
        if message.get("re") == request_id:
            messages.append(message)
    return messages


async def test_a_stream_is_accepted_spoken_in_order_and_done(server: Server) -> None:
    async with Raw(server.connection) as client:
        await client.hello()
        request_id = await client.send("say", {"agent": "echo", "text": "one two three", "seed": 7})
        messages = await collect(client, request_id)
    assert [m["t"] for m in messages] == ["accepted", "delta", "delta", "delta", "done"]
    assert [m.get("seq") for m in messages] == [None, 0, 1, 2, 3]
    assert messages[-1]["body"]["text"] == "one two three"
    assert messages[-1]["body"]["seed"] == 7


@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
async def test_bad_frame_is_answered_and_the_server_serves_on(server: Server, frame: bytes) -> None:
    async with Raw(server.connection) as good, Raw(server.connection) as bad:
        await good.hello()
        await bad.hello()
        await bad.send_frames(PROTOCOL, frame)
        if len(frame) <= 1_048_576:  # a longer one makes libzmq end the connection
            assert (await bad.receive())["body"]["code"] == "bad_frame"
        assert (await good.ask("ping"))["t"] == "pong"


@pytest.mark.parametrize(
    ("t", "body", "code", "field"),
    [
        ("say", {"agent": "nobody", "text": "hi"}, "unknown_agent", "agent"),
        ("say", {"agent": "echo", "text": ""}, "bad_request", "text"),
        ("say", {"agent": "echo", "text": "x" * 100_000}, "bad_request", "text"),
        ("say", {"agent": "../etc/passwd", "text": "hi"}, "bad_request", "agent"),
        ("say", {"agent": "echo"}, "bad_request", "text"),
        ("say", {"agent": "echo", "text": 5}, "bad_request", "text"),
        ("say", {"agent": "echo", "text": "hi", "temperature": -1}, "bad_request", "temperature"),
        ("say", {"agent": "echo", "text": "hi", "speaker": "a\nb"}, "bad_request", "speaker"),
        ("say", {"agent": "echo", "text": "hi", "actions": [{}]}, "bad_request", "actions.0.name"),
        ("say", {"agent": "broken", "text": "hi"}, "internal", None),
        ("say", {"agent": "mute", "text": "hi"}, "internal", None),
        ("sing", {}, "unknown_type", None),
        ("tick", {}, "unsupported", None),
        ("resume", {"target": "x99"}, "not_found", "target"),
        ("keys", {}, "unsupported", None),
    ],
)
async def test_a_bad_request_gets_one_clear_error(
    server: Server, t: str, body: dict[str, Any], code: str, field: str | None
) -> None:
    async with Raw(server.connection) as client:
        await client.hello()
        error = (await client.ask(t, body))["body"]
        assert (error["code"], error.get("field")) == (code, field)
        assert error["message"]
        assert (await client.ask("say", {"agent": "echo", "text": "on"}))["body"]["text"] == "on"


async def test_control_characters_are_dropped_from_text(server: Server) -> None:
    async with Raw(server.connection) as client:
        await client.hello()
        said = "a\x00b\x1b[31mc\u200d\U0001f469\u200d\U0001f680 \u202e\u05e9\u05dc\n"
        done = await client.ask("say", {"agent": "echo", "text": said})
        assert (
            done["body"]["text"] == "ab[31mc\u200d\U0001f469\u200d\U0001f680 \u202e\u05e9\u05dc\n"
        )


async def test_nothing_is_served_before_hello(server: Server) -> None:
    async with Raw(server.connection) as client:
        assert (await client.ask("agents"))["body"]["code"] == "no_session"
        assert (await client.hello())["t"] == "welcome"
        assert (await client.ask("agents"))["t"] == "done"


async def test_no_common_version_is_said_so(server: Server) -> None:
    async with Raw(server.connection) as client:
        assert (await client.ask("hello", {"versions": [2, 3]}))["body"]["code"] == "bad_version"
        await client.send_frames(b"NPC/2", msgpack.packb({"t": "hello", "id": "1"}))
        assert (await client.receive())["body"]["code"] == "bad_version"


async def test_an_unknown_note_or_field_does_no_harm(server: Server) -> None:
    async with Raw(server.connection) as client:
        await client.hello(colour="green")
        done = await client.ask("say", {"agent": "echo", "text": "x", "pitch": 3, "scene": None})
        assert done["t"] == "done"


async def test_cancel_ends_the_stream_once_and_frees_the_service(
    server: Server, service: FakeService
) -> None:
    async with Raw(server.connection) as client:
        await client.hello()
        target = await client.send("say", {"agent": "slow", "text": "x"})
        await client.receive()
        for _ in range(2):
            await client.send("cancel", {"target": target}, id=f"k{_}")
        messages, seen = [], set[str]()
        while len(seen) < 3:
            messages.append(await client.receive())
            if messages[-1]["t"] in ("done", "error"):
                seen.add(messages[-1]["re"])
        ends = [m for m in messages if m["re"] == target and m["t"] in ("done", "error")]
        found = [m["body"]["found"] for m in messages if m["re"].startswith("k")]
        assert [e["body"]["code"] for e in ends] == ["cancelled"]
        assert found == [True, False]
        await until(lambda: service.num_running == 0)
        assert len(server.dispatcher.jobs) == 0


async def test_cancel_on_control_stops_a_stream_on_work(server: Server) -> None:
    async with Raw(server.connection) as work, Raw(server.connection, socket="control") as control:
        await work.hello()
        await control.hello(session=work.session, token=work.token)
        target = await work.send("say", {"agent": "wait", "text": "x"})
        await work.receive()
        assert (await control.ask("cancel", {"target": target}))["body"] == {"found": True}
        assert (await work.receive())["body"]["code"] == "cancelled"


async def test_control_answers_while_the_work_thread_hangs(server: Server) -> None:
    async with Raw(server.connection, socket="control") as control:
        await control.hello()
        script = (
            "import sys, time, zmq, msgpack\n"
            "socket = zmq.Context().socket(zmq.DEALER)\n"
            "socket.connect(sys.argv[1])\n"
            "def ask(t, i, body={}):\n"
            "    frame = msgpack.packb({'t': t, 'id': i, 'body': body})\n"
            "    socket.send_multipart([b'NPC/1', frame])\n"
            "    assert socket.poll(60_000)\n"
            "    return msgpack.unpackb(socket.recv_multipart()[1])\n"
            "ask('hello', 'h', {'session': sys.argv[2], 'token': sys.argv[3]})\n"
            "print('ready', flush=True)\n"
            "sys.stdin.readline()\n"
            "ask('ping', 'p0')\n"
            "time.sleep(0.3)\n"
            "print(ask('ping', 'p1')['body']['work_age_ms'], flush=True)\n"
        )
        arguments = [server.connection.control, control.session, control.token]
        with subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            assert process.stdin is not None
            assert await asyncio.to_thread(process.stdout.readline) == "ready\n"
            process.stdin.write("go\n")
            process.stdin.flush()
            age_ms = int(process.stdout.readline())  # the work loop hangs until it has come
    assert age_ms >= 250


async def test_a_request_past_its_deadline_expires(server: Server, service: FakeService) -> None:
    async with Raw(server.connection) as client:
        await client.hello()
        error = await client.ask("say", {"agent": "wait", "text": "x"}, ttl_ms=50)
        assert error["body"]["code"] == "expired"
        await until(lambda: service.num_running == 0)


KILLED_CLIENT = """
import sys, zmq, msgpack
socket = zmq.Context().socket(zmq.DEALER)
socket.connect(sys.argv[1])
for number, (t, body) in enumerate([("hello", {}), ("say", {"agent": sys.argv[2], "text": "x"})]):
    socket.send_multipart([b"NPC/1", msgpack.packb({"t": t, "id": str(number), "body": body})])
for _ in range(3 if sys.argv[2] == "slow" else 2):
    socket.recv_multipart()
print("speaking", flush=True)
import time; time.sleep(60)
"""


@pytest.mark.parametrize("agent", ["slow", "wait"])
async def test_a_killed_client_stops_its_own_request_only(
    server: Server, service: FakeService, agent: str
) -> None:
    async with Raw(server.connection) as other:
        await other.hello()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", KILLED_CLIENT, server.connection.work, agent,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        await process.stdout.readline()
        stream = await other.send("say", {"agent": "echo", "text": "w " * 300})
        process.kill()
        await process.wait()
        messages = await collect(other, stream)
        assert [m["seq"] for m in messages[1:]] == list(range(len(messages) - 1))
        await until(lambda: service.num_running == 0 and len(server.dispatcher.sessions) == 1)


async def test_bye_ends_the_session(server: Server, service: FakeService) -> None:
    async with Raw(server.connection) as client:
        await client.hello()
        target = await client.send("say", {"agent": "wait", "text": "x"})
        await client.receive()
        await client.send("bye", id="bye")
        ends = [await client.receive() for _ in range(2)]
        assert [(m["re"], m["t"]) for m in ends] == [(target, "error"), ("bye", "done")]
        assert ends[0]["body"]["code"] == "cancelled"
        assert (await client.ask("agents"))["body"]["code"] == "no_session"


async def test_silent_sessions_are_dropped(service: FakeService, tmp_path: Path) -> None:
    limits = SessionLimits(idle_s=0.2)
    server = Server(service, ServerConfig(connection=tmp_path / "c.json", sessions=limits))
    await server.start()
    async with Raw(server.connection) as client:
        await client.hello()
        await until(lambda: len(server.dispatcher.sessions) == 0)
        assert (await client.ask("agents"))["body"]["code"] == "no_session"
    await server.close()


async def test_a_flooding_session_is_slowed_down(service: FakeService, tmp_path: Path) -> None:
    limits = SessionLimits(requests_per_s=5)
    server = Server(service, ServerConfig(connection=tmp_path / "c.json", sessions=limits))
    await server.start()
    async with Raw(server.connection) as client:
        await client.hello()
        codes = [(await client.ask("agents"))["body"].get("code") for _ in range(100)]
        assert codes.count("busy") >= 9
        assert codes[:10] == [None] * 10
    await server.close()


async def test_connections_without_a_session_are_few(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("protocol.router.most_strangers", lambda: 10)
    port = int(server.connection.work.rsplit(":", 1)[1])

    async def cut(reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()  # the server's greeting, then the end

    async with Raw(server.connection) as before, Raw(server.connection) as after:
        await before.hello()
        half_open = [await asyncio.open_connection("127.0.0.1", port) for _ in range(30)]
        waiting = {asyncio.ensure_future(cut(reader)) for reader, _ in half_open}
        async with asyncio.timeout(60):
            while sum(each.done() for each in waiting) < 20:
                await asyncio.sleep(0.01)
        assert (await before.ask("agents"))["t"] == "done"
        assert (await after.hello())["t"] == "welcome"
    for _, writer in half_open:
        writer.close()
    await asyncio.wait(waiting)


async def test_drain_ends_what_runs_and_refuses_what_comes(
    server: Server, service: FakeService
) -> None:
    async with Raw(server.connection) as client:
        await client.hello()
        await client.send("say", {"agent": "echo", "text": "to the end"}, id="short")
        await client.send("say", {"agent": "wait", "text": "x"}, id="long")
        await until(lambda: service.num_running >= 1)
        drain = asyncio.create_task(server.dispatcher.drain(2.0))
        await asyncio.sleep(0)
        await client.send("agents", id="late")
        ends: dict[str, Any] = {}
        notices = []
        while len(ends) < 3:
            message = await client.receive()
            if message["t"] == "notice":
                notices.append(message["body"]["kind"])
            if message["t"] in ("done", "error"):
                ends[message["re"]] = message["body"].get("code")
        await drain
        assert ends == {"short": None, "long": "draining", "late": "draining"}
        assert notices == ["draining"]


async def test_connection_file_is_private_and_goes_with_the_server(
    service: FakeService, tmp_path: Path
) -> None:
    path = tmp_path / "run" / "connection.json"
    server = Server(service, ServerConfig(world="W", connection=path))
    await server.start()
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_connection(path) == server.connection
    await server.close()
    assert not path.exists()


async def test_an_address_others_can_reach_needs_keys(service: FakeService) -> None:
    with pytest.raises(ProtocolError, match="keys"):
        await Server(service, ServerConfig(host="0.0.0.0", connection=None)).start()


async def test_watchers_get_numbered_events_and_the_state_before_them(server: Server) -> None:
    from protocol.telemetry import Logged

    server.publish("log", Logged(level="info", text="before"))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context.socket(zmq.SUB) as watcher:
        watcher.connect(server.connection.telemetry)
        watcher.subscribe("log")
        await until(lambda: server.publisher.is_watched("log"))
        server.publish("log", Logged(level="info", text="after"))
        await until(lambda: watcher.poll(0))
        topic, name, frame = watcher.recv_multipart()
        event = msgpack.unpackb(frame)
    context.term()
    assert (topic, name, event["t"], event["seq"]) == (b"log", PROTOCOL, "log", 2)
    async with Raw(server.connection) as client:
        await client.hello()
        state = (await client.ask("snapshot", {"topics": ["log"]}))["body"]["topics"]["log"]
    assert state["seq"] == 2
    assert [e["body"]["text"] for e in state["events"]] == ["before", "after"]
