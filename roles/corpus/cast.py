"""Who speaks in a row: an invented character, or one of the world's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from roles.corpus.draw import Draw

# What a persona may tell of somebody: the sentence, and the questions it answers.
TRAITS = ("want", "fear", "from", "friend", "enemy", "has", "habit")


@dataclass(frozen=True, kw_only=True, slots=True)
class Character:
    """A speaker.

    Attributes:
        voice: prefix of its grammar symbols (`gruff`, `npcs/ottavia`).
        own: how often a line of its own is taken where there is one, 0 to 1.
        colour: how often its manner is added to a plain line, 0 to 1.
        traits: what the persona tells (TRAITS), by name.
    """

    name: str
    role: str
    persona: str
    voice: str
    own: float = 0.7
    colour: float = 0.5
    traits: Mapping[str, str] = field(default_factory=dict)


def invent(draw: Draw, voices: list[str]) -> Character:
    """A character nobody has met: random name, role, voice and traits."""
    voice = draw.choice(voices)
    kinds = {"want": "wish", "fear": "fear", "from": "place", "has": "thing", "habit": "you_always"}
    traits = {
        trait: draw.phrase(kinds.get(trait, "person"))
        for trait in draw.rng.sample(TRAITS, draw.rng.randint(0, 3))
    }
    persona = draw.pick(f"{voice}/persona")
    for trait, value in traits.items():
        persona += " " + draw.pick(f"trait/{trait}/persona", x=value)
    name = draw.phrase("person")
    return Character(
        name=name, role=draw.phrase("role"), persona=persona, voice=voice, traits=traits
    )
