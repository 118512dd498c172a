"""What words mean, roughly: a vector per stem, distilled from a sentence encoder.

A reader's "puppy" is no word of a fact that has "dog"; the cosine of their vectors, 0.73, still
tells that they are near. The file is made by `books.vectors`, which tells source and licence;
reading it needs no encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

VECTORS_PATH = Path(__file__).with_name("vectors.safetensors")
Array = npt.NDArray[np.float32]  # not torch's, which a game's process does without


class Vectors:
    """Unit vectors of stems; a stem that has none is near nothing."""

    def __init__(self, stems: Sequence[str], vectors: npt.NDArray[np.int8]) -> None:
        """`vectors`: [N, size], of any lengths."""
        self._rows = {stem: row for row, stem in enumerate(stems)}
        # The last row is that of strange words.
        self._vectors = np.pad(_unit(vectors.astype(np.float32)), ((0, 1), (0, 0)))

    def of(self, stems: Sequence[str]) -> Array:
        """[len(stems), size]; zeros for a stem without a vector."""
        strange = len(self._vectors) - 1
        rows = [self._rows.get(stem, strange) for stem in stems]
        found: Array = self._vectors[np.array(rows, dtype=np.intp)]
        return found

    def mean(self, rarity: Mapping[str, float]) -> Array:
        """Unit vector [size] of a text: of its stems' vectors, weighed by their rarity."""
        return _unit(_numbers(rarity) @ self.of(list(rarity)))


@lru_cache(maxsize=1)
def read_vectors() -> Vectors:
    """The vectors that come with this package."""
    stored = load_file(VECTORS_PATH)
    stems = stored["stems"].tobytes().decode().split("\n")
    return Vectors(stems, stored["vectors"])


class Senses:
    """What each of a book's facts means.

    Args:
        known: by fact, the stems of its questions, answer and passage.
        answers: by fact, the stems of its answer with the rarity of each.
        passages: by fact, those of its passage.
    """

    def __init__(
        self,
        known: Sequence[set[str]],
        answers: Sequence[Mapping[str, float]],
        passages: Sequence[Mapping[str, float]],
    ) -> None:
        vectors = read_vectors()
        stems = sorted(set().union(*known))
        self._columns = {stem: column for column, stem in enumerate(stems)}
        self._vectors = vectors.of(stems)  # [V, size]
        none = len(stems)  # a column of zeros, for facts with fewer words
        longest = max(map(len, known), default=0)
        self._known = np.full((len(known), longest), none)
        for row, words in enumerate(known):
            self._known[row, : len(words)] = [self._columns[word] for word in sorted(words)]
        self._means = [
            np.array([vectors.mean(text) for text in texts]) for texts in (answers, passages)
        ]

    def judge(self, asked: Mapping[str, float], changed: Mapping[int, set[str]]) -> Array:
        """How near each fact is to a question.

        Args:
            asked: its stems with the rarity of each; not empty.
            changed: by fact, what it knows instead, where it has to do without a question.

        Returns:
            [facts, 3]: how much of the question the fact knows, each word counting by the
            largest cosine to one of the fact's, its own being 1; cosine of the question's mean
            to the answer's; to the passage's.
        """
        if not len(self._known):
            return np.zeros((0, 3), dtype=np.float32)
        vectors = read_vectors()
        near = np.maximum(vectors.of(list(asked)) @ self._vectors.T, 0)  # [asked, V]
        for row, word in enumerate(asked):
            if word in self._columns:
                near[row, self._columns[word]] = 1
        near = np.pad(near, ((0, 0), (0, 1)))
        nearest = near[:, self._known].max(2)  # [asked, facts]
        for fact, words in changed.items():
            nearest[:, fact] = near[:, [-1, *(self._columns[w] for w in words)]].max(1)
        rarity = _numbers(asked)
        mean = vectors.mean(asked)
        covered = rarity @ nearest / rarity.sum()
        return np.stack((covered, *(means @ mean for means in self._means)), axis=1)


def _numbers(rarity: Mapping[str, float]) -> Array:
    return np.array(list(rarity.values()), dtype=np.float32)


def _unit(vectors: Array) -> Array:
    """Vectors [..., size] at length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Array = vectors / np.maximum(lengths, np.float32(1e-9))
    return scaled
