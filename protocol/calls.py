"""A client's requests on their way: what both clients share; no I/O, the clock is passed in.

A `Call` is one request and everything that came back for it. `Calls` turns calls into frames to
send and frames received into parts of calls, says when to ping, and takes the session up again
when the server has lost it: whoever owns the sockets sends `outbox` and feeds `receive`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

from pydantic import ValidationError

from protocol.catalogue import REQUESTS
from protocol.codec import Envelope, decode, encode
from protocol.errors import (
    Code,
    FrameError,
    NoServerError,
    OrderError,
    ProtocolError,
    Refusal,
    VersionError,
    first_fault,
)
from protocol.messages import Accepted, Body, Delta, ErrorBody, HelloRequest, Notice, Welcome
from protocol.session import ClientSession

Channel = Literal["work", "control"]
_KNOWN = {"accepted", "delta", "done", "error", "welcome", "pong", "notice"}


class Call:
    """One request and what has come back.

    Attributes:
        parts: what came since somebody last took it: `Accepted`, `Delta`s, the reply.
        accepted: the first of them, once there.
        text: all deltas so far, joined.
        reply: what ended it well.
        error: what ended it otherwise.
    """

    def __init__(self, request: Envelope) -> None:
        assert request.id is not None
        self.id = request.id
        self.type = request.t
        self.request = request
        self.parts: deque[Body] = deque()
        self.accepted: Accepted | None = None
        self.text = ""
        self.reply: Body | None = None
        self.error: ProtocolError | None = None
        self.changed: Callable[[], None] = lambda: None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.reply is not None or self.error is not None

    def take(self, envelope: Envelope) -> None:
        """Add a message to what came back.

        Raises:
            FrameError: its body isn't what its type promises.
        """
        try:
            part = _typed(self.type, envelope)
        except ValidationError as error:
            _, sentence = first_fault(error)
            raise FrameError(f"{envelope.t} of {self.type}: {sentence}") from error
        if isinstance(part, ErrorBody):
            self.fail(_error_of(part))
            return
        if isinstance(part, Accepted):
            self.accepted = part
        elif isinstance(part, Delta):
            self.text += part.text
        else:
            self.reply = part
        self.parts.append(part)
        self.changed()

    def fail(self, error: ProtocolError) -> None:
        """End the call from this side."""
        if not self.ended:
            self.error = error
            self.changed()


def _typed(request_type: str, envelope: Envelope) -> Body:
    entry = REQUESTS[request_type]
    models: dict[str, type[Body]] = {
        "accepted": Accepted,
        "delta": Delta,
        "error": ErrorBody,
        entry.answer: entry.reply,
    }
    if envelope.t not in models:
        raise FrameError(f"{envelope.t!r} is no answer to {request_type!r}")
    fields = {name: value for name, value in envelope.body.items() if value is not None}
    return models[envelope.t].model_validate(fields)


def _is_control(call: Call) -> bool:
    """Whether it looks at or changes what only an admin may, at once."""
    entry = REQUESTS[call.type]
    return entry.role == "admin" and not entry.stream


class Post(NamedTuple):
    """A message to send, and the call it belongs to; a note belongs to none."""

    channel: Channel
    frame: bytes
    call: Call | None


class Calls:
    """All calls of one client.

    Args:
        hello: what to open the session with.
        heartbeat_s: silence after which the server is pinged while calls are open.
        timeout_s: silence after which it is taken for dead.
        server: its address, for error messages.
    """

    def __init__(
        self, hello: HelloRequest, *, heartbeat_s: float, timeout_s: float, server: str
    ) -> None:
        self.welcome: Welcome | None = None
        self.notices: deque[Notice] = deque()
        self.outbox: deque[Post] = deque()
        self.control_open = False  # whether the session has joined the control socket
        self.no_control_at = ""  # the server turned to, where it has no control socket to join
        self.faults: deque[ProtocolError] = deque()  # errors that belong to no call
        self._hello = hello
        self._heartbeat_s, self._timeout_s, self._server = heartbeat_s, timeout_s, server
        self._session = ClientSession()
        self._calls: dict[str, Call] = {}
        self._heard_at: float | None = None
        self._pinged_at: float | None = None
        self._silent = False
        self._greeting: Call | None = None
        self._unsent: list[Call] = []  # refused for want of a session; sent again after hello

    @property
    def every(self) -> list[Call]:
        """All calls that have not ended."""
        return list(self._calls.values())

    @property
    def alive(self) -> bool:
        """Whether the server has answered of late."""
        return not self._silent

    @property
    def open(self) -> list[Call]:
        """Calls that have not ended, those of the session itself aside."""
        return [call for call in self._calls.values() if call.type not in ("hello", "ping")]

    def start(
        self, t: str, body: Body, *, ttl_ms: int | None = None, idem: str | None = None
    ) -> Call:
        """Put a request into the outbox.

        Raises:
            OrderError: the catalogue has another body for this type.
            FrameError: it can't be encoded.
        """
        entry = REQUESTS.get(t)
        if entry is None or not isinstance(body, entry.request):
            raise OrderError(f"{type(body).__name__} is no body of a {t!r} request")
        fields = body.model_dump(exclude_none=True)
        envelope = self._session.request(t, fields, ttl_ms=ttl_ms, idem=idem)
        call = Call(envelope)
        self._calls[call.id] = call
        self._post(call)
        return call

    def _post(self, call: Call) -> None:
        is_control = _is_control(call)
        if self.no_control_at and is_control:
            sentence = f"{self.no_control_at} has no control address, where {call.type!r} belongs"
            self._fail(call, Refusal(Code.UNSUPPORTED, sentence))
            return
        goes_control = is_control or call.type in ("cancel", "ping")
        channel: Channel = "control" if self.control_open and goes_control else "work"
        self.outbox.append(Post(channel, encode(call.request), call))

    def do_without_control(self, server: str) -> None:
        """This server is used from now on, and has no control socket.

        Cancel and ping go by work there. What belongs on control is refused, also what waits.
        """
        self.no_control_at, self.control_open = server, False
        waiting = list(self.outbox)
        self.outbox.clear()
        for post in waiting:
            if post.channel == "work":
                self.outbox.append(post)
            elif post.call is None or post.call.ended:
                continue
            elif post.call.type == "hello":  # by work it would open a second session
                self._fail(post.call, NoServerError("the control socket is gone"))
            else:
                self._post(post.call)

    def greet(self) -> Call:
        """Say hello, or hello again with the session we had.

        One that is still unanswered went to a connection now lost: the same call is sent again, as
        somebody may be waiting for it.
        """
        self.control_open = False
        if self._greeting is not None and not self._greeting.ended:
            self._renew(self._greeting)
            return self._greeting
        hello = self._hello
        if self.welcome is not None:
            known = {"session": self.welcome.session, "token": self.welcome.token}
            hello = hello.model_copy(update=known)
        self._greeting = self.start("hello", hello)
        return self._greeting

    def _renew(self, call: Call) -> None:
        """Send a call again under a fresh id: an id is used once."""
        del self._calls[call.id]
        self._session.drop(call.id)
        call.request = self._session.request(call.type, call.request.body)
        call.id = call.request.id or ""
        self._calls[call.id] = call
        self._post(call)

    def join_control(self) -> None:
        """Take the session to the control socket too."""
        assert self.welcome is not None
        known = {"session": self.welcome.session, "token": self.welcome.token}
        call = self.start("hello", self._hello.model_copy(update=known))
        self.outbox[-1] = self.outbox[-1]._replace(channel="control")

        def check() -> None:
            joined = isinstance(call.reply, Welcome) and call.reply.resumed
            self.control_open = joined and not self.no_control_at

        call.changed = check

    def note(self, t: str, body: Body) -> None:
        """Put a message that has no answer into the outbox."""
        frame = encode(Envelope(t, body.model_dump(exclude_none=True)))
        self.outbox.append(Post("work", frame, None))

    def receive(self, frames: list[bytes], now: float) -> Call | None:
        """Take one message; returns the call it belongs to.

        What belongs to no call ends in `notices` or `faults`.
        """
        self._heard_at, self._pinged_at, self._silent = now, None, False
        try:
            envelope = decode(frames)
            return self._receive(envelope)
        except FrameError as error:
            fault = VersionError(str(error)) if error.code == Code.BAD_VERSION else error
            self.faults.append(fault)
            return None

    def _receive(self, envelope: Envelope) -> Call | None:
        if envelope.t not in _KNOWN:
            return None  # from a newer server
        if envelope.t == "notice":
            self.notices.append(Notice.model_validate(envelope.body))
            return None
        call = self._calls.get(envelope.re or "")
        if call is None:
            if envelope.t == "error" and envelope.re is None:
                self.faults.append(_error_of(ErrorBody.model_validate(envelope.body)))
            return None
        if envelope.t == "error" and envelope.body.get("code") == Code.NO_SESSION:
            self._lost_session(call)
            return None
        try:
            if self._session.receive(envelope) is None:
                return None
            call.take(envelope)
        except FrameError as error:
            self._fail(call, error)
            return call
        if call.ended:
            del self._calls[call.id]
        if call is self._greeting:
            self._greeted(call)
        return call

    def _lost_session(self, call: Call) -> None:
        """The server doesn't know us (any more): say hello, then send the call again."""
        if call.type == "ping":
            self._fail(call, NoServerError("the session is gone"))
        else:
            self._unsent.append(call)
        if self._greeting is None:
            self.greet()

    def _greeted(self, call: Call) -> None:
        self._greeting = None
        if not isinstance(call.reply, Welcome):
            for waiting in self.open:
                self._fail(waiting, call.error or NoServerError("hello was refused"))
            return
        self.welcome = call.reply
        unsent, self._unsent = self._unsent, []
        for again in unsent:
            self._post(again)
        started = [c for c in self.open if c not in unsent]
        if call.request.body.get("session") is None:
            return  # the first hello: nothing was under way
        for waiting in started:
            if call.reply.resumed:
                self._resume(waiting)
            elif waiting.request.idem is not None and self._session.next_seq(waiting.id) == 0:
                self._post(waiting)
            else:
                lost = Refusal(Code.NO_SESSION, "the server was restarted; send it again")
                self._fail(waiting, lost)

    def _resume(self, call: Call) -> None:
        if call.type == "resume":
            return
        missing = {"target": call.id, "seq": self._session.next_seq(call.id)}
        body = REQUESTS["resume"].request.model_validate(missing)
        resume = self.start("resume", body)

        def check() -> None:
            if resume.error is not None:
                self._fail(call, resume.error)

        resume.changed = check

    def _fail(self, call: Call, error: ProtocolError) -> None:
        self._calls.pop(call.id, None)
        self._session.drop(call.id)
        call.fail(error)

    def tick(self, now: float, *, idle_ping: bool = False) -> None:
        """Ping a silent server; end all calls when it stays silent.

        Args:
            now: seconds, on any steady clock.
            idle_ping: ping even while no call is open.
        """
        if self._heard_at is None:
            self._heard_at = now
        if self._pinged_at is not None:
            if now - self._pinged_at > self._timeout_s:
                self.give_up(
                    NoServerError(f"{self._server} has not answered for {self._timeout_s:g} s")
                )
                self._heard_at, self._pinged_at, self._silent = now, None, True
        elif (self.open or idle_ping) and now - self._heard_at > self._heartbeat_s:
            self._pinged_at = now
            self.start("ping", REQUESTS["ping"].request())

    def give_up(self, error: ProtocolError) -> None:
        """End every call."""
        self._greeting = None
        self._unsent.clear()
        for call in list(self._calls.values()):
            self._fail(call, error)


def _error_of(body: ErrorBody) -> ProtocolError:
    if body.code == Code.BAD_VERSION:
        return VersionError(body.message)
    return Refusal(
        body.code,
        body.message,
        field=body.field,
        retry_ms=body.retry_ms,
        retryable=body.retryable,
    )
