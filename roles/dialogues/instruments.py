"""What checks measure with: the world's lore, a judge of voices, word vectors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from books.meaning import Array, read_vectors
from books.signs import stem
from roles.dialogues.expectations import Instruments, Judge
from roles.dialogues.wording import words
from roles.world import World


def read_instruments(world: World) -> Instruments:
    """Everything this world offers to measure with; models are read when first needed."""
    judge, deaf = _read_judge(world.root / "models" / "judge")
    usual = [fact.text for fact in world.facts.values()]
    likeness = VectorLikeness(usual) if usual else None
    return Instruments(facts=world.facts, judge=judge, deaf=deaf, likeness=likeness)


def _read_judge(folder: Path) -> tuple[Judge | None, str]:
    """A world's judge, or None and why it can't be used here."""
    if not folder.is_dir():
        return None, ""
    try:
        from npc_adapters.judge import CharacterJudge
    except ImportError:
        return None, 'is not checked: the judge needs scikit-learn; install "biblioteca[train]"'
    return CharacterJudge.load(folder), ""


class VectorLikeness:
    """Cosine of two texts' averaged word vectors (`books.meaning`), rare words weighing more.

    A word weighs by its inverse document frequency in the world's texts. What all of them have in
    common, their mean, is taken out: unlike texts come to about 0.

    Args:
        usual: texts of the world, as many as there are.
    """

    def __init__(self, usual: Sequence[str]) -> None:
        self._usual = [set(map(stem, words(text))) for text in usual]

    def __call__(self, a: str, b: str) -> float:
        """Likeness, -1 to 1."""
        one, two = (self._mean(set(map(stem, words(text)))) - self._common for text in (a, b))
        lengths = float(np.linalg.norm(one) * np.linalg.norm(two))
        return float(one @ two) / lengths if lengths else 0.0

    def _mean(self, stems: set[str]) -> Array:
        most = len(self._usual) + 1
        rarity = {name: math.log(most / (self._counts[name] + 0.5)) for name in sorted(stems)}
        return read_vectors().mean(rarity)

    @cached_property
    def _counts(self) -> Counter[str]:
        return Counter(name for stems in self._usual for name in stems)

    @cached_property
    def _common(self) -> Array:
        """What the usual texts have in common: [size]."""
        common: Array = np.mean([self._mean(stems) for stems in self._usual], axis=0)
        return common
