"""A client below the client: sends what it is told, also what no proper client would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgpack
import zmq

from protocol.codec import PROTOCOL, decode_map
from protocol.connection import Connection
from protocol.wire import dial


class Failed(AssertionError):
    """A server or a client doesn't do what SPEC.md says."""


def expect(condition: object, sentence: str) -> None:
    """Fail with the sentence unless the condition holds.

    Raises:
        Failed: it doesn't.
    """
    if not condition:
        raise Failed(sentence)


Message = dict[str, Any]


class Transport(Protocol):
    """Carries frames to one of a server's sockets and back, whatever lies between."""

    def send(self, frames: Sequence[bytes]) -> None:
        """Send a message's frames."""

    def receive(self, timeout_s: float) -> list[bytes] | None:
        """The next message's frames; None if there is none for so long."""

    def close(self) -> None:
        """Cut the connection."""


class OverZeroMQ:
    """A DEALER on one of the server's sockets.

    Args:
        connection: where the server is.
        channel: "work" or "control".
    """

    def __init__(self, connection: Connection, channel: str = "work") -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = dial(self._context, zmq.DEALER, getattr(connection, channel), connection)

    def send(self, frames: Sequence[bytes]) -> None:
        """Send a message's frames."""
        self._socket.send_multipart(frames)

    def receive(self, timeout_s: float) -> list[bytes] | None:
        """The next message's frames; None if there is none for so long."""
        if not self._socket.poll(round(timeout_s * 1000)):
            return None
        return self._socket.recv_multipart()

    def close(self) -> None:
        """Cut the connection, without a bye."""
        self._context.destroy(0)


class Probe:
    """One client, with or without a session.

    Args:
        where: the server, or a way to it.
        channel: "work" or "control", where `where` is a connection.
        timeout_s: how long an answer may take.
    """

    def __init__(
        self, where: Connection | Transport, channel: str = "work", timeout_s: float = 60
    ) -> None:
        self._line = OverZeroMQ(where, channel) if isinstance(where, Connection) else where
        self._timeout_s = timeout_s
        self._num_sent = 0
        self.welcome: Message = {}

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cut the connection, without a bye."""
        self._line.close()

    def send(self, t: str, body: Message | None = None, **fields: Any) -> str:
        """Send a message; returns its id."""
        self._num_sent += 1
        fields.setdefault("id", f"p{self._num_sent}")
        self.send_frames(PROTOCOL, msgpack.packb({"t": t, "body": body or {}, **fields}))
        return str(fields["id"])

    def send_frames(self, *frames: bytes) -> None:
        """Send any frames."""
        self._line.send(frames)

    def receive(self) -> Message:
        """The next message.

        Raises:
            Failed: none comes, or it isn't one.
        """
        frames = self._line.receive(self._timeout_s)
        if frames is None:
            raise Failed("no answer came in time")
        expect(len(frames) == 2 and frames[0] == PROTOCOL, f"answered with frames {frames!r}"[:200])
        return decode_map(frames[1])

    def finish(self, request_id: str) -> list[Message]:
        """All messages of a request up to its terminal one; others are passed over."""
        messages: list[Message] = []
        while not messages or messages[-1]["t"] not in ("done", "error", "welcome", "pong"):
            message = self.receive()
            if message.get("re") == request_id:
                messages.append(message)
        return messages

    def ask(self, t: str, body: Message | None = None, **fields: Any) -> Message:
        """Send a request and return its terminal message."""
        return self.finish(self.send(t, body, **fields))[-1]

    def hello(self, **body: Any) -> Message:
        """Open a session.

        Raises:
            Failed: the server doesn't welcome us.
        """
        answer = self.ask("hello", {"versions": [1], "client": "conform", **body})
        expect(answer["t"] == "welcome", f"hello was answered by {answer}")
        self.welcome = dict(answer["body"])
        return self.welcome


def code(message: Message) -> str:
    """An error's code; other messages give their type."""
    return str(message["body"]["code"]) if message["t"] == "error" else str(message["t"])
