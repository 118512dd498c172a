"""The director: gathers what happens, paces tension toward the author's curve, gives directions.

Its prompt has a fixed size however long the game lasts: the story so far is a rolling summary
of the last few turns, not a transcript. Authored canon always wins: a directive that goes
against it becomes `wait`, and where its model waits although the story is far off the author's
curve, an event is staged that leads back. The timeline says why.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from engine.requests import Message
from roles.prompt import OFF_CURVE, director_system, director_turn, one_line, pace
from roles.store import Store
from roles.world import World

_STORY_ITEMS = 4  # of the past, in the summary
_SEEN_EVENTS = 8  # at one tick; what is left waits for the next
_THREADS = 4
_ITEM_CHARS = 120
WAIT: dict[str, Any] = {"do": "wait"}


@dataclass(slots=True)
class Stage:
    """The director's state; kept in the store.

    Attributes:
        tension: 0 to 10, at game time `now`.
        waiting: events no tick has seen yet, oldest first.
        happened: names of authored events that have happened.
        story: what the summary is made of, oldest first.
        threads: open threads and quests, by name.
        held: ticks by the game are answered with wait.
        staged: the event that was ordered last; until it has happened no other is by pace alone.
    """

    tension: float
    now: float = 0.0
    waiting: list[str] = field(default_factory=list)
    happened: list[str] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    threads: dict[str, str] = field(default_factory=dict)
    held: bool = False
    staged: str = ""


class Director:
    """Keeps the stage, and judges what its model wants."""

    def __init__(self, world: World, store: Store) -> None:
        self.world, self._store = world, store
        saved = store.get("director", {})
        self.stage = Stage(**{"tension": world.spec.pacing.start, **saved})

    @property
    def happened(self) -> frozenset[str]:
        """Authored events that have happened, for facts that are known only after them."""
        return frozenset(self.stage.happened)

    @property
    def wanted(self) -> float:
        """Where the author wants the tension now, 0 to 10."""
        return self.world.spec.pacing.wanted(self.stage.now / 60)

    def keep(self) -> None:
        """Write the stage to the store."""
        self._store.set("director", asdict(self.stage))

    def advance(self, now: float | None) -> None:
        """Move the game clock; tension fades as time passes. The clock never goes back."""
        if now is None or now <= self.stage.now:
            return
        minutes = (now - self.stage.now) / 60
        self.stage.tension -= minutes * self.world.spec.pacing.calm_per_minute
        self.stage.tension = _clamp(self.stage.tension)
        self.stage.now = now

    def take_event(self, kind: str, text: str, importance: float, data: Mapping[str, Any]) -> None:
        """Something happened."""
        known = self.world.spec.events.get(kind)
        rise = known.tension if known else (importance - 0.3) * 2
        self.stage.tension = _clamp(self.stage.tension + rise)
        if kind in self.world.spec.events and kind not in self.stage.happened:
            self.stage.happened.append(kind)
        for name, value in data.items():
            if value is None:
                self.stage.threads.pop(name, None)
            else:
                self.stage.threads[name] = _short(f"{name.replace('_', ' ')}: {value}")
        self.stage.waiting.append(_short(text))
        self.record("event", text)
        self.keep()

    def note(self, text: str) -> None:
        """Something it should know of at its next tick, without weight of its own."""
        self.stage.waiting.append(_short(text))
        self.keep()

    def prompt(self) -> tuple[Message, ...]:
        """What the model sees at a tick."""
        spec, stage = self.world.spec, self.stage
        return (
            director_system(spec.title, spec.premise, self.world.directive_lines()),
            director_turn(
                tension=round(stage.tension),
                wanted=round(self.wanted),
                summary=" ".join(stage.story[-_STORY_ITEMS:]),
                state=list(stage.threads.values())[-_THREADS:],
                events=stage.waiting[:_SEEN_EVENTS],
            ),
        )

    def closed(self, hushed: frozenset[str]) -> dict[str, frozenset[str]]:
        """What no directive can name now, by kind: who is in a scripted scene, events that have
        happened or would lead away from the author's curve."""
        stage = self.stage
        wrong = wrong_way(self.world, round(stage.tension), round(self.wanted))
        return {"npc": hushed, "event": wrong | self.happened}

    def decide(self, answer: str, hushed: frozenset[str]) -> tuple[dict[str, Any], str]:
        """Read the model's answer; canon overrules it where they disagree, and the curve where
        it waits.

        Returns the directive and, where it isn't the model's, why.
        """
        try:
            directive = json.loads(answer)
        except ValueError:
            return dict(WAIT), "the model's answer was not whole"
        if not isinstance(directive, dict) or "do" not in directive:
            return dict(WAIT), "the model's answer was no directive"
        if why := self._against_canon(directive, hushed):
            return dict(WAIT), f"overruled {json.dumps(directive)}: {why}"
        if directive == WAIT and (due := self._due(hushed)):
            return due, f"paced {json.dumps(due)}: the story is {self._pace()}"
        return directive, ""

    def settle(self, directive: Mapping[str, Any], line: str, overruled: str) -> None:
        """A tick is over: what it saw becomes story, what it decided changes the stage."""
        stage = self.stage
        seen, stage.waiting = stage.waiting[:_SEEN_EVENTS], stage.waiting[_SEEN_EVENTS:]
        stage.story = [*stage.story, *seen][-_STORY_ITEMS:]
        call = self.world.spec.directives.get(str(directive.get("do")))
        if call is not None:
            stage.tension = _clamp(stage.tension + call.tension)
            ordered = [directive[name] for name, kind in call.arguments.items() if kind == "event"]
            stage.staged = str(ordered[0]) if ordered else stage.staged
        kind = "wait" if directive.get("do") == "wait" else "directive"
        self.record(kind, overruled or json.dumps(directive), line)
        self.keep()

    def direction(self, directive: Mapping[str, Any]) -> tuple[str, str, str] | None:
        """Whom a directive directs, with which mood and goal; None if it directs nobody."""
        call = self.world.spec.directives.get(str(directive.get("do")))
        if call is None:
            return None
        by_kind = {str(kind): name for name, kind in call.arguments.items()}
        if "npc" not in by_kind:
            return None
        goal = call.goal.format_map(_Blanks(directive)) if call.goal else ""
        goal = goal or str(directive.get(by_kind.get("text", ""), ""))
        mood = str(directive.get(by_kind.get("emotion", ""), ""))
        return str(directive[by_kind["npc"]]), mood, goal

    def record(self, kind: str, text: str, line: str | None = None) -> None:
        """Write into the timeline."""
        with self._store.transaction() as database:
            database.execute(
                "INSERT INTO timeline(kind, text, line, time_s, now, tension, wanted) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (kind, text, line, time.time(), self.stage.now, self.stage.tension, self.wanted),
            )

    def timeline(self, limit: int) -> list[dict[str, Any]]:
        """The last items of the timeline, oldest first."""
        columns = ("kind", "text", "line", "time_s", "now", "tension", "wanted")
        rows = self._store.database.execute(
            f"SELECT {', '.join(columns)} FROM timeline ORDER BY id DESC LIMIT ?", (limit,)
        ).fetchall()
        return [dict(zip(columns, row, strict=True)) for row in reversed(rows)]

    def _pace(self) -> str:
        return pace(round(self.stage.tension), round(self.wanted))

    def _due(self, hushed: frozenset[str]) -> dict[str, Any] | None:
        """What to stage by pace alone; nothing in a scripted scene or while an order is open."""
        stage = self.stage
        if hushed or stage.staged not in ("", *stage.happened):
            return None
        return event_due(self.world, round(stage.tension), round(self.wanted), self.happened)

    def _against_canon(self, directive: Mapping[str, Any], hushed: frozenset[str]) -> str:
        call = self.world.spec.directives.get(str(directive["do"]))
        if call is None:
            return ""
        for argument, kind in call.arguments.items():
            value = directive.get(argument)
            if kind == "npc" and value in hushed:
                return f"{value} is in a scripted scene"
            if kind == "event" and value in self.stage.happened:
                return f"{value} has happened already"
        return ""


def wrong_way(world: World, tension: int, wanted: int) -> frozenset[str]:
    """Events that would take a story that is far off the author's curve further from it."""
    off = wanted - tension
    if abs(off) < OFF_CURVE:
        return frozenset()
    return frozenset(name for name, event in world.spec.events.items() if event.tension * off < 0)


def event_due(
    world: World, tension: int, wanted: int, gone: frozenset[str] = frozenset()
) -> dict[str, Any] | None:
    """The directive to stage what takes a story that is far off the author's curve nearest to it.

    None where it isn't far off, no event but those `gone` leads back, or nothing stages events.
    """
    off = wanted - tension
    left = {
        name: abs(off - event.tension)
        for name, event in world.spec.events.items()
        if event.tension * off > 0 and name not in gone
    }
    if abs(off) < OFF_CURVE or not left:
        return None
    for name, call in world.spec.directives.items():
        if list(call.arguments.values()) == ["event"]:
            return {"do": name, next(iter(call.arguments)): min(left, key=left.__getitem__)}
    return None


class _Blanks(dict[str, Any]):
    """Leaves a name in braces that nothing fills."""

    def __missing__(self, key: str) -> str:
        return f"{{{key}}}"


def _clamp(tension: float) -> float:
    return min(max(tension, 0.0), 10.0)


def _short(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= _ITEM_CHARS else f"{line[: _ITEM_CHARS - 3]}..."
