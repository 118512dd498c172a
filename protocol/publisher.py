"""Telemetry: numbered events on an XPUB socket, and the state a late watcher starts from."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any

import zmq

from protocol.codec import PROTOCOL, Envelope, encode
from protocol.messages import Body
from protocol.operation import TopicState
from protocol.telemetry import EVENTS, KEPT, KEYED


class Publisher:
    """Numbers events per topic, keeps the state, sends while somebody watches."""

    def __init__(self) -> None:
        self._socket: zmq.Socket[bytes] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watched: set[bytes] = set()
        self._seq: dict[str, int] = {topic: 0 for topic, _ in EVENTS.values()}
        self._latest: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        self._recent: dict[str, deque[dict[str, Any]]] = {}
        self.num_published = 0

    def attach(self, socket: zmq.Socket[bytes], loop: asyncio.AbstractEventLoop) -> None:
        """Publish on this bound XPUB socket from now on."""
        self._socket, self._loop = socket, loop
        loop.add_reader(socket.FD, self._read)
        self._read()

    def close(self) -> None:
        """Stop publishing and close the socket."""
        if self._socket is not None and self._loop is not None:
            self._loop.remove_reader(self._socket.FD)
            self._socket.close(0)
            self._socket = None

    def is_watched(self, topic: str) -> bool:
        """Whether anybody subscribes to the topic now."""
        name = topic.encode()
        return any(name.startswith(prefix) for prefix in self._watched)

    def publish(self, t: str, body: Body) -> None:
        """Number an event, keep it as the topic's state, and send it to those who watch."""
        topic, model = EVENTS[t]
        assert isinstance(body, model), f"{t!r} is not {type(body).__name__}"
        self._seq[topic] += 1
        envelope = Envelope(
            t, body.model_dump(exclude_none=True), seq=self._seq[topic], time_s=time.time()
        )
        self._keep(topic, envelope)
        if self._socket is not None and self.is_watched(topic):
            self.num_published += 1
            frames = [topic.encode(), PROTOCOL, encode(envelope)]
            self._socket.send_multipart(frames, zmq.DONTWAIT)
            self._read()

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
        """What makes up the present state of these topics; of all, if none is named."""
        return {
            topic: TopicState(
                seq=self._seq[topic],
                events=[*self._latest.get(topic, {}).values(), *self._recent.get(topic, ())],
            )
            for topic in (topics or sorted(self._seq))
            if topic in self._seq
        }

    def _read(self) -> None:
        """Take in who subscribes to what: one byte, 1 or 0, and the topic's first letters."""
        while self._socket is not None:
            try:
                message = self._socket.recv(zmq.DONTWAIT)
            except zmq.Again:
                return
            if message[:1] == b"\x01":
                self._watched.add(message[1:])
            else:
                self._watched.discard(message[1:])
