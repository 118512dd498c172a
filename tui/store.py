"""What the console has seen: the one state that every screen draws from.

Everything arrives as a `Seen`: telemetry events, replies to the console's own requests, and
the ups and downs of the connection. Recording a session is writing these down; replaying one
is seeing them again. `intake.py` says what each changes. Nothing here draws, waits or talks
to a server.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any

from protocol.administration import (
    AdapterInfo,
    AgentInfo,
    InspectReply,
    LoreReply,
    MemoryReply,
    StatsReply,
    TimelineItem,
)
from protocol.play import ReadReply, SavesReply
from tui.intake import HANDLERS
from tui.seen import Connection, Line, LogRow, Seen

MAX_LINES = 2_000
MAX_LOG = 5_000
MAX_TIMELINE = 1_000
MAX_SAMPLES = 600  # ten minutes of one a second


@dataclass(slots=True)
class Store:
    """Everything seen, bounded; `revisions` counts changes per part for those who draw it."""

    connection: Connection = field(default_factory=Connection)
    world: str = ""
    agents: dict[str, AgentInfo] = field(default_factory=dict)
    lines: OrderedDict[str, Line] = field(default_factory=OrderedDict)
    inspections: OrderedDict[str, InspectReply] = field(default_factory=OrderedDict)
    adapters: dict[str, AdapterInfo] = field(default_factory=dict)
    troubles: dict[str, str] = field(default_factory=dict)
    timeline: deque[TimelineItem] = field(default_factory=lambda: deque(maxlen=MAX_TIMELINE))
    director_state: dict[str, Any] = field(default_factory=dict)
    state_changes: dict[str, Any] = field(default_factory=dict)
    held: bool = False
    events_waiting: int = 0
    log: deque[LogRow] = field(default_factory=lambda: deque(maxlen=MAX_LOG))
    samples: deque[tuple[float, StatsReply | None]] = field(
        default_factory=lambda: deque(maxlen=MAX_SAMPLES)
    )
    memories: dict[str, MemoryReply] = field(default_factory=dict)
    lore: dict[str, LoreReply] = field(default_factory=dict)
    saves: SavesReply | None = None
    pages: dict[str, ReadReply] = field(default_factory=dict)
    revisions: Counter[str] = field(default_factory=Counter)
    num_seen: int = 0
    num_logged: int = 0

    def see(self, seen: Seen) -> None:
        """Take in one thing; names it does not know change nothing."""
        self.num_seen += 1
        handler = HANDLERS.get(seen.name)
        if handler is not None:
            self.revisions.update(handler(self, seen))

    def may(self, request: str) -> bool:
        """Whether the server offers this request to this role, going by its welcome."""
        welcome = self.connection.welcome
        return welcome is not None and request in welcome.requests

    def lines_of(self, agent: str) -> list[Line]:
        """An agent's lines, oldest first."""
        return [line for line in self.lines.values() if line.agent == agent]

    def last_line(self, agent: str) -> Line | None:
        """The newest line of an agent."""
        return next((ln for ln in reversed(self.lines.values()) if ln.agent == agent), None)

    def name_of(self, agent: str) -> str:
        """An agent's name as players see it."""
        info = self.agents.get(agent)
        return (info.name if info else "") or agent

    def sample(self) -> StatsReply | None:
        """The newest counters."""
        return next((s for _, s in reversed(self.samples) if s is not None), None)

    # --- helpers of the handlers below --------------------------------------------------

    def line(self, line: str, agent: str, time_s: float) -> Line:
        """A line by its id, made if it is new; the oldest fall out."""
        known = self.lines.get(line)
        if known is None:
            known = self.lines[line] = Line(line=line, agent=agent, started_s=time_s)
            while len(self.lines) > MAX_LINES:
                self.lines.popitem(last=False)
        return known

    def write(self, time_s: float, level: str, agent: str, text: str, **links: str) -> None:
        """Add a row to the log."""
        self.num_logged += 1
        self.log.append(
            LogRow(
                number=self.num_logged, time_s=time_s, level=level, agent=agent, text=text, **links
            )
        )
