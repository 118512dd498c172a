from __future__ import annotations

import pytest

from roles.dialogues.instruments import read_instruments
from roles.world import World

TOLD = {
    "cat": "Errata, the cat? It sleeps in a drawer of the Catalogue Hall, my friend.",
    "founder": "Amarante the Sleepless founded it, wanting just one chapter more.",
    "drowned_stacks": "They lie under eleven metres of black water, below the Map Room.",
}


@pytest.mark.parametrize("fact", TOLD)
def test_a_fact_in_other_words_is_likest_to_itself(fact: str) -> None:
    world = World.load()
    likeness = read_instruments(world).likeness
    assert likeness is not None
    scores = {name: likeness(TOLD[fact], other.text) for name, other in world.facts.items()}
    assert max(scores, key=lambda name: scores[name]) == fact
    assert scores[fact] > 0.5
    assert sorted(scores.values())[len(scores) // 2] < 0.2  # most others are unlike it
    assert likeness("", TOLD[fact]) < 0.5
