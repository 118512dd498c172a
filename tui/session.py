"""What all screens share: the store, the link to the server, and what is being looked at."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from protocol.errors import ProtocolError, Refusal
from protocol.messages import Accepted, Body, Delta
from protocol.telemetry import LineDelta, LineFailed
from tui.seen import Seen
from tui.store import Store

Sink = Callable[[Seen], None]
# Kept from these requests' replies; the rest only matters to whoever asked.
_REMEMBERED = {
    "agents", "lines", "inspect", "adapters", "director", "memory", "lore", "saves", "read",
    "stats",
}  # fmt: skip
_MISSING = {"unknown_type", "unsupported", "forbidden"}


class Link(Protocol):
    """Where messages come from: a server, or a recording of one."""

    endpoint: str
    live: bool

    async def run(self, see: Sink) -> None:
        """Feed `see` until cancelled: connect, watch, lose the server, connect again."""
        ...

    async def request(self, kind: str, body: Body) -> Body:
        """Ask once, and return the reply.

        Raises:
            ProtocolError: the server refused, or there is none.
        """
        ...

    def stream(self, kind: str, body: Body) -> AsyncGenerator[Body, None]:
        """Ask for a line: `Accepted`, `Delta`s, then the reply. Closing it early cancels."""
        ...


class Session:
    """The console's shared state, and the one place through which things are seen."""

    def __init__(self, link: Link, record: Sink | None = None) -> None:
        """Start with nothing seen; `record` gets everything that is."""
        self.link = link
        self.store = Store()
        self.agent = ""
        self.line = ""
        self.log_filter = ""
        self.missing: dict[str, str] = {}
        self.changed: Callable[[], None] = lambda: None
        self._record = record
        self._num_asked = 0
        self._newest: dict[tuple[str, str], int] = {}

    def see(self, seen: Seen) -> None:
        """Take something in, write it down, and let the screens know."""
        if self._record is not None:
            self._record(seen)
        if seen.name == "connected":
            self.missing.clear()
        self.store.see(seen)
        self.changed()

    def note(self, name: str, about: str = "", body: Body | None = None) -> None:
        """See something that comes from the console itself."""
        self.see(Seen(time_s=time.time(), name=name, body=body, about=about))

    def look_at(self, agent: str = "", line: str = "") -> None:
        """Choose the agent and line that every screen speaks of; a line brings its agent."""
        if line and (known := self.store.lines.get(line)):
            agent = known.agent
        if agent and agent != self.agent:
            self.agent, self.line = agent, line
        elif line:
            self.line = line
        self.store.revisions["subject"] += 1
        self.changed()

    def choose_agent(self) -> str:
        """The agent looked at; a character is taken where none has been chosen."""
        if not self.agent:
            tiers = {info.tier: key for key, info in reversed(self.store.agents.items())}
            self.agent = tiers.get("npc") or next(iter(tiers.values()), "")
        return self.agent

    async def request(self, kind: str, body: Body, about: str = "") -> Body:
        """Ask the server, and remember what the store has a place for.

        An answer that comes after that to a later request of the same kind about the same thing
        is older than what is known, so it is returned but not remembered.

        Raises:
            ProtocolError: as the link does; what a server doesn't offer is kept in `missing`.
        """
        self._num_asked += 1
        number = self._num_asked
        try:
            reply = await self.link.request(kind, body)
        except Refusal as error:
            if error.code in _MISSING and kind not in self.missing:
                self.missing[kind] = error.message
                self.store.revisions["subject"] += 1
                self.changed()
            raise
        self.missing.pop(kind, None)
        if kind in _REMEMBERED and number > self._newest.get((kind, about), 0):
            self._newest[kind, about] = number
            self.note(kind, about, reply)
        return reply

    async def speak(self, kind: str, body: Body) -> AsyncGenerator[Body, None]:
        """Ask for a line; its pieces are seen as telemetry's are.

        Raises:
            ProtocolError: as the link does; a line already begun is marked as failed.
        """
        accepted: Accepted | None = None
        try:
            async for part in self.link.stream(kind, body):
                if isinstance(part, Accepted):
                    accepted = part
                    self.note("accepted", body=part)
                elif isinstance(part, Delta) and accepted is not None:
                    agent = part.agent or accepted.agent
                    piece = LineDelta(line=accepted.line, agent=agent, text=part.text)
                    self.note("piece", body=piece)
                elif not isinstance(part, Delta):
                    self.note("answered", body=part)
                yield part
        except ProtocolError as error:
            if accepted is not None:
                self._failed(accepted, error)
            raise

    def _failed(self, accepted: Accepted, error: ProtocolError) -> None:
        """Mark a line as failed, unless telemetry has done so already."""
        line = self.store.lines.get(accepted.line)
        if line is not None and line.state == "speaking":
            code = getattr(error, "code", "lost")
            failed = LineFailed(line=line.line, agent=line.agent, code=code, message=str(error))
            self.note("line_failed", body=failed)
