from __future__ import annotations

import pytest

from books.facts import Fact
from books.signs import SignIndex, kind_of, stem, stems

FACTS = (
    Fact(id="dog", answer="His dog is named Ash.", key="Ash", ask=("What is the dog called?",)),
    Fact(id="depth", answer="It is ninety steps deep.", key="ninety", ask=("How deep is it?",)),
)
PASSAGES = {"dog": "His dog is named Ash and barks at poets.", "depth": "It is ninety steps deep."}


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("How many doors?", "number"), ("Whose is it?", "person"), ("Which hour?", "time"),
        ("Where?", "place"), ("What colour?", "colour"), ("ash dog", "other"),
    ],
)  # fmt: skip
def test_a_question_is_known_by_what_it_asks_for(question: str, kind: str) -> None:
    assert kind_of(question) == kind


def test_stems_are_those_of_the_search() -> None:
    assert stems("The dogs barked!") == ["the", "dog", "bark"]
    assert stem("barking") == stem("barks")


def test_the_fact_that_has_a_questions_words_is_a_candidate_and_others_are_not() -> None:
    found = SignIndex(FACTS, PASSAGES).candidates("Which dog barks?")
    assert [candidate.fact.id for candidate in found] == ["dog"]
    assert found[0].nearest == "What is the dog called?"
    assert found[0].missing == ()


def test_words_that_the_fact_lacks_are_missing() -> None:
    found = SignIndex(FACTS, PASSAGES).candidates("Who is the mother of the dog?")
    assert found[0].missing == ("mother",)


def test_a_hidden_question_lends_nothing() -> None:
    index = SignIndex(FACTS, PASSAGES)
    assert index.candidates("called?")[0].fact.id == "dog"
    assert index.candidates("called?", hidden="what is the dog called") == []


def test_a_fact_told_in_other_words_is_a_candidate() -> None:
    found = SignIndex(FACTS, PASSAGES).candidates("Which puppy howls?")
    assert [candidate.fact.id for candidate in found] == ["dog"]
    assert found[0].missing == ("puppi", "howl")


def test_a_book_without_facts_has_no_candidates() -> None:
    assert SignIndex((), {}).candidates("Which dog barks?") == []
