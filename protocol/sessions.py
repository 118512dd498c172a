"""A server's sessions and idempotency keys: who is known, until when; no I/O."""

from __future__ import annotations

import secrets
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from hmac import compare_digest

from protocol.catalogue import Role
from protocol.codec import Envelope
from protocol.errors import Code, Refusal
from protocol.messages import HelloRequest
from protocol.session import Exchange, ServerSession

IDEM_KEPT_S = 600.0
IDEM_KEPT = 4_096


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionLimits:
    """How much one client, and one key, may take.

    Attributes:
        max_requests: open requests of one session.
        max_sessions_per_user: sessions of one key ("local" without keys).
        requests_per_s: sustained rate of one session; 0 is no limit. Bursts may be twice this.
        liveness_s: silence after which a session with open requests is dropped.
        idle_s: silence after which any session is dropped.
    """

    max_requests: int = 32
    max_sessions_per_user: int = 20_000
    requests_per_s: float = 0.0
    liveness_s: float = 30.0
    idle_s: float = 3_600.0


class Rate:
    """A token bucket holding two seconds' worth."""

    def __init__(self, per_s: float, now: float) -> None:
        self._per_s, self._at, self._tokens = per_s, now, 2 * per_s

    def take(self, now: float) -> None:
        """Take one token.

        Raises:
            Refusal: `busy`, there is none.
        """
        if not self._per_s:
            return
        self._tokens = min(2 * self._per_s, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        if self._tokens < 1:
            raise Refusal(
                Code.BUSY,
                f"more than {self._per_s:g} requests per second",
                retry_ms=round(1000 * (1 - self._tokens) / self._per_s) + 1,
            )
        self._tokens -= 1


class SessionTable:
    """All sessions, by id."""

    def __init__(self, limits: SessionLimits) -> None:
        self.limits = limits
        self._sessions: dict[str, ServerSession] = {}
        self._num_by_user: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[ServerSession]:
        return iter(list(self._sessions.values()))

    def open(self, hello: HelloRequest, user: str, role: Role, now: float) -> ServerSession:
        """The session a hello asks for: the one it names if that is still known, else a new one.

        Raises:
            Refusal: `forbidden` for a wrong token or another user's session, `busy` for too many.
        """
        known = self._sessions.get(hello.session or "")
        if known is not None:
            if known.user != user or not compare_digest(known.token, hello.token or ""):
                raise Refusal(Code.FORBIDDEN, "that session's token is another", field="token")
            known.heard_at = now
            return known
        if self._num_by_user[user] >= self.limits.max_sessions_per_user:
            raise Refusal(
                Code.BUSY,
                f"{user!r} has {self._num_by_user[user]} sessions; that is the most",
                retry_ms=5_000,
            )
        session = ServerSession(
            session_id=secrets.token_hex(8),
            token=secrets.token_hex(16),
            role=role,
            user=user,
            now=now,
            client=hello.client,
            credit=hello.credit,
            resume_ms=hello.resume_ms,
            max_requests=self.limits.max_requests,
            rate=Rate(self.limits.requests_per_s, now).take,
        )
        self._sessions[session.id] = session
        self._num_by_user[user] += 1
        return session

    def remove(self, session: ServerSession) -> None:
        """Forget a session."""
        if self._sessions.pop(session.id, None):
            self._num_by_user[session.user] -= 1
            if not self._num_by_user[session.user]:
                del self._num_by_user[session.user]

    def overdue(self, now: float) -> list[ServerSession]:
        """Sessions that have been silent, or without a connection, for too long."""

        def is_overdue(session: ServerSession) -> bool:
            silent_s = now - session.heard_at
            if session.lost_at is not None and now - session.lost_at >= session.resume_s:
                return True
            return silent_s > (self.limits.liveness_s if session.open else self.limits.idle_s)

        return [session for session in self._sessions.values() if is_overdue(session)]


class IdempotencyKeys:
    """Which exchange a key stands for, per user."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], tuple[float, Exchange]] = OrderedDict()

    def find(self, user: str, request: Envelope, now: float) -> Exchange | None:
        """The exchange that this request repeats, if any.

        Raises:
            Refusal: `conflict`, the key stands for another request.
        """
        self._forget(now)
        kept = self._kept.get((user, request.idem or ""))
        if kept is None:
            return None
        first = kept[1].request
        if (first.t, first.body) != (request.t, request.body):
            raise Refusal(
                Code.CONFLICT, f"the idem key {request.idem!r} was used for another request"
            )
        return kept[1]

    def keep(self, user: str, exchange: Exchange, now: float) -> None:
        """Remember the exchange under its request's key."""
        if exchange.request.idem is not None:
            self._kept[user, exchange.request.idem] = (now, exchange)
            self._forget(now)

    def drop(self, user: str, exchange: Exchange) -> None:
        """Forget an exchange that never came to an answer worth keeping."""
        key = (user, exchange.request.idem or "")
        if key in self._kept and self._kept[key][1] is exchange:
            del self._kept[key]

    def _forget(self, now: float) -> None:
        while self._kept:
            since, _ = next(iter(self._kept.values()))
            if len(self._kept) <= IDEM_KEPT and now - since <= IDEM_KEPT_S:
                return
            self._kept.popitem(last=False)
