"""Errors of the wire.

ProtocolError
├── FrameError        the other side sent bytes that are no message (wire code "bad_frame")
├── OrderError        this side's caller broke the order of messages: a bug on our side
├── Refusal           a request ended in an `error` message; carries its code
├── NoServerError     nobody answers at the endpoint
├── KeyRefusedError   the server doesn't accept this client's key, or isn't who it should be
└── VersionError      the two sides share no protocol version
"""

from __future__ import annotations

import re
import reprlib
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_MODEL = re.compile(r" or instance of \w+")  # what pydantic would take beside a dictionary


class Code(StrEnum):
    """The `code` of an error message; SPEC.md says what a client should do about each."""

    BAD_FRAME = "bad_frame"
    BAD_VERSION = "bad_version"
    BAD_REQUEST = "bad_request"
    UNKNOWN_TYPE = "unknown_type"
    UNKNOWN_AGENT = "unknown_agent"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    DUPLICATE = "duplicate"
    FORBIDDEN = "forbidden"
    NO_SESSION = "no_session"
    BUSY = "busy"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    UNAVAILABLE = "unavailable"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"
    DRAINING = "draining"
    INTERNAL = "internal"


RETRYABLE = frozenset({Code.BUSY, Code.UNAVAILABLE, Code.NO_SESSION, Code.DRAINING})


class ProtocolError(Exception):
    """Root of everything the wire raises on purpose."""

    exit_code = 1


class FrameError(ProtocolError):
    """Bytes that are no message: the one error that decoding can raise.

    Args:
        message: what is wrong with them.
        code: `bad_frame`, or `bad_version` where another version's name stands in front.
        request_id: the envelope's `id`, where it could be read.
    """

    def __init__(
        self, message: str, *, code: Code = Code.BAD_FRAME, request_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id


class OrderError(ProtocolError):
    """Our own side tried to send what the session doesn't allow now."""


class Refusal(ProtocolError):
    """A request that ended in an error; services raise it, clients see it raised.

    Args:
        code: what went wrong.
        message: one sentence that names the bad value and what would be right.
        field: the body's field that is at fault, such as "actions.0.name".
        retry_ms: when to try again, in milliseconds.
    """

    def __init__(
        self,
        code: Code | str,
        message: str,
        *,
        field: str | None = None,
        retry_ms: int | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.code = str(code)
        self.message = message
        self.field = field
        self.retry_ms = retry_ms
        self.retryable = code in RETRYABLE if retryable is None else retryable

    @property
    def exit_code(self) -> int:  # type: ignore[override]  # a constant for all others
        """2 where the request itself was wrong, else 1."""
        wrong = {Code.BAD_REQUEST, Code.UNKNOWN_AGENT, Code.NOT_FOUND, Code.UNKNOWN_TYPE}
        return 2 if self.code in wrong else 1


class NoServerError(ProtocolError):
    """Nobody answered at the endpoint in time."""


class KeyRefusedError(ProtocolError):
    """The handshake failed: a wrong, absent or revoked key on either side."""


class VersionError(ProtocolError):
    """Client and server share no protocol version."""


def first_fault(error: ValidationError) -> tuple[str, str]:
    """The first field that a message has wrong ("" for the whole), and a sentence naming it."""
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"]))
    wrong = _fault(first)
    return field, f"{field}: {wrong}" if field else wrong


def _fault(first: ErrorDetails) -> str:
    """What is wrong with a value, and what would be right."""
    kind, said, told = first["type"], first["msg"], first.get("ctx", {})
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return said.removeprefix("Value error, ")
    short = kind in ("too_short", "string_too_short")
    if short and told.get("actual_length", told["min_length"] - 1) == 0:
        return "is empty; at least one character or entry is needed"
    value = reprlib.repr(first["input"])
    right = _MODEL.sub("", said).replace("Input should", "it should")
    return f"is {value}; {right}"
