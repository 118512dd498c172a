"""What a game sends besides lines: pages, events, scenes, results, saves."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from protocol.messages import MAX_INTEGER, Body, Count, Focus, Json, Label, Name, Text


class ReadRequest(Body):
    """Reads a page of a book; each reader has a bookmark."""

    agent: Name
    page: Annotated[int, Field(ge=1, le=MAX_INTEGER)] | None = Field(
        default=None, description="absent: the page at the bookmark"
    )
    reader: Label = "player"


class ReadReply(Body):
    """A page's plain text."""

    agent: str
    title: str
    page: Count = Field(description="from 1")
    pages: Count
    text: str
    bookmark: Count = Field(description="the page to read next; pages + 1 at the end")


class EventRequest(Body):
    """Tells the world that something happened."""

    kind: Label
    text: Text = Field(description="one sentence, as a witness would tell it")
    scene: Label = Field(default="", description="where; characters there saw it")
    who: list[Label] = Field(default=[])
    importance: Annotated[float, Field(ge=0, le=1)] = 0.5
    now: float | None = Field(default=None, description="game clock, in seconds")
    data: Json = Field(default={}, description="the game's own state changes, for the director")


class EventReply(Body):
    """The event is on the director's list."""

    waiting: Count = Field(description="events the next tick will see")


class FocusRequest(Body):
    """Says how much an agent matters now."""

    agent: Name
    level: Focus


class SceneRequest(Body):
    """Sets who is where: opens, changes or (with nobody present) closes a scene."""

    scene: Label
    place: str = ""
    present: list[Name] = Field(default=[])


class HushRequest(Body):
    """Silences a scene, while the game plays a scripted one, or lets it speak again."""

    scene: Label
    on: bool = True


class ActionResultRequest(Body):
    """Reports what became of an action a character wanted."""

    line: str
    index: Count = Field(default=0, description="which of the line's actions")
    ok: bool
    text: str = Field(default="", description="what happened, as the character would know it")


class FeedbackRequest(Body):
    """Judges a line."""

    line: str
    verdict: Literal["good", "bad", "rewrite"]
    text: str = Field(default="", description="the better line, for rewrite")


class SaveRequest(Body):
    """Writes everything the characters know into a slot, at once or not at all."""

    slot: Name
    note: str = ""


class RestoreRequest(Body):
    """Goes back to a slot; running requests end with `cancelled`."""

    slot: Name


class SavesRequest(Body):
    """Lists the slots."""


class SaveInfo(Body):
    """One slot."""

    slot: str
    note: str = ""
    saved_at: str = Field(default="", description="wall clock, ISO 8601 UTC")
    now: float | None = Field(default=None, description="game clock, in seconds")
    digest: str = ""
    size_bytes: Count = 0


class SavesReply(Body):
    """The slots; after save and restore, just the one."""

    saves: list[SaveInfo]
