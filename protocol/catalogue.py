"""The table of all requests: what each type's body is, what ends it, who may send it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from protocol import administration as admin
from protocol import messages as m
from protocol import operation, play

Role = Literal["player", "game", "admin"]
ROLES: tuple[Role, ...] = ("player", "game", "admin")  # each may do what those before it may


@dataclass(frozen=True, slots=True)
class Entry:
    """One request type.

    Attributes:
        request: type of the request's body.
        reply: type of the `done` body (of `welcome` and `pong` for hello and ping).
        role: the least role that may send it.
        stream: whether `accepted` and deltas come before the end.
        answer: type `t` of the message that ends it well.
    """

    request: type[m.Body]
    reply: type[m.Body]
    role: Role
    stream: bool = False
    answer: str = "done"


REQUESTS: dict[str, Entry] = {
    "hello": Entry(m.HelloRequest, m.Welcome, "player", answer="welcome"),
    "ping": Entry(m.PingRequest, m.Pong, "player", answer="pong"),
    "cancel": Entry(m.CancelRequest, m.CancelReply, "player"),
    "resume": Entry(m.ResumeRequest, m.ResumeReply, "player"),
    "bye": Entry(m.ByeRequest, m.Ok, "player"),
    "say": Entry(m.SayRequest, m.SayReply, "player", stream=True),
    "ask": Entry(m.AskRequest, m.AskReply, "player", stream=True),
    "converse": Entry(m.ConverseRequest, m.ConverseReply, "player", stream=True),
    "read": Entry(play.ReadRequest, play.ReadReply, "player"),
    "agents": Entry(admin.AgentsRequest, admin.AgentsReply, "player"),
    "feedback": Entry(play.FeedbackRequest, m.Ok, "player"),
    "tick": Entry(m.TickRequest, m.TickReply, "game", stream=True),
    "event": Entry(play.EventRequest, play.EventReply, "game"),
    "focus": Entry(play.FocusRequest, m.Ok, "game"),
    "scene": Entry(play.SceneRequest, m.Ok, "game"),
    "hush": Entry(play.HushRequest, m.Ok, "game"),
    "action_result": Entry(play.ActionResultRequest, m.Ok, "game"),
    "save": Entry(play.SaveRequest, play.SavesReply, "game"),
    "restore": Entry(play.RestoreRequest, play.SavesReply, "game"),
    "saves": Entry(play.SavesRequest, play.SavesReply, "game"),
    "inspect": Entry(admin.InspectRequest, admin.InspectReply, "admin"),
    "again": Entry(admin.AgainRequest, m.SayReply, "admin", stream=True),
    "rehearse": Entry(admin.RehearseRequest, m.Ok, "admin"),
    "lines": Entry(admin.LinesRequest, admin.LinesReply, "admin"),
    "director": Entry(admin.DirectorRequest, admin.DirectorReply, "admin"),
    "memory": Entry(admin.MemoryRequest, admin.MemoryReply, "admin"),
    "lore": Entry(admin.LoreRequest, admin.LoreReply, "admin"),
    "adapters": Entry(admin.AdaptersRequest, admin.AdaptersReply, "admin"),
    "reload": Entry(admin.ReloadRequest, admin.ReloadReply, "admin"),
    "stats": Entry(admin.StatsRequest, admin.StatsReply, "admin"),
    "metrics": Entry(operation.MetricsRequest, operation.MetricsReply, "admin"),
    "snapshot": Entry(operation.SnapshotRequest, operation.SnapshotReply, "admin"),
    "keys": Entry(operation.KeysRequest, operation.KeysReply, "admin"),
}
NOTES: dict[str, type[m.Body]] = {"credit": m.CreditNote}  # sent by clients, never answered


def allowed(role: Role) -> list[str]:
    """The request types a role may send, sorted."""
    rank = ROLES.index(role)
    return sorted(t for t, entry in REQUESTS.items() if ROLES.index(entry.role) <= rank)
