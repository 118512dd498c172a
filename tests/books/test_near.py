from __future__ import annotations

from pathlib import Path
from random import Random

from books.book import read_book
from books.facts import read_facts
from books.near import near_questions


def test_near_questions_name_the_books_own_and_ask_what_it_does_not_tell(book_path: Path) -> None:
    book = read_book(book_path)
    found = near_questions(book, read_facts(book_path, book), Random(0), 500)
    assert "How old is Anselm Pike?" in found
    assert "What is under the wheel?" not in found  # its passage has both words
    assert "Where does Anselm Pike sleep?" not in found
    assert len(set(found)) == len(found) > 60


def test_they_are_drawn_from_a_seed_up_to_a_number(book_path: Path) -> None:
    book = read_book(book_path)
    facts = read_facts(book_path, book)
    draws = [near_questions(book, facts, Random(seed), 9) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert len(draws[0]) == 9
