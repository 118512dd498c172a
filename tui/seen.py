"""What a console can see, as data: an arrival, a line, a row of the log, the connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from protocol.messages import AdapterUse, Body, Passage, Usage, Welcome


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """Something the console saw.

    Attributes:
        time_s: when, Unix time.
        name: an event's name, a request's type, or "connected", "lost", "gap", "line_seen".
        body: its message, or None where the name says it all.
        about: what a request was about, such as the agent whose memories these are.
    """

    time_s: float
    name: str
    body: Body | None = None
    about: str = ""


@dataclass(kw_only=True, slots=True)
class Line:
    """A line as far as it is known: being spoken, spoken or failed."""

    line: str
    agent: str
    tier: str = ""
    speaker: str = ""
    said: str = ""
    text: str = ""
    state: str = "speaking"
    started_s: float = 0.0
    ended_s: float | None = None
    adapter: AdapterUse | None = None
    usage: Usage | None = None
    emotion: str = ""
    actions: tuple[Any, ...] = ()
    passages: tuple[Passage, ...] = ()
    abstained: bool = False
    seed: int | None = None
    fallback: bool = False
    cause: str = ""
    note: str = ""
    verdict: str = ""
    num_deltas: int = 0
    announced: bool = False  # its beginning and its end are in the log
    logged: bool = False
    owned: bool = False  # this console asked for it, so its pieces come from the reply


@dataclass(frozen=True, kw_only=True, slots=True)
class LogRow:
    """A row of the log; `line` leads to a prompt."""

    number: int
    time_s: float
    level: str
    agent: str
    text: str
    line: str = ""
    request: str = ""


@dataclass(slots=True)
class Connection:
    """How the console stands with the server."""

    state: str = "connecting"
    since_s: float = 0.0
    why: str = ""
    welcome: Welcome | None = None
    num_gaps: int = 0
