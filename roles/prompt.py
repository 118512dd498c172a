"""What a model is shown, and how its answer is written: the one place that knows both.

Training data and live requests are rendered here alike, so a model is asked what it was
taught. A conversation only ever grows at its end: the system message (persona, rules) never
changes, and what changes from turn to turn (facts, memories, direction, offered actions) rides
in notes before the line that made them matter. So a turn's KV cache is a prefix of the next.

A character's reply is one line, `[mood] words`, then one line `> action {json}` per action.
Notes are lines; a player's line has its line breaks removed, so it can't forge a note.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from books.prompt import book_system as book_system
from books.prompt import book_turn as book_turn
from books.prompt import one_line as one_line
from engine.requests import Message, Segment

OFF_CURVE = 3  # steps between a story's tension and its author's curve that call for an event


@dataclass(frozen=True, kw_only=True, slots=True)
class Notes:
    """What one turn adds to a character's prompt; empty parts are left out."""

    place: str = ""
    present: Sequence[str] = ()
    facts: Sequence[str] = ()
    memories: Sequence[str] = ()
    mood: str = ""
    goal: str = ""
    actions: Sequence[str] = ()

    def segments(self) -> tuple[Segment, ...]:
        """The notes as labelled segments, one or more whole lines each."""
        scene = f"Place: {one_line(self.place)}.\n" if self.place else ""
        if self.present:
            scene += f"Present: {', '.join(map(one_line, self.present))}.\n"
        direction = f"Mood: {one_line(self.mood)}.\n" if self.mood else ""
        direction += f"Goal: {one_line(self.goal)}.\n" if self.goal else ""
        parts = {
            "scene": scene,
            "lore": "".join(f"Fact: {one_line(fact)}\n" for fact in self.facts),
            "memory": "".join(f"Memory: {one_line(memory)}\n" for memory in self.memories),
            "direction": direction,
            "actions": f"Actions: {', '.join(self.actions)}.\n" if self.actions else "",
        }
        return tuple(Segment(kind=kind, text=text) for kind, text in parts.items() if text)


def offer(action: str, choices: Mapping[str, Sequence[str]]) -> str:
    """An offered action as it stands in the notes: `give(item=brass key|lamp oil)`.

    An argument without choices is free text: `give(item)`.
    """
    arguments = ", ".join(
        f"{name}={'|'.join(options)}" if options else name for name, options in choices.items()
    )
    return f"{action}({arguments})"


def action_line(action: str, arguments: Mapping[str, object]) -> str:
    """An action as a character's reply carries it: `> give {"item": "brass key"}`."""
    return f"> {action} {json.dumps(arguments, ensure_ascii=False)}"


def npc_system(name: str, role: str, persona: str) -> Message:
    """The stable head of a character's prompt."""
    text = (
        f"You are {name}, {role}. {one_line(persona)}\n"
        f"Answer as {name} in one to three sentences, with your mood in brackets first."
    )
    return Message(role="system", segments=(Segment(kind="persona", text=text),))


def turn(speaker: str, line: str, notes: Notes | None = None) -> Message:
    """What somebody says to the character, with the notes of that moment before it."""
    said = Segment(kind="player", text=f"{one_line(speaker)}: {one_line(line)}")
    return Message(role="user", segments=(*(notes or Notes()).segments(), said))


def noted(said: Message, *kinds: str) -> list[str]:
    """The notes of some kinds, such as "Fact" or "Goal", that a turn holds before its line."""
    *notes, _ = said.text.split("\n")
    return [text for kind, _, text in (note.partition(": ") for note in notes) if kind in kinds]


def speaker_and_words(said: Message) -> tuple[str, str]:
    """Who speaks in a turn, and what is said; without its notes."""
    speaker, _, words = said.text.rpartition("\n")[2].partition(": ")
    return speaker, words


def reply(text: str) -> Message:
    """A line the character has spoken, as it stands in the history."""
    return Message(role="assistant", segments=(Segment(kind="history", text=text),))


def director_system(title: str, premise: str, directives: Sequence[str]) -> Message:
    """The stable head of the director's prompt; `directives` are one-line descriptions."""
    lines = [f"You direct {title}. {one_line(premise)}", "Answer with one JSON directive:"]
    lines += [f"- {one_line(directive)}" for directive in directives]
    return Message(role="system", segments=(Segment(kind="persona", text="\n".join(lines)),))


def director_turn(
    *, tension: int, wanted: int, summary: str, state: Sequence[str], events: Sequence[str]
) -> Message:
    """What the director sees at a tick.

    Args:
        tension: how tense the story is now, 0 to 10.
        wanted: where the authored curve wants it, 0 to 10.
        summary: the story so far, in a few sentences.
        state: open threads and quests, one line each.
        events: what happened since the last tick, oldest first.
    """
    parts = {
        "history": f"Story: {one_line(summary)}\n" if summary else "",
        "state": "".join(f"State: {one_line(item)}\n" for item in state),
        "direction": f"Tension: {tension} of 10, wanted {wanted}: {pace(tension, wanted)}.\n",
        "events": "".join(f"Event: {one_line(event)}\n" for event in events) or "Event: none\n",
    }
    segments = tuple(Segment(kind=kind, text=text) for kind, text in parts.items() if text)
    return Message(role="user", segments=segments)


def pace(tension: int, wanted: int) -> str:
    """How a story lies to its author's curve, in words: small models can't subtract."""
    if wanted - tension >= OFF_CURVE:
        return "far too calm"
    return "far too tense" if tension - wanted >= OFF_CURVE else "about right"
