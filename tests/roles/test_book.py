from __future__ import annotations

from pathlib import Path

import pytest

from roles.book import BookOnShelf
from roles.store import Store
from tests.roles.worlds_for_tests import BOOK


@pytest.fixture
def book(tmp_path: Path) -> BookOnShelf:
    path = tmp_path / "salt_almanac.md"
    path.write_text(BOOK)
    return BookOnShelf(path, Store())


def test_a_question_that_points_back_is_asked_with_the_last_one(book: BookOnShelf) -> None:
    book.remember("player", "Who boiled salt?", "[answer] Captain Oda Reyes did.")
    question = "And how many pans had she?"
    before = book.answered("player", question)
    assert before == ("Who boiled salt?", "[answer] Captain Oda Reyes did.")
    messages = book.prompt(question, book.find(question, before), before)
    assert [message.role for message in messages] == ["system", "user", "assistant", "user"]
    assert "nine iron pans" in messages[-1].text


def test_a_question_that_names_its_matter_stands_alone(book: BookOnShelf) -> None:
    book.remember("player", "Who boiled salt?", "[answer] Captain Oda Reyes did.")
    assert book.answered("player", "What does the north wind carry?") is None


def test_nobody_is_answered_with_another_readers_question(book: BookOnShelf) -> None:
    book.remember("player", "Who boiled salt?", "[answer] Captain Oda Reyes did.")
    assert book.answered("other", "And when was it?") is None
