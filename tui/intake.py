"""How the store takes in each kind of thing seen: one function per name.

A function gets the store, the body and the `Seen`, and returns the parts of the store that it
changed, so that only screens which draw those are drawn again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from protocol.administration import (
    AdaptersReply,
    AgentInfo,
    AgentsReply,
    DirectorReply,
    InspectReply,
    LineInfo,
    LinesReply,
    LoreReply,
    MemoryReply,
    StatsReply,
    TimelineItem,
)
from protocol.messages import Accepted, Welcome
from protocol.play import ReadReply, SavesReply
from protocol.telemetry import (
    AdapterChanged,
    DirectorDecided,
    FocusChanged,
    LineDelta,
    LineFailed,
    LineStarted,
    Logged,
    WorldEvent,
)
from tui.seen import Connection, Line, Seen

if TYPE_CHECKING:
    from tui.store import Store

MAX_INSPECTIONS = 64

HANDLERS: dict[str, Callable[[Store, Seen], tuple[str, ...]]] = {}
_Handler = Callable[["Store", Any, Seen], tuple[str, ...]]


def _on(*names: str) -> Callable[[_Handler], _Handler]:
    """Register how the store takes in these names; the handler returns the parts it changed."""

    def register(handler: _Handler) -> _Handler:
        def handle(store: Store, seen: Seen) -> tuple[str, ...]:
            return handler(store, seen.body, seen)

        for name in names:
            HANDLERS[name] = handle
        return handler

    return register


@_on("connected")
def _connected(store: Store, body: Welcome, seen: Seen) -> tuple[str, ...]:
    was = store.connection
    store.connection = Connection("connected", seen.time_s, "", body, was.num_gaps)
    store.world = body.world or store.world
    if was.state == "lost":
        store.samples.append((seen.time_s, None))
        store.write(seen.time_s, "info", "", "connected again")
    return ("connection", "stats", "log")


@_on("lost")
def _lost(store: Store, body: None, seen: Seen) -> tuple[str, ...]:
    connection = store.connection
    if connection.welcome is None:  # never had one: nothing is lost yet
        connection.why = seen.about
        return ("connection",)
    if connection.state != "lost":
        connection.since_s = seen.time_s
        store.samples.append((seen.time_s, None))
        store.write(seen.time_s, "error", "", f"connection lost: {seen.about}")
        for line in store.lines.values():
            if line.state == "speaking":
                line.state, line.note = "unknown", "the connection was lost while it was spoken"
    connection.state, connection.why = "lost", seen.about
    return ("connection", "stats", "log", "lines")


@_on("gap")
def _gap(store: Store, body: None, seen: Seen) -> tuple[str, ...]:
    store.connection.num_gaps += 1
    if seen.about == "stats":
        store.samples.append((seen.time_s, None))
    store.write(seen.time_s, "warning", "", f"events of topic {seen.about} were missed")
    return ("log", "connection", "stats")


@_on("agents")
def _agents(store: Store, body: AgentsReply, seen: Seen) -> tuple[str, ...]:
    store.world = body.world or store.world
    store.agents = {agent.agent: agent for agent in body.agents}
    return ("agents",)


@_on("agent_changed")
def _agent_changed(store: Store, body: AgentInfo, seen: Seen) -> tuple[str, ...]:
    before = store.agents.get(body.agent)
    store.agents[body.agent] = body
    if before is not None and before.state != body.state:
        level = "error" if body.state == "failed" else "info"
        text = f"{before.state} → {body.state} {body.last_error}".strip()
        store.write(seen.time_s, level, body.agent, text)
    return ("agents", "log")


@_on("focus_changed")
def _focus(store: Store, body: FocusChanged, seen: Seen) -> tuple[str, ...]:
    if info := store.agents.get(body.agent):
        store.agents[body.agent] = info.model_copy(update={"focus": body.level})
    return ("agents",)


@_on("line_started")
def _line_started(store: Store, body: LineStarted, seen: Seen) -> tuple[str, ...]:
    line = store.line(body.line, body.agent, seen.time_s)
    if line.announced:
        return ()
    line.announced = True
    line.tier, line.speaker, line.said = body.tier, body.speaker, body.text
    asked = f"{body.speaker or 'the game'}: {body.text}" if body.text else "asked to decide"
    store.write(seen.time_s, "said", body.agent, asked, line=body.line)
    return ("lines", "log")


@_on("accepted")
def _accepted(store: Store, body: Accepted, seen: Seen) -> tuple[str, ...]:
    line = store.line(body.line, body.agent, seen.time_s)
    line.tier, line.adapter, line.owned = body.tier, body.adapter, True
    line.text, line.num_deltas = "", 0  # what telemetry told of it comes again as pieces
    return ("lines",)


@_on("line_delta", "piece")
def _line_delta(store: Store, body: LineDelta, seen: Seen) -> tuple[str, ...]:
    line = store.line(body.line, body.agent, seen.time_s)
    if line.state == "speaking" and line.owned == (seen.name == "piece"):
        line.text += body.text
        line.num_deltas += 1
    return ("lines",)


def take(line: Line, info: LineInfo, ended_s: float) -> None:
    """Copy what is known of a spoken line; its text replaces what the deltas gave."""
    line.tier, line.text, line.state = info.tier, info.text, "spoken"
    line.speaker, line.said = info.speaker or line.speaker, info.said or line.said
    line.adapter, line.usage, line.seed = info.adapter, info.usage, info.seed
    line.emotion, line.actions = info.emotion, tuple(info.actions)
    line.fallback, line.cause = info.fallback, info.cause
    line.ended_s = info.time_s or ended_s


@_on("line_ended")
def _line_ended(store: Store, body: LineInfo, seen: Seen) -> tuple[str, ...]:
    line = store.line(body.line, body.agent, seen.time_s)
    if line.logged:
        return ()
    line.logged = True
    take(line, body, seen.time_s)
    level = "warning" if body.fallback else "line"
    text = f"{body.text} (fallback: {body.cause})" if body.fallback else body.text
    store.write(seen.time_s, level, body.agent, text, line=body.line)
    _spoken(store, line)
    return ("lines", "log", "agents")


def _spoken(store: Store, line: Line) -> None:
    """Let the agent's row tell of its newest line at once, between two polls."""
    if (info := store.agents.get(line.agent)) is None:
        return
    usage = line.usage
    store.agents[line.agent] = info.model_copy(
        update={
            "last_line": line.line,
            "last_text": line.text,
            "adapter": info.adapter or line.adapter,
            "ttft_ms": usage.ttft_ms if usage else info.ttft_ms,
            "tokens_per_s": usage.tokens_per_s if usage else info.tokens_per_s,
        }
    )


@_on("line_failed")
def _line_failed(store: Store, body: LineFailed, seen: Seen) -> tuple[str, ...]:
    line = store.line(body.line, body.agent, seen.time_s)
    if line.logged:
        return ()
    line.logged = True
    line.state, line.ended_s = "failed", seen.time_s
    line.note = f"{body.code}: {body.message}" if body.message else body.code
    level = "info" if body.code == "cancelled" else "error"
    store.write(seen.time_s, level, body.agent, line.note, line=body.line)
    if level == "error" and (info := store.agents.get(body.agent)):
        store.agents[body.agent] = info.model_copy(update={"last_error": line.note})
    return ("lines", "log", "agents")


@_on("lines")
def _lines(store: Store, body: LinesReply, seen: Seen) -> tuple[str, ...]:
    """History from before the console came: older than what it has seen, so it goes in front."""
    for info in body.lines:  # newest first
        if info.line not in store.lines:
            line = store.line(info.line, info.agent, info.time_s)
            take(line, info, info.time_s)
            line.announced = line.logged = True
            store.lines.move_to_end(info.line, last=False)
    return ("lines",)


@_on("inspect")
def _inspect(store: Store, body: InspectReply, seen: Seen) -> tuple[str, ...]:
    store.inspections[body.line] = body
    while len(store.inspections) > MAX_INSPECTIONS:
        store.inspections.popitem(last=False)
    if body.line not in store.lines:
        take(store.line(body.line, body.agent, body.time_s), body, body.time_s)
    return ("inspections", "lines")


@_on("adapters")
def _adapters(store: Store, body: AdaptersReply, seen: Seen) -> tuple[str, ...]:
    listed = {adapter.name: adapter for adapter in body.adapters}
    store.adapters = listed if seen.about == "list" else {**store.adapters, **listed}
    return ("adapters",)


@_on("adapter_changed")
def _adapter_changed(store: Store, body: AdapterChanged, seen: Seen) -> tuple[str, ...]:
    store.adapters[body.name] = body
    level = "error" if body.error else "info"
    text = f"adapter {body.name} v{body.version}: {body.error or body.what or 'changed'}"
    store.write(seen.time_s, level, ", ".join(body.agents), text)
    return ("adapters", "log")


@_on("trouble")
def _trouble(store: Store, body: None, seen: Seen) -> tuple[str, ...]:
    """An action on an adapter failed, or (with nothing to say) was tried again."""
    name, _, why = seen.about.partition("\n")
    store.troubles.pop(name, None)
    if why:
        store.troubles[name] = why
        store.write(seen.time_s, "error", "", f"adapter {name}: {why}")
    return ("adapters", "log")


@_on("director")
def _director(store: Store, body: DirectorReply, seen: Seen) -> tuple[str, ...]:
    store.held, store.events_waiting = body.held, body.events_waiting
    before = store.director_state
    if before:
        changed = {key: before.get(key) for key in body.state if body.state[key] != before.get(key)}
        store.state_changes = changed or store.state_changes
    store.director_state = dict(body.state)
    if body.items:
        store.timeline.clear()
        store.timeline.extend(body.items)
    return ("director",)


@_on("world_event")
def _world_event(store: Store, body: WorldEvent, seen: Seen) -> tuple[str, ...]:
    item = TimelineItem(
        kind="event", text=f"{body.kind}: {body.text}", time_s=seen.time_s, now=body.now
    )
    store.timeline.append(item)
    return ("director",)


@_on("director_decided")
def _decided(store: Store, body: DirectorDecided, seen: Seen) -> tuple[str, ...]:
    words = ", ".join(f"{key} {value}" for key, value in body.directive.items())
    store.timeline.append(
        TimelineItem(
            kind="wait" if body.waited else "directive",
            text=words,
            line=body.line,
            time_s=seen.time_s,
            now=body.now,
            tension=body.tension,
            wanted=body.wanted,
        )
    )
    return ("director",)


@_on("stats")
def _stats(store: Store, body: StatsReply, seen: Seen) -> tuple[str, ...]:
    store.samples.append((seen.time_s, body))
    return ("stats",)


@_on("log")
def _log(store: Store, body: Logged, seen: Seen) -> tuple[str, ...]:
    """A row, but for the server's notes of what this console itself asks every few seconds."""
    welcome = store.connection.welcome
    if welcome is not None and f'"session": "{welcome.session}"' in body.text:
        return ()
    store.write(seen.time_s, body.level, body.agent, body.text, request=body.request)
    return ("log",)


@_on("memory")
def _memory(store: Store, body: MemoryReply, seen: Seen) -> tuple[str, ...]:
    """All of a character's memories; the answer to a change holds one, and is about nobody."""
    if not seen.about:
        return ()
    store.memories[seen.about] = body
    return ("memories",)


@_on("lore")
def _lore(store: Store, body: LoreReply, seen: Seen) -> tuple[str, ...]:
    store.lore[seen.about] = body
    return ("memories",)


@_on("saves")
def _saves(store: Store, body: SavesReply, seen: Seen) -> tuple[str, ...]:
    store.saves = body
    return ("memories",)


@_on("read")
def _read(store: Store, body: ReadReply, seen: Seen) -> tuple[str, ...]:
    store.pages[body.agent] = body
    return ("books",)


@_on("feedback")
def _feedback(store: Store, body: None, seen: Seen) -> tuple[str, ...]:
    line, _, verdict = seen.about.partition("\n")
    if known := store.lines.get(line):
        known.verdict = verdict
    return ("lines",)


@_on("answered")
def _answered(store: Store, body: Any, seen: Seen) -> tuple[str, ...]:
    """A reply to the console's own say or ask, which knows more than telemetry tells."""
    line = store.line(body.line, body.agent, seen.time_s)
    line.tier, line.text, line.state = body.tier, body.text, "spoken"
    line.adapter, line.usage, line.seed = body.adapter, body.usage, body.seed
    line.fallback, line.cause = body.fallback, body.cause
    line.emotion = getattr(body, "emotion", "")
    line.actions = tuple(getattr(body, "actions", ()))
    line.passages = tuple(getattr(body, "passages", ()))
    line.abstained = getattr(body, "abstained", False)
    line.ended_s = line.ended_s or seen.time_s
    return ("lines",)
