"""Telemetry waits for the game, loses nothing by it, and never for long."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
import zmq

from protocol.publisher import HELD_S, Publisher
from protocol.telemetry import LineDelta, LineFailed, LineStarted, Logged


class Watched:
    """A publisher, and a watcher of everything."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.publisher = Publisher()
        self.out, self.watcher = context.socket(zmq.XPUB), context.socket(zmq.SUB)
        port = self.out.bind_to_random_port("tcp://127.0.0.1")
        self.watcher.connect(f"tcp://127.0.0.1:{port}")
        self.watcher.subscribe("")

    async def start(self) -> Publisher:
        self.publisher.attach(self.out, asyncio.get_running_loop())
        async with asyncio.timeout(60):
            while not self.publisher.is_watched("deltas"):
                await asyncio.sleep(0.01)
        return self.publisher

    async def events(self, number: int) -> list[dict[str, Any]]:
        async with asyncio.timeout(60):
            while len(found := getattr(self, "found", [])) < number:
                while self.watcher.poll(0):
                    found.append(msgpack.unpackb(self.watcher.recv_multipart()[2]))
                self.found = found
                await asyncio.sleep(0.01)
        return found


@pytest.fixture
def watched() -> Iterator[Watched]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made = Watched(context)
    yield made
    made.publisher.close()
    context.destroy(0)


def said(line: str, text: str) -> LineDelta:
    return LineDelta(line=line, agent="anna", text=text)


async def test_a_lines_pieces_go_together_and_between_its_start_and_its_end(
    watched: Watched,
) -> None:
    publisher = await watched.start()
    publisher.publish("line_started", LineStarted(line="1", agent="anna", tier="npc"))
    for text in ("Go ", "on", "!"):
        publisher.publish("line_delta", said("1", text))
        publisher.publish("line_delta", said("2", text))
    publisher.publish("line_failed", LineFailed(line="1", agent="anna", code="cancelled"))
    seen = await watched.events(4)
    assert [(e["t"], e["seq"], e["body"].get("text", "")) for e in seen] == [
        ("line_started", 1, ""),
        ("line_delta", 1, "Go on!"),
        ("line_delta", 2, "Go on!"),
        ("line_failed", 2, ""),
    ]


async def test_nothing_goes_out_in_the_turn_it_is_published_in(watched: Watched) -> None:
    publisher = await watched.start()
    for number in range(100):
        publisher.publish("line_delta", said(str(number), "yes"))
    assert publisher.num_published == 0
    await asyncio.sleep(HELD_S / 2)
    assert publisher.num_published == 0
    most, before = 0, 0
    async with asyncio.timeout(60):
        while publisher.num_published < 100:
            await asyncio.sleep(0)
            most = max(most, publisher.num_published - before)
            before = publisher.num_published
    assert most <= 16, "two turns at most between two looks"


async def test_a_flood_is_sent_in_longer_turns(watched: Watched) -> None:
    publisher = await watched.start()
    for number in range(5_000):
        publisher.publish("log", Logged(level="info", text=str(number)))
    seen = await watched.events(5_000)
    assert [e["seq"] for e in seen] == list(range(1, 5_001))


async def test_what_a_snapshot_does_not_hold_comes_after_it(watched: Watched) -> None:
    watched.publisher.publish("log", Logged(level="info", text="before anybody came"))
    publisher = await watched.start()
    publisher.publish("log", Logged(level="info", text="just now"))
    state = publisher.state(["log"])["log"]
    assert (state.seq, [e["body"]["text"] for e in state.events]) == (1, ["before anybody came"])
    (event,) = await watched.events(1)
    assert (event["seq"], event["body"]["text"]) == (2, "just now")
    assert publisher.state(["log"])["log"].seq == 2


async def test_pieces_that_nobody_watches_are_counted(watched: Watched) -> None:
    for _ in range(3):
        watched.publisher.publish("line_delta", said("1", "unheard"))
    publisher = await watched.start()
    publisher.publish("line_delta", said("1", "heard"))
    (event,) = await watched.events(1)
    assert (event["seq"], event["body"]["text"]) == (4, "heard")
