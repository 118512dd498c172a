from __future__ import annotations

from pathlib import Path

import pytest

from protocol import messages as wire
from roles.book import BookOnShelf
from roles.store import Store
from tests.roles.test_manager import ask
from tests.roles.test_saves import hosted
from tests.roles.test_world import change
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


async def test_a_special_book_answers_on_the_npc_base_as_any_other(
    world_folder: Path, tmp_path: Path
) -> None:
    book = world_folder / "books" / "salt_almanac.md"
    change(book, "spine:", "adapter: models/adapters/ben\nspine:")
    manager = await hosted(world_folder, tmp_path / "state")
    try:
        body = wire.AskRequest(
            agent="salt_almanac", text="Who boiled salt in iron pans?", seed=1, max_tokens=40
        )
        parts = await ask(manager, "ask", body)
        reply = parts[-1]
        assert isinstance(reply, wire.AskReply)
        assert (reply.tier, reply.fallback) == ("book", False)
        assert "".join(part.text for part in parts if isinstance(part, wire.Delta)) == reply.text
        assert reply.passages[0].book == "salt_almanac"
    finally:
        await manager.close()
