"""The plain client: blocking calls, a stream to iterate, and `poll` for a game's frame loop.

    with connect() as client:
        for piece in client.say("ottavia", "Where is the lamp oil kept?"):
            print(piece, end="")

In a frame loop nothing may block: `start` returns a `Call` at once, `poll` moves everything on,
and the call's `text`, `parts`, `reply` and `error` fill as words arrive.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import zmq

from protocol import messages as m
from protocol.async_client import AsyncClient
from protocol.calls import Call
from protocol.catalogue import REQUESTS
from protocol.connection import Connection, read_connection
from protocol.errors import Code, NoServerError, Refusal, first_fault
from protocol.wire import ClientConfig, Wire

__all__ = ["AsyncClient", "Client", "connect"]
_STEP_S = 0.25  # how often a waiting client looks at the clock


def connect(path: Path | str | None = None, config: ClientConfig | None = None) -> Client:
    """Connect to the server that wrote this connection file (the default one, if none is named).

    Raises:
        NoServerError: there is no such server, or it doesn't answer.
        KeyRefusedError: the keys don't fit.
        VersionError: it speaks another protocol version.
    """
    connection = read_connection(Path(path) if path is not None else None)
    return Client(connection, config)


class Client:
    """A session with a server.

    Attributes:
        welcome: what the server said about itself.

    Raises:
        NoServerError, KeyRefusedError, VersionError: as for `connect`.
    """

    def __init__(self, connection: Connection, config: ClientConfig | None = None) -> None:
        self._config = config or ClientConfig()
        self._wire = Wire(connection, self._config)
        deadline = time.monotonic() + self._config.timeout_s
        try:
            hello = next(iter(self._wire.calls.every))
            while not hello.ended and time.monotonic() < deadline:
                self._wait(_STEP_S)
                self._raise_faults()
            if not hello.ended:
                raise NoServerError(f"nobody answers at {connection.work}; is the server running?")
            if hello.error is not None:
                raise hello.error
        except BaseException:  # cancelled or interrupted, too: nothing stays open; raised again
            self._wire.close()
            raise

    @property
    def welcome(self) -> m.Welcome:
        """What the server said about itself."""
        assert self._wire.calls.welcome is not None
        return self._wire.calls.welcome

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session."""
        self.start("bye")
        self._wire.pump()
        self._wire.close()

    # --- for frame loops -------------------------------------------------------------------

    def start(
        self,
        t: str,
        body: m.Body | None = None,
        *,
        ttl_ms: int | None = None,
        idem: str | None = None,
        **fields: Any,
    ) -> Call:
        """Send a request and return at once.

        Args:
            t: its type, such as "say".
            body: its body; or give the body's fields by name.
            ttl_ms: after how long the answer is worth nothing.
            idem: a random key that makes sending it twice harmless.
            fields: the body's fields, where `body` isn't given.

        Raises:
            Refusal: `bad_request`, a field is missing or wrong.
        """
        call = self._wire.calls.start(
            t, make_body(t, fields) if body is None else body, ttl_ms=ttl_ms, idem=idem
        )
        self._wire.pump()
        return call

    def poll(self) -> list[Call]:
        """Send and receive all that is possible now, and return the calls that got something.

        Never blocks. Call it once per frame.
        """
        return self._wire.pump()

    def cancel(self, call: Call) -> None:
        """Stop a call; it ends with a `cancelled` refusal."""
        self.start("cancel", target=call.id)

    def grant(self, deltas: int) -> None:
        """Allow the server that many more deltas, where the config sets a credit."""
        self._wire.calls.note("credit", m.CreditNote(deltas=deltas))
        self._wire.pump()

    # --- blocking --------------------------------------------------------------------------

    def request(
        self, t: str, body: m.Body | None = None, *, ttl_ms: int | None = None, **fields: Any
    ) -> Any:
        """Send a request and wait for its reply.

        Raises:
            Refusal: it ended in an error.
            NoServerError: the server has gone silent.
        """
        call = self.start(t, body, ttl_ms=ttl_ms, **fields)
        for _ in self.parts(call):
            pass
        return call.reply

    def parts(self, call: Call) -> Iterator[m.Body]:
        """Everything of a call as it comes: `Accepted`, `Delta`s, the reply.

        Raises:
            Refusal, NoServerError: as for `request`. A call whose iterator is closed early is
                cancelled.
        """
        try:
            while True:
                while call.parts:
                    yield call.parts.popleft()
                if call.ended:
                    break
                self._wait(_STEP_S)
        finally:
            if not call.ended:
                self.cancel(call)
        if call.error is not None:
            raise call.error

    def say(self, agent: str, text: str, **fields: Any) -> Iterator[str]:
        """Say something to a character: its words, piece by piece.

        Raises:
            Refusal, NoServerError: as for `request`.
        """
        return self._words("say", agent=agent, text=text, **fields)

    def ask(self, agent: str, text: str, **fields: Any) -> Iterator[str]:
        """Ask a book: its words, piece by piece.

        Raises:
            Refusal, NoServerError: as for `request`.
        """
        return self._words("ask", agent=agent, text=text, **fields)

    def _words(self, t: str, **fields: Any) -> Iterator[str]:
        for part in self.parts(self.start(t, **fields)):
            if isinstance(part, m.Delta):
                yield part.text

    def _wait(self, seconds: float) -> None:
        """Sleep until something comes in, but no longer; then take it in."""
        if not self._wire.pump():
            poller = zmq.Poller()
            for socket in self._wire.sockets:
                poller.register(socket, zmq.POLLIN)
            poller.poll(round(seconds * 1000))
            self._wire.pump()

    def _raise_faults(self) -> None:
        if self._wire.calls.faults:
            raise self._wire.calls.faults.popleft()


def make_body(t: str, fields: dict[str, Any]) -> m.Body:
    """A request's body from its fields.

    Raises:
        Refusal: `unknown_type` or `bad_request`.
    """
    from pydantic import ValidationError

    entry = REQUESTS.get(t)
    if entry is None:
        raise Refusal(Code.UNKNOWN_TYPE, f"there is no request type {t!r}")
    known = entry.request.model_fields
    if unknown := [name for name in fields if name not in known]:
        # A server ignores what it doesn't know, so a misspelt setting would do nothing.
        near = difflib.get_close_matches(unknown[0], known, 1)
        right = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(known))}"
        raise Refusal(
            Code.BAD_REQUEST, f"{t} has no field {unknown[0]!r}; {right}", field=unknown[0]
        )
    try:
        return entry.request.model_validate(fields)
    except ValidationError as error:
        field, sentence = first_fault(error)
        raise Refusal(Code.BAD_REQUEST, sentence, field=field) from error
