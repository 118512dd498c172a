"""A link to a live server: connects, watches, and connects again when the server is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import cast

from protocol.administration import (
    AgentInfo,
    AgentsReply,
    AgentsRequest,
    LineInfo,
    LinesReply,
    LinesRequest,
)
from protocol.async_client import AsyncClient, Observation
from protocol.errors import NoServerError, ProtocolError, Refusal
from protocol.messages import Body
from protocol.wire import ClientConfig
from tui.seen import Seen
from tui.session import Sink

TOPICS = ["lines", "deltas", "agents", "adapters", "director", "stats", "log"]
CONFIG = ClientConfig(name="biblioteca console", timeout_s=3.0, heartbeat_s=1.0, resume_s=0.0)
LOOK_S = 0.5  # how often the connection itself is looked at
RETRY_S = 1.0
PAGE = 20  # agents or lines asked for at once: under a millisecond of the server's time


class LiveLink:
    """The console's connection, found through a server's connection file."""

    live = True

    def __init__(self, connection: Path | None = None, why: Callable[[], str] = lambda: "") -> None:
        """Use this connection file, or the one at the usual place.

        Args:
            connection: the file.
            why: asked when there is no server; what it says is told instead of the error.
        """
        self._why = why
        self.endpoint = str(connection) if connection else "the server on this machine"
        self._connection = connection
        self._client: AsyncClient | None = None
        self._pid = 0
        self._last_seq: dict[str, int] = {}

    async def run(self, see: Sink) -> None:
        """Connect, feed `see`, and begin anew whenever the server goes away.

        The connection file is read again each time, so a server that came back on other ports
        is found.
        """
        while True:
            try:
                async with AsyncClient(self._connection, CONFIG) as client:
                    await self._serve(client, see)
            except ProtocolError as error:
                see(Seen(time_s=time.time(), name="lost", about=self._why() or str(error)))
            await asyncio.sleep(RETRY_S)

    async def _serve(self, client: AsyncClient, see: Sink) -> None:
        """Watch until the server is gone.

        Raises:
            ProtocolError: it is.
        """
        if client.wire.connection.pid != self._pid:
            self._pid, self._last_seq = client.wire.connection.pid, {}
        self._client = client
        see(Seen(time_s=time.time(), name="connected", body=client.welcome))
        watching = asyncio.create_task(self._watch(client, see))
        try:
            while True:
                done, _ = await asyncio.wait({watching}, timeout=LOOK_S)
                if done and (error := watching.exception()) is not None:
                    raise error
                if not client.alive or not client.wire.connected:
                    raise NoServerError("the server went away")
                if done:
                    await asyncio.sleep(LOOK_S)
        finally:
            self._client = None  # before it closes: nobody may ask it any more
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self, client: AsyncClient, see: Sink) -> None:
        """Pass telemetry on; a role that may not watch sees only what it asks for."""
        greeted: set[str] = set()
        try:
            async for event in client.watch(TOPICS):
                self._pass_on(event, greeted, see)
        except Refusal as error:
            see(Seen(time_s=time.time(), name="unwatched", about=str(error)))

    def _pass_on(self, event: Observation, greeted: set[str], see: Sink) -> None:
        """See an event, unless it was seen before the connection was lost."""
        if event.replayed and event.seq <= self._last_seq.get(event.topic, 0):
            return
        now = time.time()
        if event.replayed and event.topic in greeted:
            greeted.discard(event.topic)  # one gap, however many events fill it
            see(Seen(time_s=now, name="gap", about=event.topic))
        elif not event.replayed:
            greeted.add(event.topic)
        self._last_seq[event.topic] = event.seq
        when = event.time_s if event.replayed else now
        see(Seen(time_s=when, name=event.type, body=event.body))

    def _now(self) -> AsyncClient:
        if self._client is None:
            raise NoServerError("there is no connection to the server now")
        return self._client

    async def request(self, kind: str, body: Body) -> Body:
        """Ask, and return the reply; what may be long is asked for a page at a time.

        A long answer in one piece would hold up the game's lines, which the same loop sends.

        Raises:
            ProtocolError: the server refused, or there is none.
        """
        if isinstance(body, AgentsRequest):
            return await self._agents(body)
        if isinstance(body, LinesRequest):
            return await self._lines(body)
        return cast(Body, await self._now().request(kind, body))

    async def _agents(self, body: AgentsRequest) -> AgentsReply:
        found, after = list[AgentInfo](), body.after
        while True:
            asked = AgentsRequest(after=after, limit=PAGE)
            page = cast(AgentsReply, await self._now().request("agents", asked))
            found += page.agents
            if len(page.agents) != PAGE:
                return page.model_copy(update={"agents": found})
            after = found[-1].agent

    async def _lines(self, body: LinesRequest) -> LinesReply:
        found, before = list[LineInfo](), body.before
        while len(found) < body.limit:
            limit = min(PAGE, body.limit - len(found))
            asked = body.model_copy(update={"before": before, "limit": limit})
            page = cast(LinesReply, await self._now().request("lines", asked))
            found += page.lines
            if len(page.lines) != limit:
                break
            before = found[-1].line
        return LinesReply(lines=found)

    async def stream(self, kind: str, body: Body) -> AsyncGenerator[Body, None]:
        """Ask for a line: `Accepted`, `Delta`s, then the reply. Closing it early cancels.

        Raises:
            ProtocolError: the server refused, or was lost.
        """
        parts = cast(AsyncGenerator[Body, None], self._now().stream(kind, body))
        async with aclosing(parts):
            async for part in parts:
                yield part
