"""How fast is the wire? Round trip, throughput, streams, many idle clients; no model involved.

    .venv/bin/python bench/wire.py [--requests N] [--clients N] [--streams N] [--seconds S]

The gateway runs in a process of its own, clients in others, as in a game. The round trip is
compared with a raw pyzmq ROUTER/DEALER echo of the same payload in the same run: turns are
taken in blocks, so that a slow moment of the machine hits both. The last line is one JSON
document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing as mp
import os
import resource
import statistics
import sys
import time
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import msgpack
import zmq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from protocol.codec import PROTOCOL, Envelope, encode
from protocol.connection import Connection
from protocol.server import Server, ServerConfig
from protocol.sessions import SessionLimits
from tests.protocol.fake_service import FakeService

Socket = zmq.Socket[bytes]


# --- the processes -------------------------------------------------------------------------


def serve(pipe: Pipe) -> None:
    """A gateway over a service that echoes words."""

    async def run() -> None:
        limits = SessionLimits(max_requests=4_096)
        server = Server(FakeService(), ServerConfig(connection=None, sessions=limits))
        await server.start()
        pipe.send(server.connection.model_dump())
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, pipe.recv) == "memory":
            pipe.send((_memory_bytes(), server.dispatcher.gateway_info().model_dump()))
        await server.close()

    asyncio.run(run())


def echo(pipe: Pipe) -> None:
    """The yardstick: a bare ROUTER that sends back what it gets."""
    socket = zmq.Context().socket(zmq.ROUTER)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    pipe.send(f"tcp://127.0.0.1:{port}")
    while True:
        socket.send_multipart(socket.recv_multipart())


def request_for(seconds: float, endpoint: str, pipe: Pipe) -> None:
    """A client that keeps 16 requests under way."""
    socket = dial(endpoint)
    hello(socket)
    frame = msgpack.packb({"t": "event", "id": "%%%%%%%%", "body": EVENT})
    head, tail = frame.split(b"%%%%%%%%")
    pipe.send("ready")
    pipe.recv()
    sent = done = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        while sent - done < 16:
            sent += 1
            socket.send_multipart([PROTOCOL, head + b"%08d" % sent + tail])
        reply = msgpack.unpackb(socket.recv_multipart()[1])
        assert reply["t"] == "done", reply
        done += 1
    pipe.send(done)


def stream_many(count: int, slow: bool, endpoint: str, pipe: Pipe) -> None:
    """A client with many streams at once; checks text and numbers. A slow one naps."""
    socket = dial(endpoint, RCVHWM=16) if slow else dial(endpoint)
    hello(socket, **({"credit": 64} if slow else {}))
    text = " ".join(f"w{number}" for number in range(100))
    for number in range(count):
        send(socket, "say", f"s{number}", {"agent": "echo", "text": text})
    texts: dict[str, str] = {}
    next_seq: dict[str, int] = {}
    num_deltas = num_bad = num_done = 0
    while num_done < count:
        if not socket.poll(20_000):
            break
        message = msgpack.unpackb(socket.recv_multipart()[1])
        re, seq = message["re"], message.get("seq")
        if seq is not None:
            num_bad += seq != next_seq.get(re, 0)
            next_seq[re] = seq + 1
        if message["t"] == "delta":
            texts[re] = texts.get(re, "") + message["body"]["text"]
            num_deltas += 1
            if slow and num_deltas % 64 == 0:
                time.sleep(0.02)
                send(socket, "credit", None, {"deltas": 64})
        elif message["t"] in ("done", "error"):
            num_done += 1
            num_bad += message["t"] == "error" or texts.get(re) != text
    pipe.send({"done": num_done, "wrong": num_bad, "deltas": num_deltas})


def idle(count: int, endpoint: str, pipe: Pipe) -> None:
    """Many clients that say hello and then nothing, until they all ask at once."""
    context: zmq.Context[Socket] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, count + 100)
    sockets: list[Socket] = []
    for start in range(0, count, 100):
        batch = [dial(endpoint, context) for _ in range(min(100, count - start))]
        for socket in batch:
            send(socket, "hello", "h", {})
        sockets += [socket for socket in batch if socket.poll(30_000)]
        for socket in batch:
            socket.recv_multipart()
    pipe.send(len(sockets))
    pipe.recv()
    for socket in sockets:
        send(socket, "event", "e", EVENT)
    answered = [socket for socket in sockets if socket.poll(30_000)]
    pipe.send(sum(msgpack.unpackb(s.recv_multipart()[1])["t"] == "done" for s in answered))


# --- helpers -------------------------------------------------------------------------------

EVENT = {"kind": "theft", "text": "Somebody took the brass key from the desk.", "scene": "hall"}


def dial(endpoint: str, context: zmq.Context[Socket] | None = None, **options: int) -> Socket:
    """A connected DEALER."""
    socket = (context or zmq.Context()).socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    for name, value in options.items():
        socket.setsockopt(getattr(zmq, name), value)
    socket.connect(endpoint)
    return socket


def send(socket: Socket, t: str, request_id: str | None, body: dict[str, Any]) -> None:
    """Send one message."""
    socket.send_multipart([PROTOCOL, encode(Envelope(t, body, id=request_id))])


def hello(socket: Socket, **body: Any) -> None:
    """Open a session."""
    send(socket, "hello", "hello", body)
    assert socket.poll(20_000), "no welcome"
    socket.recv_multipart()


def spawn(target: Any, *arguments: Any) -> tuple[Any, Pipe]:
    """A process and the pipe to it."""
    here, there = mp.Pipe()
    process = mp.get_context("spawn").Process(target=target, args=(*arguments, there), daemon=True)
    process.start()
    return process, here


def percentiles(seconds: list[float]) -> dict[str, float]:
    """In microseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    return {
        "p50": round(cuts[49] * 1e6, 1),
        "p95": round(cuts[94] * 1e6, 1),
        "p99": round(cuts[98] * 1e6, 1),
    }


def _memory_bytes(pid: int | str = "self") -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


# --- the questions -------------------------------------------------------------------------


def measure_round_trip(work: str, raw: str, requests: int) -> dict[str, Any]:
    """Round trips of the same `event` request through the gateway and through the raw echo."""
    gateway, bare = dial(work), dial(raw)
    hello(gateway)
    times: dict[str, list[float]] = {"gateway": [], "ping": [], "raw": []}
    number = 0
    for _ in range(requests // 100):
        for name, socket, t, body in (
            ("gateway", gateway, "event", EVENT),
            ("raw", bare, "event", EVENT),
            ("ping", gateway, "ping", {}),
        ):
            for _ in range(100):
                number += 1
                frame = encode(Envelope(t, body, id=f"r{number}"))
                before = time.perf_counter()
                socket.send_multipart([PROTOCOL, frame])
                socket.recv_multipart()
                times[name].append(time.perf_counter() - before)
    result: dict[str, Any] = {f"{name}_us": percentiles(values) for name, values in times.items()}
    result["ratio_p50"] = round(result["gateway_us"]["p50"] / result["raw_us"]["p50"], 2)
    return result


def measure_throughput(work: str, seconds: float, clients: int = 2) -> dict[str, Any]:
    """Requests per second through one gateway."""
    workers = [spawn(request_for, seconds, work) for _ in range(clients)]
    for _, pipe in workers:
        pipe.recv()
    for _, pipe in workers:
        pipe.send("go")
    total = sum(pipe.recv() for _, pipe in workers)
    return {"clients": clients, "requests_per_s": round(total / seconds)}


def measure_streams(work: str, streams: int) -> dict[str, Any]:
    """Streams of 100 words at once over 10 clients, 3 of them slow."""
    before = time.perf_counter()
    per_client = streams // 10
    workers = [spawn(stream_many, per_client, number < 3, work) for number in range(10)]
    reports = [pipe.recv() for _, pipe in workers]
    seconds = time.perf_counter() - before
    totals = {key: sum(report[key] for report in reports) for key in ("done", "wrong", "deltas")}
    return {"streams": per_client * 10, "slow_clients": 3, **totals, "seconds": round(seconds, 2)}


def measure_idle(work: str, pipe: Pipe, clients: int) -> dict[str, Any]:
    """Memory of the gateway per idle client, and whether all are served."""
    pipe.send("memory")
    before, _ = pipe.recv()
    started = time.perf_counter()
    crowds = [spawn(idle, clients // 4, work) for _ in range(4)]
    connected = sum(crowd.recv() for _, crowd in crowds)
    connect_s = time.perf_counter() - started
    pipe.send("memory")
    after, gauges = pipe.recv()
    started = time.perf_counter()
    for _, crowd in crowds:
        crowd.send("go")
    served = sum(crowd.recv() for _, crowd in crowds)
    return {
        "clients": clients,
        "connected": connected,
        "sessions": gauges["sessions"],
        "descriptors": gauges["descriptors"],
        "kib_each": round((after - before) / clients / 1024, 1),
        "served": served,
        "connect_s": round(connect_s, 1),
        "serve_s": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    """Ask all questions, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000, help="round trips")
    parser.add_argument("--clients", type=int, default=10_000, help="idle clients")
    parser.add_argument("--streams", type=int, default=200, help="streams at once")
    parser.add_argument("--seconds", type=float, default=5.0, help="of the throughput question")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients = min(options.clients, hard - 200)
    _, pipe = spawn(serve)
    work = Connection.model_validate(pipe.recv()).work
    _, raw_pipe = spawn(echo)
    raw = raw_pipe.recv()
    results: dict[str, Any] = {"round_trip": measure_round_trip(work, raw, options.requests)}
    print("round trip ", results["round_trip"])
    results["throughput"] = measure_throughput(work, options.seconds)
    print("throughput ", results["throughput"])
    results["streams"] = measure_streams(work, options.streams)
    print("streams    ", results["streams"])
    results["idle"] = measure_idle(work, pipe, clients)
    print("idle       ", results["idle"])
    pipe.send("stop")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
