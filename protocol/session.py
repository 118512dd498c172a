"""The legal order of messages, kept by both sides; no I/O, and the clock is passed in.

Two rules (SPEC.md sections 3 to 5):

1. Every request ends in exactly one terminal message, and nothing of it follows.
2. A stream's deltas and its terminal message are numbered from 0 without a gap, in the order in
   which they are sent.

Theory of operation. An `Order` is where one request stands; `TRANSITIONS` is all it may do. The
server wraps it in an `Exchange`, which also keeps what was sent (for `resume` and idempotency)
and what is held back (for slow readers); a `ServerSession` keeps a client's exchanges and its
credit. Its methods return the envelopes to send now, and whoever owns the socket sends them. A
`ClientSession` makes ids and checks what arrives.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

from protocol.catalogue import REQUESTS, Role
from protocol.codec import Envelope
from protocol.errors import Code, FrameError, OrderError, Refusal

ENDED_KEPT_S = 60.0
ENDED_KEPT = 64
BUSY_RETRY_MS = 250


class State(Enum):
    """Where a request stands."""

    WAITING = auto()
    ACCEPTED = auto()
    SPEAKING = auto()
    ENDED = auto()


_STREAM_ENDS = {"done": State.ENDED, "error": State.ENDED}
TRANSITIONS: dict[State, dict[str, State]] = {
    State.WAITING: {"accepted": State.ACCEPTED, "delta": State.SPEAKING, **_STREAM_ENDS},
    State.ACCEPTED: {"delta": State.SPEAKING, **_STREAM_ENDS},
    State.SPEAKING: {"delta": State.SPEAKING, **_STREAM_ENDS},
    State.ENDED: {},
}


class Order:
    """One request's place in the order of messages."""

    def __init__(self, request_type: str) -> None:
        entry = REQUESTS.get(request_type)
        self.is_stream = entry is not None and entry.stream
        self._answer = entry.answer if entry else "done"
        self.state = State.WAITING
        self.next_seq = 0

    def allows(self, t: str) -> bool:
        """Whether a message of this type may come now."""
        if self.is_stream:
            return t in TRANSITIONS[self.state]
        return self.state is State.WAITING and t in (self._answer, "error")

    def advance(self, t: str) -> int | None:
        """Take the step and return the message's `seq`, None where it carries none.

        Raises:
            OrderError: the step isn't allowed.
        """
        if not self.allows(t):
            raise OrderError(f"{t!r} can't come while the request is {self.state.name}")
        self.state = TRANSITIONS[self.state][t] if self.is_stream else State.ENDED
        if not self.is_stream or t == "accepted":
            return None
        self.next_seq += 1
        return self.next_seq - 1


def error_body(refusal: Refusal) -> dict[str, Any]:
    """A refusal as the body of an error message."""
    fields = {
        "code": refusal.code,
        "message": refusal.message,
        "retryable": refusal.retryable,
        "retry_ms": refusal.retry_ms,
        "field": refusal.field,
    }
    return {name: value for name, value in fields.items() if value is not None}


# --- the server's side ---------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class Exchange:
    """One request at the server: what was asked, what was sent, what is held back."""

    key: str
    session: ServerSession
    request: Envelope
    order: Order
    sent: list[Envelope] = field(default_factory=list)
    held: list[dict[str, Any]] = field(default_factory=list)
    ended_at: float | None = None

    @property
    def running(self) -> bool:
        """Whether its terminal message is still to come."""
        return self.order.state is not State.ENDED

    def emit(self, t: str, body: dict[str, Any]) -> Envelope:
        """The next message, in order and on record."""
        seq = self.order.advance(t)
        envelope = Envelope(t, body, re=self.request.id, seq=seq)
        self.sent.append(envelope)
        return envelope

    def hold(self, delta: dict[str, Any]) -> bool:
        """Keep a delta for later; True if it was merged with the one before it."""
        if self.held and self.held[-1].get("agent") == delta.get("agent"):
            merged = self.held[-1]["text"] + delta["text"]
            self.held[-1] = {**self.held[-1], **delta, "text": merged}
            return True
        self.held.append(delta)
        return False

    def release(self) -> list[Envelope]:
        """Everything held back, as messages."""
        held, self.held = self.held, []
        return [self.emit("delta", body) for body in held]

    def messages(self, seq: int = 0) -> list[Envelope]:
        """What was sent, from this number on; `accepted` comes along from 0."""
        return [e for e in self.sent if (seq == 0 if e.seq is None else e.seq >= seq)]


class ServerSession:
    """One client's open requests, ended ones, and credit."""

    def __init__(
        self,
        *,
        session_id: str,
        token: str,
        role: Role,
        user: str,
        now: float,
        client: str = "",
        credit: int | None = None,
        resume_ms: int = 0,
        max_requests: int = 32,
        rate: Callable[[float], None] | None = None,
    ) -> None:
        self.id, self.token = session_id, token
        self.role, self.user, self.client = role, user, client
        self._rate = rate
        self.credit = credit
        self.resume_s = resume_ms / 1000
        self.max_requests = max_requests
        self.heard_at = now
        self.lost_at: float | None = None  # when its last connection was lost
        self.blocked = False  # the connection is full: hold deltas back whatever the credit
        self.num_merged = 0
        self.open: dict[str, Exchange] = {}
        self.ended: OrderedDict[str, Exchange] = OrderedDict()

    def begin(self, key: str, request: Envelope, now: float) -> Exchange:
        """Put a request on record.

        Raises:
            Refusal: `duplicate` or `busy`.
        """
        assert request.id is not None
        if self._rate is not None:
            self._rate(now)
        self.forget(now)
        if request.id in self.open or request.id in self.ended:
            raise Refusal(Code.DUPLICATE, f"the id {request.id!r} was used before")
        if len(self.open) >= self.max_requests:
            raise Refusal(
                Code.BUSY,
                f"{len(self.open)} requests of this session are open; the most is "
                f"{self.max_requests}",
                retry_ms=BUSY_RETRY_MS,
            )
        exchange = Exchange(key, self, request, Order(request.t))
        self.open[request.id] = exchange
        return exchange

    def send(self, exchange: Exchange, t: str, body: dict[str, Any], now: float) -> list[Envelope]:
        """Record a message of the exchange; returns the envelopes to send now.

        Raises:
            OrderError: the exchange doesn't allow it.
        """
        if t == "delta":
            return self._send_delta(exchange, body)
        if t == "accepted":
            return [exchange.emit(t, body)]
        envelopes = exchange.release() if exchange.held else []
        envelopes.append(exchange.emit(t, body))
        self._retire(exchange, now)
        return envelopes

    def _send_delta(self, exchange: Exchange, body: dict[str, Any]) -> list[Envelope]:
        if not exchange.order.allows("delta"):
            exchange.order.advance("delta")  # raises
        if self.blocked or self.credit == 0 or exchange.held:
            self.num_merged += exchange.hold(body)
            return self.flush(exchange)
        if self.credit is not None:
            self.credit -= 1
        return [exchange.emit("delta", body)]

    def flush(self, exchange: Exchange) -> list[Envelope]:
        """Send held text as far as credit goes."""
        envelopes: list[Envelope] = []
        while exchange.held and not self.blocked and self.credit != 0:
            envelopes.append(exchange.emit("delta", exchange.held.pop(0)))
            if self.credit is not None:
                self.credit -= 1
        return envelopes

    def grant(self, deltas: int) -> None:
        """Take credit from the client."""
        if self.credit is not None:
            self.credit += deltas

    def find(self, request_id: str, now: float) -> Exchange | None:
        """An open exchange, or one that ended lately."""
        self.forget(now)
        return self.open.get(request_id) or self.ended.get(request_id)

    def adopt(self, exchange: Exchange, request: Envelope) -> tuple[Envelope, list[Envelope]]:
        """Move a running exchange here, under a new request's id, from the start.

        Returns:
            The error that ends it under its old id, and its messages so far under the new one.
        """
        old = exchange.request.id
        assert request.id is not None
        assert old is not None
        del exchange.session.open[old]
        exchange.session, exchange.request = self, request
        exchange.sent = [replace(e, re=request.id) for e in exchange.sent]
        self.open[request.id] = exchange
        moved = Refusal(Code.CONFLICT, f"the request goes on under the id {request.id!r}")
        seq = exchange.order.next_seq if exchange.order.is_stream else None
        return Envelope("error", error_body(moved), re=old, seq=seq), list(exchange.sent)

    def _retire(self, exchange: Exchange, now: float) -> None:
        assert exchange.request.id is not None
        self.open.pop(exchange.request.id, None)
        exchange.ended_at = now
        self.ended[exchange.request.id] = exchange
        self.forget(now)

    def forget(self, now: float) -> None:
        """Drop what ended long ago."""
        while self.ended:
            oldest = next(iter(self.ended.values()))
            assert oldest.ended_at is not None
            if len(self.ended) <= ENDED_KEPT and now - oldest.ended_at <= ENDED_KEPT_S:
                return
            self.ended.popitem(last=False)


# --- the client's side ---------------------------------------------------------------------


class ClientSession:
    """A client's open requests; makes their ids and checks the order of what arrives."""

    def __init__(self) -> None:
        self.id: str | None = None
        self.token: str | None = None
        self._num_requests = 0
        self._orders: dict[str, Order] = {}

    @property
    def open(self) -> Iterable[str]:
        """Ids of requests whose end is still to come."""
        return self._orders.keys()

    def request(
        self,
        t: str,
        body: dict[str, Any],
        *,
        ttl_ms: int | None = None,
        idem: str | None = None,
    ) -> Envelope:
        """A new request under a fresh id."""
        self._num_requests += 1
        request_id = f"c{self._num_requests}"
        self._orders[request_id] = Order(t)
        return Envelope(t, body, id=request_id, ttl_ms=ttl_ms, idem=idem)

    def receive(self, envelope: Envelope) -> str | None:
        """Check a message; returns the id of its request, None where nobody waits for it.

        Raises:
            FrameError: it breaks the order: a gap, a second end, a delta of no stream.
        """
        order = self._orders.get(envelope.re or "")
        if order is None or envelope.re is None:
            return None
        if order.is_stream and envelope.seq is not None and envelope.seq < order.next_seq:
            return None  # seen before the connection was lost
        if order.is_stream and envelope.t == "accepted" and order.state is not State.WAITING:
            return None  # likewise
        try:
            seq = order.advance(envelope.t)
        except OrderError as error:
            raise FrameError(f"request {envelope.re}: {error}") from error
        is_refusal = envelope.t == "error" and envelope.seq is None  # it never began
        if seq is not None and envelope.seq != seq and not is_refusal:
            raise FrameError(f"request {envelope.re}: seq is {envelope.seq}; {seq} was next")
        if order.state is State.ENDED:
            del self._orders[envelope.re]
        return envelope.re

    def drop(self, request_id: str) -> None:
        """Stop waiting for a request."""
        self._orders.pop(request_id, None)

    def next_seq(self, request_id: str) -> int:
        """The number of the message that an open request gets next; 0 while it has said nothing."""
        return self._orders[request_id].next_seq
