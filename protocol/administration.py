"""Requests of a console or a tool: look inside, change what is hosted."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from protocol.messages import (
    AdapterUse,
    Body,
    Count,
    Focus,
    Json,
    Label,
    Name,
    Sampling,
    SayReply,
    Seed,
    Text,
    Tier,
)

State = Literal["starting", "ready", "restarting", "failed", "closed"]


class AgentsRequest(Body):
    """Lists who is hosted, always in the same order; answered even while engines load."""

    after: Name | None = Field(default=None, description="only those listed after this one")
    limit: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        default=None, description="at most so many; absent: all"
    )


class AgentInfo(Body):
    """A director, character or book, and how it fares."""

    agent: str
    name: str = Field(default="", description="as players see it")
    tier: Tier
    about: str = Field(default="", description="its role, or the book's author")
    state: State
    adapter: AdapterUse | None = None
    focus: Focus | None = None
    waiting: Count = 0
    running: Count = 0
    lines: Count = Field(default=0, description="spoken since start")
    tokens_per_s: float | None = Field(default=None, description="of its last line")
    ttft_ms: float | None = Field(default=None, description="of its last line")
    cached_share: float | None = Field(default=None, description="of prompt tokens, 0 to 1")
    last_line: str | None = Field(default=None, description="id, for inspect")
    last_text: str = ""
    last_error: str = ""


class AgentsReply(Body):
    """Who is hosted."""

    world: str = ""
    agents: list[AgentInfo]


class InspectRequest(Body):
    """Asks what a model was shown, for a line or for an agent's last line."""

    line: str | None = None
    agent: Name | None = None


class AgainRequest(Sampling):
    """Speaks a known line's very same prompt once more; nobody remembers it."""

    line: str
    adapter: Name | None = Field(default=None, description="instead of the line's")
    adapter_version: Count | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0


class PlantedMemory(Body):
    """Something a character remembers when a rehearsal begins."""

    agent: Name
    text: Text
    now: float = 0.0
    importance: Annotated[float, Field(ge=0, le=1)] = 0.5
    participants: list[Label] = Field(default=[])
    pinned: bool = False


class RehearseRequest(Body):
    """From now on this session plays in a game of its own, on the same models.

    Nothing of it reaches the running game, its saves or its watchers; close, or the session's
    end, drops it.
    """

    op: Literal["open", "close"] = "open"
    seed: Seed = Field(default=1, description="lines without a seed take theirs from it")
    now: float = Field(default=0.0, description="game clock, in seconds")
    happened: list[Label] = Field(default=[], description="the world's events that are past")
    memories: list[PlantedMemory] = Field(default=[])
    state: Json = Field(default={}, description="the game's own state, as events would set it")
    deadline_ms: Count | None = Field(
        default=None, description="absent: no line falls back for time; 0: each does at once"
    )


class LinesRequest(Body):
    """Lists lines spoken, newest first."""

    agent: Name | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = 100
    before: str | None = Field(default=None, description="only lines older than this one")


class LineInfo(SayReply):
    """One line that was spoken, and to what."""

    speaker: str = ""
    said: str = Field(default="", description="what was said to the agent")
    time_s: float = Field(default=0.0, description="when it ended, Unix time")


class LinesReply(Body):
    """The lines."""

    lines: list[LineInfo]


class PromptSegment(Body):
    """Prompt tokens [start, end) and their text; `kind` is "template" for markup."""

    kind: str
    role: str = Field(default="", description="system, user or assistant")
    text: str
    start: Count
    end: Count


class TokenAlternative(Body):
    """A token the model weighed, with its log-probability before sampling settings."""

    token_id: Count
    text: str
    logprob: float


class CompletionToken(Body):
    """A token the model chose, and what else it weighed."""

    token_id: Count
    text: str
    logprob: float | None = None
    alternatives: list[TokenAlternative] = Field(default=[])


class InspectReply(LineInfo):
    """Everything that made a line."""

    segments: list[PromptSegment]
    token_ids: list[Count] = Field(description="the whole prompt")
    token_texts: list[str] = Field(default=[])
    context_tokens: Count = Field(default=0, description="the most this model takes")
    output: str = Field(
        default="", description="the model's raw words, before they are read as a reply"
    )
    completion: list[CompletionToken] = Field(default=[])
    sampler: Json = Field(default={})
    base_digest: str = ""
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    routing: list[str] = Field(
        default=[], description="why this tier, adapter, budget and deadline"
    )


class MemoryRequest(Body):
    """Looks at or changes what a character remembers."""

    op: Literal["list", "add", "edit", "pin", "unpin", "forget"] = "list"
    agent: Name
    memory: str | None = Field(default=None, description="id; for edit, pin, unpin, forget")
    text: Text | None = Field(default=None, description="for add and edit")
    query: str = Field(default="", description="for list: words to look for")
    limit: Annotated[int, Field(ge=1, le=1_000)] = 100


class MemoryInfo(Body):
    """One memory."""

    memory: str
    kind: str = ""
    text: str
    now: float | None = Field(default=None, description="game clock when it happened, in seconds")
    importance: float = 0.0
    participants: list[str] = Field(default=[])
    pinned: bool = False


class Relation(Body):
    """What a character feels for another."""

    who: str
    feeling: str = ""
    strength: float = Field(default=0.0, description="-1 to 1")


class MemoryReply(Body):
    """The memories; after a change, the one changed."""

    memories: list[MemoryInfo]
    relations: list[Relation] = Field(default=[])


class LoreRequest(Body):
    """Lists facts; with an agent, only what it may know."""

    agent: Name | None = None
    query: str = ""
    limit: Annotated[int, Field(ge=1, le=1_000)] = 100


class LoreInfo(Body):
    """One fact and who may know it."""

    fact: str
    text: str
    scopes: list[str] = Field(default=[])


class LoreReply(Body):
    """The facts."""

    facts: list[LoreInfo]


class AdaptersRequest(Body):
    """Looks at or changes adapters. Names only: a server never takes a path."""

    op: Literal[
        "list", "load", "unload", "swap", "blend", "pin", "unpin", "promote", "rollback"
    ] = "list"
    name: Name | None = Field(default=None, description="the adapter; for blend, the result")
    agent: Name | None = Field(default=None, description="for swap, promote, rollback: whose")
    version: Count | None = Field(
        default=None, description="for load, swap, promote: absent is newest"
    )
    weights: dict[Name, float] = Field(default={}, description="for blend: share of each adapter")


class AdapterInfo(Body):
    """One adapter."""

    name: str
    digest: str = ""
    version: Count = 1
    versions: list[Count] = Field(default=[])
    agents: list[str] = Field(default=[], description="who speaks through it")
    tier: Tier = "npc"
    resident: bool = False
    pinned: bool = False
    rank: Count = 0
    size_bytes: Count = 0
    running: Count = 0
    metrics: Json = Field(default={}, description="from its report")
    error: str = ""


class AdaptersReply(Body):
    """The adapters; after a change, the ones changed."""

    adapters: list[AdapterInfo]


class DirectorRequest(Body):
    """Looks at the director's work, or takes it in hand."""

    op: Literal["timeline", "hold", "release"] = Field(
        default="timeline", description="hold: ticks wait until release, or a tick from an admin"
    )
    limit: Annotated[int, Field(ge=1, le=1_000)] = 200


class TimelineItem(Body):
    """An event, a tick or a directive."""

    kind: Literal["event", "tick", "directive", "wait"]
    text: str
    line: str | None = None
    time_s: float = Field(default=0.0, description="Unix time")
    now: float | None = Field(default=None, description="game clock, in seconds")
    tension: float | None = Field(default=None, description="0 to 10")
    wanted: float | None = Field(default=None, description="by the authored curve, 0 to 10")


class DirectorReply(Body):
    """The director's work, oldest first."""

    held: bool = False
    tension: float | None = Field(default=None, description="now, 0 to 10")
    wanted: float | None = Field(default=None, description="now, by the authored curve, 0 to 10")
    events_waiting: Count = 0
    curve: list[list[float]] = Field(
        default=[], description="the authored curve: game clock in seconds, tension"
    )
    items: list[TimelineItem]
    state: Json = Field(default={}, description="world state as the director keeps it")


class ReloadRequest(Body):
    """Reads the world's files again; a broken edit keeps the old world."""

    check_only: bool = False


class FileChange(Body):
    """What a reload changed."""

    file: str
    change: Literal["added", "changed", "removed"]
    about: str = ""


class ReloadReply(Body):
    """What changed."""

    changes: list[FileChange]


class StatsRequest(Body):
    """Asks for counters and gauges."""


class EngineInfo(Body):
    """One engine process."""

    tier: Tier
    state: State
    base: str = ""
    base_digest: str = ""
    pid: Count = 0
    restarts: Count = 0
    last_step_age_ms: float = 0.0
    waiting: Count = 0
    running: Count = 0
    prompt_tokens: Count = 0
    cached_tokens: Count = 0
    completion_tokens: Count = 0
    tokens_per_s: float = 0.0
    ttft_p50_ms: float | None = None
    ttft_p95_ms: float | None = None
    kv_slots_used: Count = 0
    kv_slots_total: Count = 0
    adapter_hits: Count = 0
    adapter_misses: Count = 0
    adapter_evictions: Count = 0
    memory_bytes: Count = 0
    error: str = ""


class GatewayInfo(Body):
    """The process clients talk to."""

    uptime_s: float = 0.0
    sessions: Count = 0
    open_requests: Count = 0
    requests: Count = Field(default=0, description="since start")
    refused: Count = Field(default=0, description="ended in error, since start")
    bad_frames: Count = 0
    deltas: Count = 0
    coalesced: Count = Field(default=0, description="deltas merged for slow readers")
    published: Count = Field(default=0, description="telemetry events sent")
    memory_bytes: Count = 0
    descriptors: Count = 0


class StatsReply(Body):
    """Counters since start and gauges of this moment."""

    gateway: GatewayInfo = GatewayInfo()
    engines: list[EngineInfo] = Field(default=[])
    memory: dict[str, Count] = Field(default={}, description="bytes by owner")
