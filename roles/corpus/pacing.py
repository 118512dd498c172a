"""The director's ticks: what happened, how tense it is, and the one directive that fits.

The policy taught here: a scripted scene leaves the stage alone; an event that touches a
character directs that character; a player who is stuck gets a hint; someone who talks too much
is hushed; where nothing calls for it the director waits. That a story far off the author's curve
is led back is no model's work (`roles.director.event_due`). Most answers leave their free text
out, so that decisions make up more of what is learned; in play the grammar asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from roles.corpus.draw import Draw
from roles.corpus.source import Source
from roles.corpus.talk import Row
from roles.prompt import director_system, director_turn, reply
from roles.world import World

_TICKS = 4
_TRIFLES = 0.18  # of the ticks, in which nothing else happens
_WRITTEN = 0.4  # of the events that matter, taken from those written one by one
_WHOLE = 0.25  # of the directives, with their free text; what to do is the harder part to learn
_MAX_TRIES = 8
_NO_GOAL = "find out what the traveller is really after"


@dataclass(frozen=True, kw_only=True, slots=True)
class Happening:
    """An event and what a good director does about it; an empty directive: nothing."""

    event: str
    directive: dict[str, str]


class Pacing:
    """Ticks of one world's director."""

    def __init__(self, source: Source, world: World) -> None:
        self.source = source
        self.world = world
        spec = world.spec
        self.system = director_system(spec.title, spec.premise, world.directive_lines())
        self.kinds = source.parts("director", "kinds")
        self.world_kinds = source.parts("director", "world")
        self.written = source.shares("written")

    def rows(self, seed: int, count: int, *, held_out: bool) -> Iterator[Row]:
        """Rows of a few ticks that have nothing to do with each other."""
        side = "valid" if held_out else "train"
        for index in range(count):
            draw = Draw(self.source.grammar, f"{seed}:director:{side}:{index}", held_out=held_out)
            messages = [{"role": "system", "content": self.system.text}]
            for _ in range(_TICKS):
                asked, directive = self.tick(draw)
                answer = self._answer(draw, directive)
                messages.append({"role": "user", "content": asked})
                messages.append({"role": "assistant", "content": answer})
            yield {"messages": messages, "kind": "director", "agent": "director"}

    def _answer(self, draw: Draw, directive: dict[str, str]) -> str:
        """A directive as JSON, with or without its arguments of free text."""
        if not draw.chance(_WHOLE) and (call := self.world.spec.directives.get(directive["do"])):
            told = {name for name, kind in call.arguments.items() if kind == "text"}
            directive = {name: value for name, value in directive.items() if name not in told}
        return reply(json.dumps(directive, ensure_ascii=False)).text

    def tick(self, draw: Draw) -> tuple[str, dict[str, str]]:
        """What the director sees, and its directive."""
        tension, wanted = self._tension(draw)
        state = [self._text(draw, "director/state") for _ in range(draw.choice([0, 0, 0, 1, 2]))]
        events = [self._noise(draw) for _ in range(draw.choice([0, 0, 0, 1, 2]))]
        directive = {"do": "wait"}
        if draw.chance(0.04):
            state.append(self._text(draw, "director/scene_state"))
            events += [self._happening(draw).event] if draw.chance(0.6) else []
        elif not draw.chance(_TRIFLES):
            happening = self._happening(draw)
            events.append(happening.event)
            directive = happening.directive or directive
        draw.rng.shuffle(events)
        draw.rng.shuffle(state)
        asked = director_turn(
            tension=tension, wanted=wanted, summary=self._story(draw), state=state, events=events
        )
        return asked.text, directive

    def _tension(self, draw: Draw) -> tuple[int, int]:
        wanted = draw.rng.randint(1, 8)
        off = draw.choice([-6, -5, -4, -3, -2, -1, -1, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6])
        return min(max(wanted + off, 0), 10), wanted

    def _happening(self, draw: Draw) -> Happening:
        if draw.chance(_WRITTEN):
            return self._written(draw)
        roll = draw.rng.random()
        if roll < 0.62:
            return self._personal(draw)
        if roll < 0.76:
            return self._of_the_world(draw)
        if roll < 0.88:
            return self._stuck(draw)
        names = self._names(draw)
        if roll < 0.97:
            event = draw.pick("director/hush", **names)
            return Happening(event=event, directive={"do": "hush", "who": names["id"]})
        return Happening(event=draw.pick("director/scene_over", **names), directive={})

    def _written(self, draw: Draw) -> Happening:
        """An event that a writer wrote, and what is to be done about it, without free text."""
        names = self._names(draw)
        symbol = draw.rng.choices(list(self.written), list(self.written.values()))[0]
        event = draw.pick(symbol, **names)
        _, do, *moods = symbol.split("/")
        if do == "wait":
            return Happening(event=event, directive={})
        directive = {"do": do, "who": names["id"]}
        if moods:
            best, *others = moods[0].split()
            directive["mood"] = draw.choice([best, best, best, *others])
        return Happening(event=event, directive=directive)

    def _personal(self, draw: Draw) -> Happening:
        names = self._names(draw)
        kind = f"director/kinds/{draw.choice(self.kinds)}"
        return self._directed(draw, kind, names, names["id"])

    def _stuck(self, draw: Draw) -> Happening:
        """A thing that can't be found, or a puzzle that can't be solved."""
        names, symbol = self._names(draw), "director/stuck"
        if draw.chance(0.4):
            names["x"], symbol = draw.phrase("director/puzzle"), "director/puzzled"
        event = draw.pick(symbol, **names)
        about = draw.text("#x.the#", **names)
        return Happening(event=event, directive={"do": "hint", "who": names["id"], "about": about})

    def _of_the_world(self, draw: Draw) -> Happening:
        kind = f"director/world/{draw.choice(self.world_kinds)}"
        return self._directed(draw, kind, self._names(draw), draw.pick(f"{kind}/who"))

    def _directed(self, draw: Draw, kind: str, names: dict[str, str], npc: str) -> Happening:
        """An event of a kind, and the direction it gives; a goal names only what the event does."""
        event = draw.pick(f"{kind}/event", **names)
        goal = _NO_GOAL
        for _ in range(_MAX_TRIES):
            goal = draw.pick(f"{kind}/goal", **names)
            if names["x"] not in goal or names["x"] in event:
                break
            goal = _NO_GOAL
        mood = draw.pick(f"{kind}/mood")
        directive = {"do": "direct", "who": npc, "mood": mood, "goal": goal}
        return Happening(event=event, directive=directive)

    def _names(self, draw: Draw) -> dict[str, str]:
        npc, other = draw.rng.sample(list(self.world.npcs), 2)
        return {
            "id": npc,
            "who": self.world.npcs[npc].name,
            "other": self.world.npcs[other].name,
            "x": draw.phrase("thing"),
            "b": draw.choice(list(self.world.spec.places.values())),
            "p": draw.pick("director/player"),
        }

    def _noise(self, draw: Draw) -> str:
        return self._text(draw, "director/noise")

    def _text(self, draw: Draw, symbol: str) -> str:
        return draw.pick(symbol, **self._names(draw))

    def _story(self, draw: Draw) -> str:
        if draw.chance(0.5):
            return ""
        parts = []
        for _ in range(draw.rng.randint(1, 2)):
            roll = draw.rng.random()
            if roll < 0.5:
                parts.append(self._text(draw, "director/story"))
            elif roll < 0.8:
                parts.append(self._noise(draw))
            else:
                parts.append(self._happening(draw).event)
        return " ".join(parts)
