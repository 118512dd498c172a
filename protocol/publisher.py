"""Telemetry: numbered events on an XPUB socket, and the state a late watcher starts from.

Watchers must cost those who play nothing. So what is published is put down and goes out at most
ten times a second, a few events at a time, between the messages of the game.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import zmq

from protocol.codec import PROTOCOL, Envelope, encode
from protocol.messages import Body
from protocol.operation import TopicState
from protocol.telemetry import EVENTS, KEPT, KEYED, LineDelta

HELD_S = 0.1  # the longest that an event waits for others, as SPEC.md promises
_TURN = 8  # events sent in a row: a quarter of a millisecond
# Until the next of them go out: a game's message takes several turns of the event loop, each of
# which would wait for some of these otherwise.
_PAUSE_S = 0.002
_FLOOD = 512  # events waiting from which on turns are longer, so that none waits for ever


@dataclass(slots=True)
class _Event:
    """What was published and has not gone out.

    Attributes:
        watched: whether anybody saw its topic then; who comes later has it from a snapshot.
        pieces: the whole text of a line's deltas.
    """

    t: str
    body: Body
    time_s: float
    watched: bool
    pieces: list[str] = field(default_factory=list)

    def fields(self) -> dict[str, Any]:
        """The body as it goes out."""
        fields = self.body.model_dump(exclude_none=True)
        if self.pieces:
            fields["text"] = "".join(self.pieces)
        return fields


class Publisher:
    """Numbers events per topic, keeps the state, sends while somebody watches."""

    def __init__(self) -> None:
        self._socket: zmq.Socket[bytes] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._subscribed: set[bytes] = set()
        self._seq: dict[str, int] = {topic: 0 for topic, _ in EVENTS.values()}
        self._latest: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        self._recent: dict[str, deque[dict[str, Any]]] = {}
        self._waiting: deque[_Event] = deque()
        self._speaking: dict[str, _Event] = {}  # by line: its deltas that wait
        self._timer: asyncio.Handle | None = None
        self.num_published = 0

    def attach(self, socket: zmq.Socket[bytes], loop: asyncio.AbstractEventLoop) -> None:
        """Publish on this bound XPUB socket from now on."""
        self._socket, self._loop = socket, loop
        loop.add_reader(socket.FD, self._read)
        self._read()

    def close(self) -> None:
        """Send what waits, stop publishing and close the socket."""
        if self._socket is not None and self._loop is not None:
            self._send_all()
            if self._timer is not None:
                self._timer.cancel()
            self._loop.remove_reader(self._socket.FD)
            self._socket.close(0)
            self._socket = self._loop = None

    def is_watched(self, topic: str) -> bool:
        """Whether anybody subscribes to the topic now."""
        name = topic.encode()
        return any(name.startswith(prefix) for prefix in self._subscribed)

    def publish(self, t: str, body: Body) -> None:
        """Put an event down for those who watch and for the topic's state; it goes out soon."""
        topic, model = EVENTS[t]
        assert isinstance(body, model), f"{t!r} is not {type(body).__name__}"
        watched = self.is_watched(topic)
        if isinstance(body, LineDelta):
            if body.line in self._speaking:
                self._speaking[body.line].pieces.append(body.text)
                return
            if not watched:
                self._seq[topic] += 1  # it is nobody's state, but who comes back sees the gap
                return
        event = _Event(t, body, time.time(), watched)
        if isinstance(body, LineDelta):
            event.pieces.append(body.text)
            self._speaking[body.line] = event
        self._waiting.append(event)
        if self._loop is None or (not watched and len(self._waiting) == 1):
            self._send_all()  # to nobody: it only counts, and becomes part of the state
        elif self._timer is None:
            self._timer = self._loop.call_later(HELD_S, self._send_some)

    def _send_some(self) -> None:
        """Send a few of the events that wait, and the rest in turns to come."""
        num_waiting = len(self._waiting)
        for _ in range(min(num_waiting, max(_TURN, num_waiting * _TURN // _FLOOD))):
            self._send(self._waiting.popleft())
        self._read()
        assert self._loop is not None
        more = bool(self._waiting)
        self._timer = self._loop.call_later(_PAUSE_S, self._send_some) if more else None

    def _send_all(self) -> None:
        while self._waiting:
            self._send(self._waiting.popleft())
        self._read()

    def _send(self, event: _Event) -> None:
        """Number an event, keep it as the topic's state, and send it to those who watch."""
        topic = EVENTS[event.t][0]
        if isinstance(event.body, LineDelta):
            del self._speaking[event.body.line]
        self._seq[topic] += 1
        envelope = Envelope(event.t, event.fields(), seq=self._seq[topic], time_s=event.time_s)
        self._keep(topic, envelope)
        if self._socket is not None and event.watched and self.is_watched(topic):
            self.num_published += 1
            frames = [topic.encode(), PROTOCOL, encode(envelope)]
            self._socket.send_multipart(frames, zmq.DONTWAIT)

    def _keep(self, topic: str, envelope: Envelope) -> None:
        document = {
            "t": envelope.t,
            "seq": envelope.seq,
            "time_s": envelope.time_s,
            "body": envelope.body,
        }
        key = KEYED.get(envelope.t)
        if key is not None:
            self._latest.setdefault(topic, {})[envelope.t, envelope.body[key]] = document
        elif topic in KEPT:
            kept = self._recent.setdefault(topic, deque(maxlen=KEPT[topic]))
            kept.append(document)

    def state(self, topics: list[str]) -> dict[str, TopicState]:
        """What makes up these topics' state as of the last event sent; of all, if none is named."""
        return {
            topic: TopicState(
                seq=self._seq[topic],
                events=[*self._latest.get(topic, {}).values(), *self._recent.get(topic, ())],
            )
            for topic in (topics or sorted(self._seq))
            if topic in self._seq
        }

    def _read(self) -> None:
        """Take in who subscribes to what: one byte, 1 or 0, and the topic's first letters.

        libzmq's descriptor signals a change, which sending may use up: so also after sending.
        """
        while self._socket is not None:
            try:
                message = self._socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                return
            if message[:1] == b"\x01":
                self._subscribed.add(message[1:])
            else:
                self._subscribed.discard(message[1:])
