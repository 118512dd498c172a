"""What single words tell that the nearest fact lacks: "mother" much, "find" little.

Counted on annotated questions. A word seen little borrows from those that mean nearly the same,
so that "aunt" tells something where only "mother" was ever asked for:

    odds(w) = log of unanswerable(w) over answerable(w), against all words' mean,
    each the sum over seen words u of count(u) * cos(w, u)^8, where that cosine is over 0.3
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from books.meaning import Array, read_vectors

_POWER, _LEAST_ALIKE = 8, 0.3
_TELLING = (-2.0, 2.5)  # one strange word must not outweigh everything


@dataclass(frozen=True, kw_only=True)
class WordOdds:
    """Log-odds of words, from counts of questions.

    Attributes:
        seen: by stem, in how many questions the nearest fact lacked it: of those that can be
            answered, and of those that can't.
    """

    seen: dict[str, tuple[int, int]]
    _known: dict[str, float] = field(default_factory=dict, init=False, compare=False, repr=False)

    def telling(self, missing: Sequence[str]) -> float:
        """What the missing words tell together."""
        low, high = _TELLING
        return sum(max(low, min(high, self._odds(word))) for word in missing)

    def _odds(self, word: str) -> float:
        if word not in self._known:
            self._known[word] = self._reckon(word)
        return self._known[word]

    def _reckon(self, word: str) -> float:
        vectors, counts = self._table
        alike = vectors @ read_vectors().of([word])[0]
        alike = np.where(alike > _LEAST_ALIKE, alike**_POWER, 0)
        inside, outside = (alike @ counts).tolist()
        if not alike.any():  # a word without a vector, or like no other
            inside, outside = self.seen.get(word, (0, 0))
        # As if each word had been seen once more, a little oftener where there is an answer.
        return math.log((outside + 0.7 * self._base + 0.2) / (inside + 0.9) / self._base)

    @cached_property
    def _base(self) -> float:
        """The odds of any word."""
        inside, outside = (sum(pair[side] for pair in self.seen.values()) for side in (0, 1))
        return (outside + 1) / (inside + 1)

    @cached_property
    def _table(self) -> tuple[Array, Array]:
        """Vectors [N, size] and counts [N, 2] of the words seen."""
        counts = np.array(list(self.seen.values()), dtype=np.float32)
        return read_vectors().of(list(self.seen)), counts.reshape(-1, 2)
