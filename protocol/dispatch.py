"""What happens to each message a server receives; knows links and sessions, no sockets.

One `Dispatcher` stands between all links of a server and its service. It runs on one event loop
and is called on that loop only.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, cast

from pydantic import ValidationError

from protocol import messages as m
from protocol.administration import GatewayInfo
from protocol.catalogue import NOTES, REQUESTS, ROLES, Entry, Role, allowed
from protocol.codec import Envelope, decode
from protocol.errors import Code, FrameError, Refusal, first_fault
from protocol.jobs import NOWHERE, Jobs, Link, dump, error_envelope, transmit
from protocol.keys import KeyStore
from protocol.metrics import Observed
from protocol.operation import KeysRequest, SnapshotReply, SnapshotRequest
from protocol.publisher import Publisher
from protocol.service import Service
from protocol.session import ServerSession
from protocol.sessions import SessionLimits, SessionTable

audit = logging.getLogger("biblioteca.audit")


Builtin = Callable[[Link, ServerSession, m.Body], m.Body]


class Dispatcher:
    """Sessions and requests of one server.

    Args:
        service: answers what the server doesn't answer itself.
        keys: the clients' keys and roles; without it every client is an admin.
        publisher: telemetry, for `snapshot`.
        limits: told to clients in the welcome.
        session_limits: how much a client may take.
        world: the world's title; `server`: what the server calls itself.
    """

    def __init__(
        self,
        service: Service,
        *,
        keys: KeyStore | None = None,
        publisher: Publisher | None = None,
        limits: m.Limits | None = None,
        session_limits: SessionLimits | None = None,
        world: str = "",
        server: str = "",
    ) -> None:
        self.observed = Observed(service, self.gateway_info)
        self.jobs = Jobs(self.observed)
        self.keys = keys
        self.publisher = publisher or Publisher()
        self.limits = limits or m.Limits()
        self.world, self.server = world, server
        self.sessions = SessionTable(session_limits or SessionLimits())
        self.draining = False
        self.counters: Counter[str] = Counter()
        self.builtins: dict[str, Builtin] = {
            "ping": self._ping,
            "cancel": self._cancel,
            "snapshot": self._snapshot,
            "keys": self._manage_keys,
        }
        self._links: dict[str, set[Link]] = {}  # by session id
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()

    # --- what links report -----------------------------------------------------------------

    def take(self, link: Link, frames: Sequence[bytes]) -> None:
        """Take one message's frames from a client."""
        try:
            envelope = decode(frames, self.limits)
        except FrameError as error:
            self.refuse_frame(link, error)
        else:
            self.receive(link, envelope)

    def refuse_frame(self, link: Link, error: FrameError) -> None:
        """Answer bytes that are no message."""
        self.counters["bad_frames"] += 1
        transmit(link, error_envelope(error.request_id, Refusal(error.code, str(error))))

    def receive(self, link: Link, envelope: Envelope) -> None:
        """Take one message from a client."""
        try:
            self._receive(link, envelope)
        except Refusal as refusal:
            self.jobs.counters["refused"] += 1
            # `duplicate` must not look like the end of the request that has the id.
            re = None if refusal.code == Code.DUPLICATE else envelope.id
            transmit(link, error_envelope(re, refusal))

    def lost(self, link: Link, session: ServerSession) -> None:
        """A link's connection is gone."""
        links = self._links.get(session.id, set())
        links.discard(link)
        for job in self.jobs.of(session):
            if job.link is link:
                if session.resume_s:
                    job.link = NOWHERE
                else:
                    self.jobs.stop(job, Refusal(Code.CANCELLED, "the connection was lost"))
        if not links:
            session.lost_at = self._loop.time()
            if not session.resume_s:
                self._remove(session, "the connection was lost")

    def drained(self, link: Link, session: ServerSession) -> None:
        """A link that was full takes messages again."""
        for job in self.jobs.of(session):
            if job.link is link:
                self.jobs.flush(job)

    # --- messages --------------------------------------------------------------------------

    def _receive(self, link: Link, envelope: Envelope) -> None:
        now = self._loop.time()
        session = link.session
        if session is not None:
            session.heard_at = now
        if envelope.t in NOTES:
            if session is not None:
                self._take_credit(session, envelope)
            return
        if envelope.id is None:
            raise Refusal(Code.BAD_FRAME, f"a {envelope.t!r} request needs an id")
        if envelope.t == "hello":
            self._hello(link, envelope, now)
            return
        if session is None:
            raise Refusal(Code.NO_SESSION, "say hello first")
        entry = REQUESTS.get(envelope.t)
        if entry is None:
            raise Refusal(
                Code.UNKNOWN_TYPE, f"no request type {envelope.t!r}; see welcome.requests"
            )
        if ROLES.index(entry.role) > ROLES.index(session.role):
            self._audit(session, envelope, Code.FORBIDDEN)
            raise Refusal(
                Code.FORBIDDEN,
                f"{envelope.t!r} needs the role {entry.role}; this is {session.role}",
            )
        self.counters["requests"] += 1
        body = _validated(entry.request, envelope.body)
        self._begin(link, session, entry, envelope, body, now)

    def _begin(
        self,
        link: Link,
        session: ServerSession,
        entry: Entry,
        envelope: Envelope,
        body: m.Body,
        now: float,
    ) -> None:
        if entry.role == "admin":
            self._audit(session, envelope, "allowed")
        builtin = self.builtins.get(envelope.t)
        if builtin is not None:
            reply = builtin(link, session, body)
            transmit(link, Envelope(entry.answer, dump(reply), re=envelope.id))
            return
        if envelope.t == "bye":
            self._stop_all(session, "the client said bye")
            transmit(link, Envelope("done", re=envelope.id))
            self._remove(session, "the client said bye")
            return
        if envelope.t == "resume":
            self.jobs.resume(link, session, envelope, cast(m.ResumeRequest, body), now)
            return
        if envelope.idem is not None and self.jobs.repeat(link, session, envelope, now):
            return
        if self.draining:
            raise Refusal(Code.DRAINING, "the server is shutting down", retry_ms=5_000)
        self.jobs.start(link, session, envelope, body, now)

    # --- ends ------------------------------------------------------------------------------

    def _stop_all(self, session: ServerSession, reason: str) -> None:
        for job in self.jobs.of(session):
            self.jobs.stop(job, Refusal(Code.CANCELLED, reason))

    def _remove(self, session: ServerSession, reason: str) -> None:
        self._stop_all(session, reason)
        for link in self._links.pop(session.id, set()):
            link.detach()
        self.counters["coalesced"] += session.num_merged
        self.sessions.remove(session)

    def sweep(self) -> None:
        """Drop sessions that have been silent for too long; call it every few seconds."""
        for session in self.sessions.overdue(self._loop.time()):
            self._remove(session, "the client was silent for too long")

    def revoke(self, user: str) -> None:
        """End all sessions of a user."""
        for session in self.sessions:
            if session.user == user:
                self._remove(session, "the key was revoked")

    async def drain(self, seconds: float) -> None:
        """Take no more work, let the open requests end, and after that many seconds stop them."""
        self.draining = True
        self.notify(m.Notice(kind="draining", message="the server is shutting down"))
        await self.jobs.drain(seconds)

    def notify(self, notice: m.Notice) -> None:
        """Tell every client."""
        envelope = Envelope("notice", dump(notice))
        for links in list(self._links.values()):
            for link in list(links):
                transmit(link, envelope)

    def gateway_info(self) -> GatewayInfo:
        """Counters and gauges of this moment."""
        merged = sum(session.num_merged for session in self.sessions)
        return GatewayInfo.model_validate(
            {
                **self.jobs.counters,
                **self.counters,
                "uptime_s": self._loop.time() - self._started_at,
                "sessions": len(self.sessions),
                "open_requests": len(self.jobs),
                "coalesced": self.counters["coalesced"] + merged,
                "published": self.publisher.num_published,
                **_process_gauges(),
            }
        )

    # --- what the server answers itself ----------------------------------------------------

    def _hello(self, link: Link, envelope: Envelope, now: float) -> None:
        hello = cast(m.HelloRequest, _validated(m.HelloRequest, envelope.body))
        if 1 not in hello.versions:
            raise Refusal(
                Code.BAD_VERSION, f"the client speaks {hello.versions}; this server speaks [1]"
            )
        role: Role | None = self.keys.role_of(link.user) if self.keys else "admin"
        if role is None:
            raise Refusal(Code.FORBIDDEN, "this key has no role here")
        session = self.sessions.open(hello, link.user, role, now)
        if link.session is not None and link.session is not session:
            self._remove(link.session, "the client opened another session")
        session.lost_at = None
        self._links.setdefault(session.id, set()).add(link)
        link.attach(session)
        welcome = m.Welcome(
            session=session.id,
            token=session.token,
            role=role,
            server=self.server,
            world=self.world,
            resumed=session.id == hello.session,
            requests=allowed(role),
            limits=self.limits,
            liveness_ms=round(self.sessions.limits.liveness_s * 1000),
            idle_ms=round(self.sessions.limits.idle_s * 1000),
        )
        transmit(link, Envelope("welcome", dump(welcome), re=envelope.id))

    def _ping(self, link: Link, session: ServerSession, body: m.Body) -> m.Body:
        return m.Pong(open_requests=len(session.open))

    def _cancel(self, link: Link, session: ServerSession, body: m.Body) -> m.Body:
        job = self.jobs.find(session, cast(m.CancelRequest, body).target)
        if job is not None:
            self.jobs.stop(job, Refusal(Code.CANCELLED, "cancelled by the client"))
        return m.CancelReply(found=job is not None)

    def _snapshot(self, link: Link, session: ServerSession, body: m.Body) -> m.Body:
        return SnapshotReply(topics=self.publisher.state(cast(SnapshotRequest, body).topics))

    def _manage_keys(self, link: Link, session: ServerSession, body: m.Body) -> m.Body:
        if self.keys is None:
            raise Refusal(Code.UNSUPPORTED, "this server runs without keys")
        request = cast(KeysRequest, body)
        reply = self.keys.answer(request)
        if request.op == "revoke" and request.name is not None:
            self._loop.call_soon(self.revoke, request.name)  # after the answer has left
        return reply

    def _take_credit(self, session: ServerSession, envelope: Envelope) -> None:
        note = cast(m.CreditNote, _validated(m.CreditNote, envelope.body))
        session.grant(note.deltas)
        for job in self.jobs.of(session):
            self.jobs.flush(job)

    def _audit(self, session: ServerSession, envelope: Envelope, outcome: str) -> None:
        """One JSON line, so that nothing a client sends can forge another."""
        fields = {
            "user": session.user,
            "session": session.id,
            "type": envelope.t,
            "body": json.dumps(envelope.body)[:1_000],
            "outcome": str(outcome),
        }
        audit.info("%s", json.dumps(fields), extra={"fields": fields})


def _validated(model: type[m.Body], fields: dict[str, Any]) -> m.Body:
    """The body as its type, nil taken for absent.

    Raises:
        Refusal: `bad_request`, naming the first field at fault.
    """
    try:
        return model.model_validate({k: v for k, v in fields.items() if v is not None})
    except ValidationError as error:
        field, sentence = first_fault(error)
        raise Refusal(Code.BAD_REQUEST, sentence, field=field or None) from error


def _process_gauges() -> dict[str, int]:
    """Memory and descriptors of this process, where /proc tells."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
        return {
            "memory_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
            "descriptors": len(os.listdir("/proc/self/fd")),
        }
    except OSError:
        return {}
