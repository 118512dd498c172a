"""Conversations: a character, what is known, felt and offered, and a few turns of talk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from roles.corpus.cast import Character
from roles.corpus.draw import Draw
from roles.corpus.facts import Fact, Relations
from roles.prompt import Notes, npc_system, offer, reply, turn

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stock:
    """What conversations are made of.

    Attributes:
        intents: small talk by name (talk.yaml).
        goals: what a director may ask, by name: its slots and when it is done (goals.yaml).
        actions: what a game may offer, by name: arguments to kinds (actions.yaml).
        moods: every mood that may be noted.
        spelled: whether actions and their arguments go by any of many spellings, or by the
            world's own.
    """

    relations: Relations
    intents: Sequence[str]
    intent_moods: dict[str, list[str]]
    intent_topics: dict[str, str]
    goals: dict[str, dict[str, str]]
    goals_instead: frozenset[str]
    actions: dict[str, dict[str, str]]
    moods: Sequence[str]
    spelled: bool = True


@dataclass(kw_only=True, slots=True)
class Line:
    """One exchange while it is composed.

    Attributes:
        asked, core: the player's words, and the heart of the answer.
        goal, goal_line: what the director wants, and how the character does it.
        offers, action: what the game offers, and the reply's action line.
        own: the core is already in the character's manner.
        bare: nothing is said before or after the core.
        must: texts the reply has to contain.
    """

    asked: str
    core: str
    facts: list[Fact | str] = field(default_factory=list)
    memories: list[str] = field(default_factory=list)
    mood: str = ""
    goal: str = ""
    goal_line: str = ""
    offers: list[str] = field(default_factory=list)
    action: str = ""
    place: str = ""
    present: list[str] = field(default_factory=list)
    own: bool = False
    bare: bool = False
    must: list[str] = field(default_factory=list)


class Conversation:
    """A few turns between one character and one speaker."""

    def __init__(self, draw: Draw, stock: Stock, character: Character, you: str) -> None:
        self.draw = draw
        self.stock = stock
        self.me = character
        self.you = you
        self.place = draw.phrase("place")
        self.others = draw.phrases("person", draw.rng.randint(1, 2)) if draw.chance(0.3) else []
        self.place_noted = self.others_noted = False
        self.known: list[Fact] = []
        self.last: Fact | None = None
        self.must: list[str] = []
        self.messages = [npc_system(character.name, character.role, character.persona)]

    def row(self, kind: str, agent: str | None) -> Row:
        """The conversation as a training row."""
        messages = [{"role": m.role, "content": m.text} for m in self.messages]
        row: Row = {"messages": messages, "kind": kind, "agent": agent}
        if self.must:
            row["copy"] = self.must
        return row

    def add(self, line: Line) -> None:
        """Give the line a mood, facts, perhaps a goal and offers; then say and answer it."""
        draw = self.draw
        noted = draw.chance(0.5)
        self._feel(line, noted)
        self._direct(line)
        self._offer(line)
        self._set_scene(line)
        facts = self._with_distractors(line.facts)
        notes = Notes(
            place=line.place,
            present=line.present,
            facts=facts,
            memories=self._memories(line),
            mood=line.mood if noted else "",
            goal=line.goal,
            actions=line.offers,
        )
        self.messages.append(turn(self.you, untidy(draw, line.asked), notes))
        self.messages.append(reply(self._dressed(line, noted)))
        self.must = line.must

    def lookup(self, symbol: str, fallback: str) -> tuple[str, bool]:
        """The character's own symbol where it has one (mostly), or the common one."""
        own = f"{self.me.voice}/{symbol}"
        if self.draw.has(own) and self.draw.chance(self.me.own):
            return own, True
        return fallback, False

    def say(self, symbol: str, fallback: str, **bindings: str) -> tuple[str, bool]:
        """A line for a symbol, and whether it is one of the character's own."""
        found, own = self.lookup(symbol, fallback)
        return self.draw.pick(found, **self.names(), **bindings), own

    def names(self) -> dict[str, str]:
        """What any line may mention."""
        return {"me": self.me.name, "you": self.you, "role": self.me.role, "here": self.place}

    def _set_scene(self, line: Line) -> None:
        """Place and company are noted once, mostly at the start, as live talks do."""
        first = len(self.messages) == 1
        if not self.place_noted and (line.place or (first and self.draw.chance(0.7))):
            line.place, self.place_noted = self.place, True
        elif line.place:
            line.place = ""
        if self.others and not self.others_noted and (line.present or first):
            line.present, self.others_noted = self.others, True
        elif line.present:
            line.present = []

    def _feel(self, line: Line, noted: bool) -> None:
        """A mood: what the line calls for, or else the noted one, or the character's own."""
        if line.mood and not (noted and self.draw.chance(0.3)):
            return
        line.mood = self.draw.choice(self.stock.moods) if noted else self.usual_mood()

    def usual_mood(self) -> str:
        """What this character feels when nothing moves it."""
        symbol = f"{self.me.voice}/moods"
        has = self.draw.has(symbol)
        return self.draw.pick(symbol) if has else self.draw.choice(self.stock.moods)

    def _direct(self, line: Line) -> None:
        draw = self.draw
        if line.goal or not draw.chance(0.2):
            return
        name = draw.choice(list(self.stock.goals))
        slots = {slot: draw.phrase(kind) for slot, kind in self.stock.goals[name].items()}
        them = draw.choice(["the visitor", "the player", "the guest", self.you])
        line.goal = draw.pick(f"{name}/note", you=self.you, them=them, **slots)
        line.goal_line, _ = self.say(f"goal/{name}", f"{name}/do", **slots)
        line.must = line.must + list(slots.values())
        if name in self.stock.goals_instead:
            line.core, line.must, line.action, line.own = line.goal_line, [], "", True
            line.goal_line, line.bare = "", True

    def _offer(self, line: Line) -> None:
        """Mostly irrelevant offers, so that an offer alone is no reason to act."""
        if not line.offers and not line.action and self.draw.chance(0.15):
            line.offers = [some_offer(self.draw, self.stock)[1]]

    def _with_distractors(self, facts: list[Fact | str]) -> list[str]:
        draw = self.draw
        texts = [fact.text if isinstance(fact, Fact) else fact for fact in facts]
        count = draw.choice([0, 0, 0, 1, 1, 2, 3] if facts else [0, 0, 0, 0, 0, 1, 2])
        for _ in range(count):
            about = next((f for f in facts if isinstance(f, Fact)), None)
            near = about if about is not None and draw.chance(0.15) else None
            other = self.stock.relations.fact(draw, about=near)
            if near is None or about is None or other.relation is not about.relation:
                texts.append(other.text)
                self.known.append(other)
        draw.rng.shuffle(texts)
        return texts

    def _memories(self, line: Line) -> list[str]:
        memories = list(line.memories)
        if self.draw.chance(0.1):
            memories.append(deed_note(self.draw, self.me.name, self.draw.phrase("person"))[0])
        self.draw.rng.shuffle(memories)
        return memories

    def _dressed(self, line: Line, noted: bool) -> str:
        """The reply: mood, perhaps an opening, the core, perhaps a goal's or a closing line."""
        draw, mood = self.draw, line.mood
        parts = [line.core]
        if not line.bare:
            strong = 0.7 if noted else 0.35
            where = draw.choice(["open", "close"]) if not line.goal_line else "open"
            coloured = draw.chance(strong if not line.own else strong * 0.5)
            if coloured:
                piece = self._coloured(mood, where)
            elif not line.own and draw.chance(self.me.colour):
                piece = self._flavoured(where)
            else:
                piece = ""
            parts = [piece, line.core] if where == "open" else [line.core, piece]
        parts.append(line.goal_line)
        words = " ".join(part for part in parts if part)
        said = f"[{mood}] {words}"
        return f"{said}\n{line.action}" if line.action else said

    def _coloured(self, mood: str, where: str) -> str:
        symbol = f"mood/{mood}/{where}"
        found, _ = self.lookup(symbol, symbol)
        return self.draw.pick(found, **self.names()) if self.draw.has(found) else ""

    def _flavoured(self, where: str) -> str:
        symbol = f"{self.me.voice}/{where}"
        text = self.draw.pick(symbol, **self.names()) if self.draw.has(symbol) else ""
        return "" if text.endswith(",") else text


def untidy(draw: Draw, text: str) -> str:
    """A player's line as players type: sometimes a lead-in, no capitals or no marks."""
    roll = draw.rng.random()
    if roll < 0.12 and text[-1:] == "?":
        lead = draw.pick("lead")
        first = text.split(" ", 1)[0]
        return f"{lead} {text if lead[-1] in '.:' or first == 'I' else text[0].lower() + text[1:]}"
    if roll < 0.2:
        return text.rstrip("?.!")
    if roll < 0.3:
        return text.lower().rstrip(".")
    return text


def some_offer(draw: Draw, stock: Stock) -> tuple[str, str, str, dict[str, list[str]]]:
    """An offer: the kind of action, as offered, its name in this game, its arguments' choices."""
    kind = draw.choice(list(stock.actions))
    name = draw.pick(f"{kind}/name") if stock.spelled else kind
    choices = {}
    for argument, phrase in stock.actions[kind].items():
        spelled = stock.spelled and draw.has(f"{kind}/arg_name")
        spelling = draw.pick(f"{kind}/arg_name") if spelled else argument
        choices[spelling] = draw.phrases(phrase, draw.choice([1, 1, 2, 3]))
    free_text = draw.chance(0.2)
    shown = offer(name, {key: () if free_text else texts for key, texts in choices.items()})
    return kind, shown, name, choices


def deed_note(draw: Draw, me: str, who: str) -> tuple[str, str]:
    """A memory of somebody, and the deed as the character tells it to their face."""
    slots = {"x": draw.phrase("thing"), "p": draw.phrase("person"), "b": draw.phrase("place")}
    state = draw.rng.getstate()
    note = draw.pick("memory/deed", who=me, **slots)
    draw.rng.setstate(state)
    deed = draw.pick("memory/deed", who="me", **slots)
    return f"{who} {note}.", deed


Intent = Callable[[Conversation], Line]
