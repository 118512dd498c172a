"""Invented facts: a relation, its slots filled, and the ways to state, ask and answer it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from roles.corpus.draw import Draw
from roles.errors import GrammarError
from roles.grammar import flatten, read_yaml

_PRONOUNS = ({"pr": "she", "prm": "her", "pros": "her"}, {"pr": "he", "prm": "him", "pros": "his"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Relation:
    """A kind of fact.

    Attributes:
        about: the slot that the fact is about.
        value: the slot that answers the question.
        slots: slot to kind of phrase.
    """

    name: str
    about: str
    value: str
    slots: Mapping[str, str]

    @property
    def subject_kind(self) -> str:
        """The kind of phrase it says something about."""
        return self.slots[self.about]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """A relation with its slots filled, stated in one sentence."""

    relation: Relation
    slots: Mapping[str, str]
    text: str

    @property
    def subject(self) -> str:
        """What it is about."""
        return self.slots[self.relation.about]

    @property
    def value(self) -> str:
        """What an answer must contain."""
        return self.slots[self.relation.value]

    def ask(self, draw: Draw) -> str:
        """A question by name."""
        return draw.pick(f"{self.relation.name}/ask", **self.slots)

    def ask_again(self, draw: Draw) -> str:
        """A question by pronoun, when the subject has just been named."""
        return draw.pick(f"{self.relation.name}/it", **self.slots)

    def answer(self, draw: Draw) -> str:
        """The answer, in whole sentences."""
        text = draw.pick(f"{self.relation.name}/answer", **self.slots)
        return text[:1].upper() + text[1:]


class Relations:
    """Every relation of a file, and facts drawn from them."""

    def __init__(self, relations: list[Relation]) -> None:
        self.all = relations
        self.by_subject: dict[str, list[Relation]] = {}
        for relation in relations:
            self.by_subject.setdefault(relation.subject_kind, []).append(relation)

    @classmethod
    def load(cls, path: Path) -> tuple[Relations, dict[str, list[str]]]:
        """The relations of a YAML file, and their sentences as grammar symbols.

        Raises:
            GrammarError: a relation lacks a part.
        """
        relations, symbols = [], {}
        for name, table in read_yaml(path).items():
            if not isinstance(table, dict):
                raise GrammarError(f"{path}: {name} must be a table")
            missing = {"about", "value", "slots", "fact", "ask", "it", "answer"} - set(table)
            if missing:
                raise GrammarError(f"{path}: {name} lacks {', '.join(sorted(missing))}")
            about, value, slots = table["about"], table["value"], table["slots"]
            relations.append(Relation(name=name, about=about, value=value, slots=slots))
            sentences = {key: table[key] for key in ("fact", "ask", "it", "answer")}
            symbols.update(flatten(sentences, str(path), f"{name}/"))
        return cls(relations), symbols

    def fact(self, draw: Draw, *, about: Fact | None = None) -> Fact:
        """A new fact; with `about`, another one about the same subject."""
        if about is None:
            relation = draw.choice(self.all)
        else:
            same = self.by_subject[about.relation.subject_kind]
            relation = draw.choice([r for r in same if r is not about.relation] or same)
        slots = {slot: draw.phrase(kind) for slot, kind in relation.slots.items()}
        slots |= draw.choice(_PRONOUNS)
        if "v" in slots and "/" in slots["v"]:  # a verb in the two forms a sentence needs
            slots["past"], slots["base"] = slots["v"].split("/")
        if about is not None:
            slots[relation.about] = about.subject
            slots |= {key: about.slots[key] for key in ("pr", "prm", "pros")}
        text = draw.pick(f"{relation.name}/fact", **slots)
        return Fact(relation=relation, slots=slots, text=text[:1].upper() + text[1:])
