"""What stands behind a server: the one interface that answers requests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from protocol.catalogue import Role
from protocol.messages import Body


@dataclass(frozen=True, slots=True)
class Peer:
    """Who asks: one session.

    Attributes:
        session: the session's id.
        role: what it may do; the server has checked it already.
        user: name of its key, or "local" without keys.
        client: what it calls itself; only for logs.
    """

    session: str
    role: Role
    user: str
    client: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, checked against its type.

    Attributes:
        key: unique among all requests of this server's life; for logs and engines.
        type: its `t`, such as "say".
        body: of the type that the catalogue names for `type`.
        deadline_s: on the event loop's clock, when the server gives up; None waits for ever.
    """

    key: str
    type: str
    body: Body
    deadline_s: float | None = None


class Service(Protocol):
    """Answers requests.

    `handle` yields at most one `Accepted`, then any number of `Delta`, then exactly one body of
    the catalogue's reply type; requests that are no streams yield just that one. It raises
    `Refusal` to end with an error. Both `asyncio.CancelledError` (raised inside it) and
    `aclose()` mean that the request was cancelled, has expired, or that its client is gone:
    release everything in `finally`. Requests run at the same time, each in a task of its own.
    """

    def handle(self, peer: Peer, request: Request) -> AsyncIterator[Body]:
        """Answer one request."""
        ...
