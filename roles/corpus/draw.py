"""Random choices for one row: from a seed, and from one side of the held-out split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random
from typing import TypeVar

from roles.errors import GrammarError
from roles.grammar import Grammar

# One phrase in twenty never occurs as a subject or value of a training row.
_HELD_OUT_SHARE = 20
_MAX_TRIES = 2000
# Kinds with too few phrases to hold any out.
_CLOSED_KINDS = frozenset(
    {"color", "material", "reason", "objects", "kinship", "mass", "countable", "verb", "stuff"}
    | {"deed_verb", "place_verb", "quality", "scent", "sound"}
    | {"ruined", "daily", "unit", "taste", "vermin", "caught_verb", "manner_word"}
    | {"sum_is_four", "sum_is_ten", "pair"}
)

Item = TypeVar("Item")


def is_held_out(phrase: str) -> bool:
    """Whether a name or phrase is kept out of training; of a name, its last word decides."""
    key = phrase.rsplit(" ", 1)[-1] if phrase[:1].isupper() else phrase
    digest = hashlib.sha256(key.lower().encode()).digest()
    return digest[0] * 256 + digest[1] < 65536 // _HELD_OUT_SHARE


class Draw:
    """Seeded choices over a grammar.

    Attributes:
        rng: the row's random numbers.
        held_out: whether phrases come from the held-out side of the split.
    """

    def __init__(self, grammar: Grammar, seed: str, *, held_out: bool = False) -> None:
        self.grammar = grammar
        self.rng = Random(seed)
        self.held_out = held_out

    def chance(self, share: float) -> bool:
        """True with this probability."""
        return self.rng.random() < share

    def choice(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[self.rng.randrange(len(items))]

    def text(self, template: str, **bindings: str) -> str:
        """A template, expanded."""
        return self.grammar.expand(template, self.rng, bindings)

    def pick(self, symbol: str, **bindings: str) -> str:
        """One alternative of a symbol, expanded."""
        return self.grammar.pick(symbol, self.rng, bindings)

    def has(self, symbol: str) -> bool:
        """Whether the grammar defines a symbol."""
        return self.grammar.has(symbol)

    def phrase(self, kind: str) -> str:
        """A name or phrase of a kind (see words.yaml), from this side of the split.

        Raises:
            GrammarError: the kind has no phrase on this side.
        """
        for _ in range(_MAX_TRIES):
            phrase = self.pick(kind)
            if kind in _CLOSED_KINDS or is_held_out(phrase) == self.held_out:
                return phrase
        raise GrammarError(f"symbol {kind!r} has too few phrases to hold any out")

    def phrases(self, kind: str, count: int) -> list[str]:
        """Different phrases of a kind."""
        found: dict[str, None] = {}
        for _ in range(count * 20):
            found[self.phrase(kind)] = None
            if len(found) == count:
                break
        return list(found)
