"""The books that ship: texts, annotations and held-out questions fit together."""

from __future__ import annotations

from pathlib import Path

import pytest

from books.book import find_books, read_book
from books.distill import read_volumes, rows_of
from books.facts import read_questions, source_passage

WORLD = Path(__file__).parents[2] / "roles" / "worlds" / "biblioteca_eterna"
NAMES = list(find_books(WORLD / "books"))


def test_six_books_stand_on_the_shelf() -> None:
    assert len(NAMES) >= 6


@pytest.mark.parametrize("name", NAMES)
def test_a_book_has_facts_and_enough_questions_nobody_trains_on(name: str) -> None:
    volume = read_volumes(WORLD / "books")[name]
    questions = read_questions(WORLD / "judging" / "books" / f"{name}.yaml", volume.facts)
    assert len(volume.facts.facts) >= 45
    assert sum(question.fact is not None for question in questions) >= 25
    assert sum(question.fact is None for question in questions) >= 10
    assert len(volume.book.abstentions) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_every_fact_is_told_by_a_passage_that_can_be_found(name: str) -> None:
    from books.facts import open_index

    volume = read_volumes(WORLD / "books")[name]
    index = open_index(volume.book, volume.facts)
    missed = [
        text
        for fact in volume.facts.facts
        for text in fact.ask
        if source_passage(volume.book, fact) not in [hit.passage for hit in index.search(text)]
    ]
    asked = sum(len(fact.ask) for fact in volume.facts.facts)
    assert len(missed) <= 0.06 * asked, missed


def test_each_book_learns_to_decline_what_the_others_answer() -> None:
    volumes = read_volumes(WORLD / "books")
    rows = rows_of(volumes["tide_tables"], list(volumes.values()))
    declined = [row.messages[-1].text.lower() for row in rows if row.kind == "unknown"]
    own = {name: read_book(path).title for name, path in find_books(WORLD / "books").items()}
    assert len(own) == len(volumes)
    assert len(declined) >= 0.15 * len(rows)
