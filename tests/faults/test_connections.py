"""Clients that die, hang, flood or come in crowds."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgpack
import pytest
import zmq

from protocol.client import Client, connect
from protocol.codec import PROTOCOL
from protocol.conformance.probe import Probe, code
from protocol.errors import NoServerError, Refusal
from protocol.messages import Delta
from protocol.wire import ClientConfig
from tests.faults.gateway import ROOT, Gateway
from tests.protocol.test_client import free_ports
from tests.protocol.test_server import KILLED_CLIENT


def address(gateway: Gateway) -> tuple[str, int]:
    parts = urlsplit(gateway.connection.work)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


@pytest.mark.parametrize("agent", ["slow", "wait"])
def test_client_killed_mid_stream(gateway: Gateway, agent: str) -> None:
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", KILLED_CLIENT, gateway.connection.work, agent],
            stdout=subprocess.PIPE,
        )
        for _ in range(5)
    ]
    for client in clients:
        assert client.stdout is not None
        client.stdout.readline()
    with Probe(gateway.connection) as other:
        other.hello()
        target = other.send("say", {"agent": "echo", "text": "w " * 1_000})
        for client in clients:
            client.kill()
            client.wait()
            client.stdout.close() if client.stdout else None
        messages = other.finish(target)
        numbers = [m["seq"] for m in messages if m["t"] != "accepted"]
        assert numbers == list(range(len(numbers)))
        other.ask("bye")
    gateway.check_clean()


def test_reconnect_and_resume_through_a_cut_cable(gateway: Gateway) -> None:
    """A relay between client and server is cut in the middle of a line, then mended."""
    relay = Relay(address(gateway))
    cut = gateway.connection.model_copy(update={"work": relay.endpoint, "control": ""})
    with Client(cut, ClientConfig(timeout_s=60, heartbeat_s=0.3)) as client:
        call = client.start("say", agent="slow", text="x")
        pieces = client.parts(call)
        seen = ""
        for part in pieces:
            seen += part.text if isinstance(part, Delta) else ""
            if len(seen) > 200 and relay.num_cuts < 2:
                relay.cut()
            if len(seen) > 4_000:
                break
        assert seen == call.text[: len(seen)]
        assert seen.startswith("word word")
        assert set(seen.split()) <= {"word", "wor", "wo", "w"}
        client.cancel(call)
        while not call.ended:
            client.poll()
    relay.close()
    gateway.check_clean()


class Relay:
    """A TCP relay that can be cut."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self.num_cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(self._target)
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                sink.sendall(data)
        except OSError:
            pass  # it was cut
        for each in (source, sink):
            each.close()

    def cut(self) -> None:
        self.num_cuts += 1
        for each in self._open:
            with contextlib.suppress(OSError):  # closed before
                each.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut()


def test_gateway_killed_and_started_again(tmp_path: Path) -> None:
    with Gateway(tmp_path, ports=free_ports()) as gateway:
        with connect(gateway.path, ClientConfig(timeout_s=60, heartbeat_s=0.3)) as client:
            stream = client.say("slow", "x")
            next(stream)
            gateway.kill()
            gateway.start()
            with pytest.raises((Refusal, NoServerError)) as caught:
                list(stream)
            assert getattr(caught.value, "code", "no_session") == "no_session"
            assert "".join(client.say("echo", "back again")) == "back again"
        gateway.check_clean()


def test_terminate_under_load_ends_every_request(gateway: Gateway) -> None:
    with connect(gateway.path) as client:
        calls = [client.start("say", agent="wait", text="x") for _ in range(20)]
        client.request("agents")
        gateway.process.terminate()
        deadline = time.monotonic() + 60
        while not all(call.ended for call in calls) and time.monotonic() < deadline:
            client.poll()
            time.sleep(0.01)
        assert [getattr(call.error, "code", None) for call in calls] == ["draining"] * 20
    assert gateway.process.wait(60) == 0


def test_half_open_handshakes_keep_nobody_out_and_end(gateway: Gateway) -> None:
    sockets = [socket.create_connection(address(gateway), timeout=60) for _ in range(700)]
    for number, each in enumerate(sockets):
        with contextlib.suppress(OSError):  # the oldest are cut while the last ones come
            if number % 2:
                each.sendall(b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f")  # a greeting begun
    with Probe(gateway.connection) as probe:
        probe.hello()
        assert code(probe.ask("say", {"agent": "echo", "text": "hi"})) == "done"
        probe.ask("bye")
    for each in sockets:
        with contextlib.suppress(ConnectionError):
            while each.recv(4_096):  # the server's greeting, then the end within seconds
                pass
        each.close()
    gateway.check_clean()


def test_descriptor_limit_reached(tmp_path: Path) -> None:
    with Gateway(tmp_path, num_descriptors=200) as gateway:
        with Probe(gateway.connection) as before:
            before.hello()
            sockets = []
            for _ in range(400):
                try:
                    sockets.append(socket.create_connection(address(gateway), timeout=0.2))
                except OSError:
                    break  # the listen queue is full: the server refuses more
            for _ in range(20):
                assert code(before.ask("say", {"agent": "echo", "text": "hi"})) == "done"
            for each in sockets:
                each.close()
            before.ask("bye")
        gateway.check_clean()


def test_ten_thousand_connections(tmp_path: Path) -> None:
    with Gateway(tmp_path) as gateway:
        script = (
            "import sys; sys.path.insert(0, '.')\n"
            "from bench.wire import *\n"
            "import resource\n"
            "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n"
            "here, there = mp.Pipe()\n"
            "here.send('go')\n"
            "idle(2500, sys.argv[1], there)\n"
            "print(here.recv(), here.recv())\n"
        )
        crowds = [
            subprocess.Popen(
                [sys.executable, "-c", script, gateway.connection.work],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(4)
        ]
        assert [crowd.communicate(timeout=600)[0].split() for crowd in crowds] == [
            ["2500", "2500"]
        ] * 4
        gateway.check_clean(more_bytes=10_000 * 64 * 1024)


def test_slow_stream_reader_holds_up_nobody(gateway: Gateway) -> None:
    with Probe(gateway.connection) as slow, Probe(gateway.connection) as quick:
        slow.hello()
        quick.hello()
        text = " ".join("x" * 700 for _ in range(11))
        targets = [slow.send("say", {"agent": "echo", "text": text}) for _ in range(32)]
        for _ in range(100):
            assert code(quick.ask("say", {"agent": "echo", "text": "hi"})) == "done"
        ends: dict[str, str] = {}
        texts: dict[str, str] = {}
        while len(ends) < len(targets):
            message = slow.receive()
            if message["t"] == "delta":
                texts[message["re"]] = texts.get(message["re"], "") + message["body"]["text"]
            elif message["t"] == "done":
                ends[message["re"]] = message["body"]["text"]
        assert texts == ends
        slow.ask("bye")
        quick.ask("bye")
    gateway.check_clean()


def test_slow_subscriber_holds_up_nobody(gateway: Gateway) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context.socket(zmq.SUB) as watcher:
        watcher.setsockopt(zmq.RCVHWM, 1)
        watcher.connect(gateway.connection.telemetry)
        watcher.subscribe("")
        with Probe(gateway.connection) as probe:
            probe.hello()
            for _ in range(200):
                assert code(probe.ask("say", {"agent": "echo", "text": "hi"})) == "done"
            probe.ask("bye")
    context.term()
    gateway.check_clean()


def flood(gateway: Gateway, frames: list[bytes], count: int) -> None:
    """Send a message many times, as fast as the server takes it."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context.socket(zmq.DEALER) as sender:
        sender.setsockopt(zmq.LINGER, 0)
        sender.setsockopt(zmq.RCVHWM, 10)
        sender.connect(gateway.connection.work)
        for _ in range(count):
            if not sender.poll(2_000, zmq.POLLOUT):
                break
            sender.send_multipart(frames)
            while sender.poll(0):
                sender.recv_multipart()
    context.term()


@pytest.mark.parametrize(
    ("frames", "count"),
    [
        ([b""], 5_000),
        ([b""] * 200_000, 1),
        ([PROTOCOL, b"\xc1"], 5_000),
        ([PROTOCOL, msgpack.packb({"t": "ping", "id": "1"})], 5_000),
        ([PROTOCOL, b"\x81\xa1a\xdb" + b"a" * 2_000_000], 20),
    ],
    ids=["empty frames", "one message of 200,000 frames", "bad frames", "no session", "oversize"],
)
def test_floods_leave_others_served(gateway: Gateway, frames: list[bytes], count: int) -> None:
    with Probe(gateway.connection) as other:
        other.hello()
        flooding = threading.Thread(target=flood, args=(gateway, frames, count))
        flooding.start()
        answers: list[Any] = []
        while flooding.is_alive() or len(answers) < 20:
            answers.append(code(other.ask("say", {"agent": "echo", "text": "hi"})))
        flooding.join()
        assert set(answers) == {"done"}
        other.ask("bye")
    gateway.check_clean()


def test_duplicate_reordered_and_replayed_requests(gateway: Gateway) -> None:
    with Probe(gateway.connection) as probe:
        probe.hello()
        for request_id in ("b", "a", "c"):  # ids need no order
            probe.finish(probe.send("say", {"agent": "echo", "text": "hi"}, id=request_id))
        for _ in range(50):  # a recorded message, played again
            probe.send("say", {"agent": "echo", "text": "hi"}, id="a")
        answers = [probe.receive() for _ in range(50)]
        assert {code(answer) for answer in answers} == {"duplicate"}
        assert all(answer.get("re") is None for answer in answers)
        probe.ask("bye")
    gateway.check_clean()
