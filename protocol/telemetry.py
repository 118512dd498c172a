"""What a server publishes to its watchers, numbered per topic from 1.

A watcher that sees a number missing asks for a `snapshot` of that topic and goes on from there.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from protocol.administration import AdapterInfo, AgentInfo, LineInfo, StatsReply
from protocol.messages import Body, Focus, Json, Tier

Topic = Literal["lines", "deltas", "agents", "adapters", "director", "stats", "log"]


class LineStarted(Body):
    """Someone was spoken to."""

    line: str
    agent: str
    tier: Tier
    speaker: str = ""
    text: str = Field(default="", description="what was said to the agent")
    scene: str = ""


class LineDelta(Body):
    """A piece of a line being spoken; pieces are merged to at most ten a second per line."""

    line: str
    agent: str
    text: str


class LineEnded(LineInfo):
    """A line was spoken."""


class LineFailed(Body):
    """A line ended in an error."""

    line: str
    agent: str
    code: str
    message: str = ""


class AgentChanged(AgentInfo):
    """An agent's state, adapter or focus is now this."""


class AdapterChanged(AdapterInfo):
    """An adapter is now this."""

    what: str = Field(default="", description="such as loaded, swapped, failed, rolled back")


class WorldEvent(Body):
    """The director was told of an event."""

    kind: str
    text: str
    scene: str = ""
    importance: float = 0.0
    now: float | None = None


class DirectorDecided(Body):
    """A tick ended."""

    line: str
    directive: Json
    waited: bool = False
    tension: float = Field(default=0.0, description="0 to 10")
    wanted: float = Field(default=0.0, description="what the authored curve wants, 0 to 10")
    now: float | None = None


class FocusChanged(Body):
    """An agent matters more or less now."""

    agent: str
    level: Focus


class StatsSampled(StatsReply):
    """Counters and gauges, once a second while someone watches."""


class Logged(Body):
    """A line of the server's log."""

    level: Literal["debug", "info", "warning", "error"]
    text: str
    request: str = ""
    agent: str = ""


EVENTS: dict[str, tuple[Topic, type[Body]]] = {
    "line_started": ("lines", LineStarted),
    "line_delta": ("deltas", LineDelta),
    "line_ended": ("lines", LineEnded),
    "line_failed": ("lines", LineFailed),
    "agent_changed": ("agents", AgentChanged),
    "focus_changed": ("agents", FocusChanged),
    "adapter_changed": ("adapters", AdapterChanged),
    "world_event": ("director", WorldEvent),
    "director_decided": ("director", DirectorDecided),
    "stats": ("stats", StatsSampled),
    "log": ("log", Logged),
}

# What a snapshot holds: for some types the latest event of each name, else the topic's last few.
KEYED = {"agent_changed": "agent", "focus_changed": "agent", "adapter_changed": "name"}
KEPT = {"lines": 200, "director": 200, "stats": 60, "log": 500}
