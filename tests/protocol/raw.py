"""A client below the client: frames as they are, for what no proper client would send."""

from __future__ import annotations

from typing import Any, Self

import msgpack
import zmq
import zmq.asyncio

from protocol.codec import PROTOCOL
from protocol.connection import Connection


class Raw:
    """A bare DEALER on one of a server's sockets."""

    def __init__(self, connection: Connection, *, socket: str = "work", **options: Any) -> None:
        self._context = zmq.asyncio.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        for name, value in options.items():
            self.socket.setsockopt(getattr(zmq, name), value)
        self.socket.connect(getattr(connection, socket))
        self._num_sent = 0
        self.session = ""
        self.token = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._context.destroy(0)

    async def send(self, t: str, body: dict[str, Any] | None = None, **fields: Any) -> str:
        """Send a request; returns its id."""
        self._num_sent += 1
        fields.setdefault("id", f"x{self._num_sent}")
        await self.send_frames(PROTOCOL, msgpack.packb({"t": t, "body": body or {}, **fields}))
        return str(fields["id"])

    async def send_frames(self, *frames: bytes) -> None:
        await self.socket.send_multipart(frames)

    async def receive(self, timeout_s: float = 60.0) -> dict[str, Any]:
        assert await self.socket.poll(round(timeout_s * 1000)), "no message came"
        name, frame = await self.socket.recv_multipart()
        assert name == PROTOCOL
        return dict(msgpack.unpackb(frame))

    async def ask(
        self, t: str, body: dict[str, Any] | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Send a request and return its terminal message; all before it is dropped."""
        request_id = await self.send(t, body, **fields)
        while True:
            message = await self.receive()
            if message.get("re") in (request_id, None) and message["t"] not in (
                "accepted",
                "delta",
            ):
                return message

    async def hello(self, **body: Any) -> dict[str, Any]:
        welcome = await self.ask("hello", body)
        self.session = welcome["body"].get("session", "")
        self.token = welcome["body"].get("token", "")
        return welcome
