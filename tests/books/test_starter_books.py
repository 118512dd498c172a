"""The books that ship: texts, annotations and held-out questions fit together."""

from __future__ import annotations

from pathlib import Path

import pytest

from books.book import find_books
from books.corpus import questions_of
from books.distill import Volume, read_volumes, rows_of
from books.facts import read_questions
from books.reference import Reference

WORLD = Path(__file__).parents[2] / "roles" / "worlds" / "biblioteca_eterna"
NAMES = list(find_books(WORLD / "books"))


@pytest.fixture(scope="module")
def volumes() -> dict[str, Volume]:
    return read_volumes(WORLD / "books")


def test_six_books_stand_on_the_shelf() -> None:
    assert len(NAMES) >= 6


@pytest.mark.parametrize("name", NAMES)
def test_a_book_has_facts_and_enough_questions_nobody_trains_on(
    volumes: dict[str, Volume], name: str
) -> None:
    volume = volumes[name]
    questions = read_questions(WORLD / "judging" / "books" / f"{name}.yaml", volume.facts)
    assert len(volume.facts.facts) >= 90
    assert sum(question.fact is not None for question in questions) >= 50
    assert sum(question.fact is None for question in questions) >= 25
    assert len(volume.book.abstentions) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_a_book_is_worth_reading(volumes: dict[str, Volume], name: str) -> None:
    book = volumes[name].book
    assert sum(len(page.text.split()) for page in book.pages) >= 2500


@pytest.mark.parametrize("name", NAMES)
def test_most_facts_are_found_by_words_their_writer_did_not_use(
    volumes: dict[str, Volume], name: str
) -> None:
    volume = volumes[name]
    reference = Reference(volume.book, volume.facts)
    questions = read_questions(WORLD / "judging" / "books" / f"{name}.yaml", volume.facts)
    asked = [question for question in questions if question.fact is not None]
    found = [question.fact in reference.find(question.text).facts for question in asked]
    assert sum(found) >= 0.8 * len(asked)


def test_a_book_declines_by_itself_more_than_half_of_what_the_others_answer(
    volumes: dict[str, Volume],
) -> None:
    tides = volumes["tide_tables"]
    reference = Reference(tides.book, tides.facts)
    others = [volume for name, volume in volumes.items() if name != "tide_tables"]
    foreign = [text for volume in others for text in questions_of(volume.facts)]
    assert sum(reference.find(text).hopeless for text in foreign) > 0.55 * len(foreign)


def test_a_book_learns_to_decline_what_it_would_be_asked(volumes: dict[str, Volume]) -> None:
    rows = rows_of(volumes["tide_tables"], list(volumes.values()))
    declined = [row for row in rows if row.kind == "unknown"]
    assert 0.05 * len(rows) < len(declined) < 0.3 * len(rows)
