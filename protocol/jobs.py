"""Requests being answered: runs the service, sends its replies, ends what must end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from protocol import logs
from protocol import messages as m
from protocol.codec import Envelope, encode
from protocol.errors import Code, FrameError, Refusal
from protocol.service import Peer, Request, Service
from protocol.session import Exchange, ServerSession, error_body
from protocol.sessions import IdempotencyKeys

log = logging.getLogger("biblioteca.wire")
_EXPIRY_GRACE_S = 0.05  # lets a service that answers just in time be heard
_NOT_KEPT = {Code.CANCELLED, Code.EXPIRED, Code.BUSY, Code.UNAVAILABLE, Code.DRAINING}


class Link(Protocol):
    """One client's connection."""

    user: str
    session: ServerSession | None

    @property
    def full(self) -> bool:
        """Whether the client's connection takes no more for now."""
        ...

    def send(self, frame: bytes) -> None:
        """Send an encoded envelope; never blocks."""
        ...

    def attach(self, session: ServerSession) -> None:
        """Belong to this session from now on."""
        ...

    def detach(self) -> None:
        """Belong to no session."""
        ...


class _Nowhere:
    """The link of a request whose client is gone but may come back."""

    user = ""
    session: ServerSession | None = None
    full = True

    def send(self, frame: bytes) -> None:
        """Nobody is there; the exchange has it on record."""

    def attach(self, session: ServerSession) -> None:
        """Nothing to do."""

    def detach(self) -> None:
        """Nothing to do."""


NOWHERE: Link = _Nowhere()


@dataclass(eq=False, slots=True)
class Job:
    """A request being answered."""

    exchange: Exchange
    link: Link
    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None


class Jobs:
    """All requests of a server that have not ended, and the idempotency keys of those that have.

    Attributes:
        counters: requests, refused, deltas: since start.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.counters: Counter[str] = Counter()
        self._idem = IdempotencyKeys()
        self._jobs: dict[tuple[str, str], Job] = {}  # by session id and request id
        self._keys = itertools.count(1)
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._jobs)

    def find(self, session: ServerSession, request_id: str) -> Job | None:
        """The open request of that id."""
        return self._jobs.get((session.id, request_id))

    def of(self, session: ServerSession) -> list[Job]:
        """A session's open requests."""
        jobs = (self._jobs.get((session.id, request_id)) for request_id in list(session.open))
        return [job for job in jobs if job is not None]

    def start(
        self, link: Link, session: ServerSession, envelope: Envelope, body: m.Body, now: float
    ) -> None:
        """Run a request.

        Raises:
            Refusal: the session has too many, or the id is taken.
        """
        exchange = session.begin(f"r{next(self._keys)}", envelope, now)
        self._idem.keep(session.user, exchange, now)
        job = Job(exchange, link)
        assert envelope.id is not None
        self._jobs[session.id, envelope.id] = job
        deadline_s = None
        if envelope.ttl_ms is not None:
            deadline_s = now + envelope.ttl_ms / 1000
            expired = Refusal(Code.EXPIRED, f"not done within {envelope.ttl_ms} ms")
            job.timer = self._loop.call_at(deadline_s + _EXPIRY_GRACE_S, self.stop, job, expired)
        peer = Peer(session.id, session.role, session.user, session.client)
        request = Request(exchange.key, envelope.t, body, deadline_s)
        job.task = self._loop.create_task(self._answer(job, peer, request))

    async def _answer(self, job: Job, peer: Peer, request: Request) -> None:
        """Run the service on one request; whatever happens, the exchange ends."""
        logs.request.set(request.key)
        began_s = self._loop.time()
        refusal = Refusal(Code.INTERNAL, "the service ended without an answer")
        replies = self.service.handle(peer, request)
        try:
            async for body in replies:
                self._reply(job, body)
        except asyncio.CancelledError:
            # `_stop` has ended the exchange; only a loop that closes gets here otherwise.
            refusal = Refusal(Code.CANCELLED, "the server stopped the request")
        except Refusal as error:
            refusal = error
        except Exception as error:  # a fault of the service must not reach other requests
            log.exception("%s of %s failed", request.type, peer.user)
            refusal = Refusal(Code.INTERNAL, f"{type(error).__name__} in the service; see its log")
        finally:
            await _close(replies)
            self._end(job, refusal)
            if log.isEnabledFor(logging.DEBUG):
                _log_end(peer, job.exchange, self._loop.time() - began_s)

    def _reply(self, job: Job, body: m.Body) -> None:
        if not job.exchange.running:
            return  # ended already: cancelled or expired
        if isinstance(body, m.Delta):
            self.counters["deltas"] += 1
            self._send(job, "delta", dump(body))
        elif isinstance(body, m.Accepted):
            self._send(job, "accepted", dump(body))
        else:
            self._send(job, "done", dump(body))

    def _send(self, job: Job, t: str, body: dict[str, Any]) -> None:
        session = job.exchange.session
        session.blocked = job.link.full
        for envelope in session.send(job.exchange, t, body, self._loop.time()):
            transmit(job.link, envelope)

    def flush(self, job: Job) -> None:
        """Send what is held back, as far as credit and connection allow."""
        session = job.exchange.session
        session.blocked = job.link.full
        for envelope in session.flush(job.exchange):
            transmit(job.link, envelope)

    def stop(self, job: Job, refusal: Refusal) -> None:
        """End a request before its service does."""
        self._end(job, refusal)
        if job.task is not None:
            job.task.cancel()

    def _end(self, job: Job, refusal: Refusal) -> None:
        exchange = job.exchange
        session = exchange.session
        if exchange.running:
            self.counters["refused"] += 1
            self._send(job, "error", error_body(refusal))
            if refusal.code in _NOT_KEPT:
                self._idem.drop(session.user, exchange)
        if job.timer is not None:
            job.timer.cancel()
        assert exchange.request.id is not None
        key = (session.id, exchange.request.id)
        if self._jobs.get(key) is job:
            del self._jobs[key]

    async def drain(self, seconds: float) -> None:
        """Let the open requests end; after that many seconds stop them."""
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        if not tasks:
            return
        await asyncio.wait(tasks, timeout=seconds)
        for job in list(self._jobs.values()):
            self.stop(job, Refusal(Code.DRAINING, "the server is shutting down"))
        await asyncio.wait(tasks, timeout=1)

    def resume(
        self,
        link: Link,
        session: ServerSession,
        envelope: Envelope,
        body: m.ResumeRequest,
        now: float,
    ) -> None:
        """Send a request's messages again, and from now on to this link.

        Raises:
            Refusal: `not_found`.
        """
        exchange = session.find(body.target, now)
        if exchange is None:
            raise Refusal(Code.NOT_FOUND, f"no request {body.target!r} is kept", field="target")
        reply = m.ResumeReply(running=exchange.running)
        transmit(link, Envelope("done", dump(reply), re=envelope.id))
        for message in exchange.messages(body.seq):
            transmit(link, message)
        job = self._jobs.get((session.id, body.target))
        if job is not None:
            job.link = link
            self.flush(job)

    def repeat(self, link: Link, session: ServerSession, envelope: Envelope, now: float) -> bool:
        """Answer a request that repeats another by its idem key; False if it is the first."""
        exchange = self._idem.find(session.user, envelope, now)
        if exchange is None:
            return False
        if not exchange.running:
            for message in exchange.sent:
                transmit(link, replace(message, re=envelope.id))
            return True
        assert exchange.request.id is not None
        assert envelope.id is not None
        job = self._jobs.pop((exchange.session.id, exchange.request.id))
        end, messages = session.adopt(exchange, envelope)
        transmit(job.link, end)
        job.link = link
        self._jobs[session.id, envelope.id] = job
        for message in messages:
            transmit(link, message)
        self.flush(job)
        return True


def _log_end(peer: Peer, exchange: Exchange, seconds: float) -> None:
    """One line about a request that has ended, with its ids on every layer."""
    last, asked = exchange.sent[-1], exchange.request
    outcome = last.body.get("code", last.t)
    fields = {
        "type": asked.t,
        "id": asked.id,
        "session": peer.session,
        "user": peer.user,
        "outcome": outcome,
        "ms": round(1000 * seconds),
        "line": last.body.get("line"),
    }
    text = f"{asked.t} {asked.id} of {peer.user} ended after {seconds:.3f} s: {outcome}"
    log.debug("%s", text, extra={"fields": fields})


def error_envelope(re: str | None, refusal: Refusal) -> Envelope:
    """A refusal as a message."""
    return Envelope("error", error_body(refusal), re=re)


def transmit(link: Link, envelope: Envelope) -> None:
    """Encode and send; what can't be encoded becomes an `internal` error."""
    try:
        frame = encode(envelope)
    except FrameError as error:
        log.error("%s", error)
        refusal = Refusal(Code.INTERNAL, "the answer could not be encoded")
        frame = encode(replace(error_envelope(envelope.re, refusal), seq=envelope.seq))
    link.send(frame)


def dump(body: m.Body) -> dict[str, Any]:
    """A body's fields; what is None is absent."""
    return body.model_dump(exclude_none=True)


async def _close(replies: AsyncIterator[m.Body]) -> None:
    aclose = getattr(replies, "aclose", None)
    if aclose is not None:
        with contextlib.suppress(asyncio.CancelledError):
            await aclose()
