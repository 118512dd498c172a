"""What a server answers by itself about its own operation: metrics, telemetry state, keys."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from protocol.messages import Body, Count, Json, Label, Name


class MetricsRequest(Body):
    """Asks for the counters in Prometheus' text format."""


class MetricsReply(Body):
    """Prometheus' text exposition format."""

    text: str


class SnapshotRequest(Body):
    """Asks for the present state of telemetry topics, after a gap or at the start."""

    topics: list[Label] = Field(default=[], description="empty: all")


class TopicState(Body):
    """A topic's state as of event number `seq`."""

    seq: Count = Field(description="number of the last event this contains; 0: none yet")
    events: list[Json] = Field(default=[], description="the latest events that make up the state")


class SnapshotReply(Body):
    """State by topic."""

    topics: dict[str, TopicState]


class KeysRequest(Body):
    """Lists, adds or revokes client keys; holds at once."""

    op: Literal["list", "add", "revoke"] = "list"
    name: Name | None = None
    role: Literal["player", "game", "admin"] = "player"
    public_key: str | None = Field(default=None, description="for add: Z85, 40 characters")


class KeyInfo(Body):
    """A client key; the secret half never leaves its owner."""

    name: str
    role: Literal["player", "game", "admin"]
    public_key: str
    revoked: bool = False


class KeysReply(Body):
    """The keys; after a change, the one changed."""

    keys: list[KeyInfo]
