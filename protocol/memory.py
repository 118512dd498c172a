"""A client and a server in one process, without sockets: for tests, of services too.

    pair = MemoryClient(Dispatcher(service))
    reply = await pair.request("say", SayRequest(agent="ottavia", text="Hello"))

Frames are encoded and decoded as on the wire, so nothing passes here that wouldn't pass there.
"""

from __future__ import annotations

import asyncio
from typing import Any

from protocol.calls import Call, Calls
from protocol.codec import PROTOCOL
from protocol.dispatch import Dispatcher
from protocol.messages import Body, HelloRequest
from protocol.session import ServerSession


class MemoryClient:
    """One client, and its link at the server.

    Args:
        dispatcher: the server.
        hello: how to open the session.
        user: who the client is, for a dispatcher with keys.
    """

    def __init__(
        self, dispatcher: Dispatcher, hello: HelloRequest | None = None, user: str = "local"
    ) -> None:
        self.user = user
        self.session: ServerSession | None = None
        self.full = False  # set it to play a client that doesn't read
        self.calls = Calls(
            hello or HelloRequest(), heartbeat_s=1.0, timeout_s=5.0, server="this process"
        )
        self._dispatcher = dispatcher
        self._loop = asyncio.get_running_loop()
        self.calls.greet()
        self._deliver()

    # --- the server's end ------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Take a frame from the server."""
        self.calls.receive([PROTOCOL, frame], self._loop.time())
        self._deliver()

    def attach(self, session: ServerSession) -> None:
        """Belong to this session from now on."""
        self.session = session

    def detach(self) -> None:
        """Belong to no session."""
        self.session = None

    # --- the client's end ------------------------------------------------------------------

    def start(
        self, t: str, body: Body, *, ttl_ms: int | None = None, idem: str | None = None
    ) -> Call:
        """Send a request and return its call at once."""
        call = self.calls.start(t, body, ttl_ms=ttl_ms, idem=idem)
        self._deliver()
        return call

    def note(self, t: str, body: Body) -> None:
        """Send a message that has no answer."""
        self.calls.note(t, body)
        self._deliver()

    async def wait(self, call: Call) -> Call:
        """Wait for a call's end."""
        ended = asyncio.Event()
        call.changed = lambda: ended.set() if call.ended else None
        call.changed()
        await ended.wait()
        return call

    async def request(self, t: str, body: Body, *, ttl_ms: int | None = None) -> Any:
        """Send a request and wait for its reply.

        Raises:
            Refusal: it ended in an error.
        """
        call = await self.wait(self.start(t, body, ttl_ms=ttl_ms))
        if call.error is not None:
            raise call.error
        return call.reply

    def lose(self) -> None:
        """Lose the connection."""
        session, self.session = self.session, None
        if session is not None:
            self._dispatcher.lost(self, session)

    def _deliver(self) -> None:
        while self.calls.outbox:
            frame = self.calls.outbox.popleft().frame
            self._dispatcher.take(self, [PROTOCOL, frame])
