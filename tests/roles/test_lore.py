from __future__ import annotations

import pytest

from roles.lore import Fact, Lore

EVERYONE = frozenset({"everyone"})
TEXTS = {
    "oil": "The lamp oil is kept under the third step in the night.",
    "name": "A reader without a name waits at the gate.",
    "cat": "The cat of the night is called Errata.",
    "chair": "Cosimo's chair was lost in a map.",
    **{f"lamp{i}": f"Lamp {i} burns every night in the long corridor." for i in range(12)},
}


@pytest.fixture
def lore() -> Lore:
    """Sixteen facts; most have a lamp and a night in them."""
    return Lore({key: Fact(id=key, text=text, know=EVERYONE) for key, text in TEXTS.items()})


def meant(lore: Lore, said: str) -> list[str]:
    return [fact.id for fact in lore.relevant(said, EVERYONE, frozenset())]


@pytest.mark.parametrize(
    "said",
    ["How has your night been?", "What is your name?", "My dog is called Bo.", "Nice lamp!"],
)
def test_small_talk_brings_up_no_fact(lore: Lore, said: str) -> None:
    assert meant(lore, said) == []


def test_a_contraction_is_no_word(lore: Lore) -> None:
    assert meant(lore, "What's that? It's Bo's, and he's sorry.") == []


def test_who_is_spoken_to_is_meant_by_more_than_the_name(lore: Lore) -> None:
    def asked(said: str) -> list[str]:
        found = lore.relevant(said, EVERYONE, frozenset(), asked="Cosimo")
        return [fact.id for fact in found]

    assert asked("Good night, Cosimo.") == []
    assert asked("Cosimo, who took your chair?") == ["chair"]
    assert meant(lore, "Have you seen Cosimo?") == ["chair"]


def test_one_word_that_few_facts_have_brings_up_its_fact(lore: Lore) -> None:
    assert meant(lore, "Where is the oil?") == ["oil"]
    assert meant(lore, "And Errata?") == ["cat"]


def test_two_words_together_mean_a_fact_however_common_each_is(lore: Lore) -> None:
    assert "oil" in meant(lore, "Where does one keep the lamp at night?")
    assert "name" in meant(lore, "Who waits at the gate?")


def test_the_best_match_comes_first_and_no_more_than_asked_for(lore: Lore) -> None:
    found = lore.relevant("Where is the lamp oil?", EVERYONE, frozenset(), 1)
    assert [fact.id for fact in found] == ["oil"]
    assert lore.relevant("Where is the lamp oil?", frozenset({"nobody"}), frozenset()) == []
