from __future__ import annotations

from pathlib import Path

import pytest

from books.book import read_book
from books.errors import FactsError
from books.facts import facts_path, read_facts, read_questions, source_passages
from tests.books.conftest import QUESTIONS_TEXT


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_facts_know_their_questions_and_what_they_follow(book_path: Path) -> None:
    facts = read_facts(book_path, read_book(book_path)).by_id()
    assert facts["digger"].ask[0] == "Who dug the well?"
    assert (facts["dog"].after, facts["dog"].then) == ("keeper", ("What is his dog called?",))


def test_a_fact_rests_on_the_passage_that_says_it(book_path: Path) -> None:
    book = read_book(book_path)
    sources = source_passages(book, read_facts(book_path, book))
    assert "ninety steps deep" in sources["depth"].text


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("key: ninety steps", "key: eighty steps", "depth: its key 'eighty steps' must stand"),
        ("id: depth", "id: digger", "two facts share an id"),
        ("after: keeper", "after: nobody", "comes after 'nobody'"),
        ("key: Ash", "colour: Ash", r"facts\.3\.key: Field required"),
        ("facts:", "facts: [", "isn't YAML"),
    ],
)
def test_broken_annotations_are_named(book_path: Path, old: str, new: str, complaint: str) -> None:
    rewrite(facts_path(book_path), old, new)
    with pytest.raises(FactsError, match=complaint):
        read_facts(book_path, read_book(book_path))


def test_a_book_without_annotations_asks_for_its_own_sentences(book_path: Path) -> None:
    facts_path(book_path).unlink()
    book = read_book(book_path)
    text = " ".join(passage.text for passage in book.passages)
    facts = read_facts(book_path, book).facts
    assert len(facts) >= 5
    assert all(fact.answer in text and fact.key in fact.answer for fact in facts)


def test_a_book_of_one_short_sentence_has_nothing_to_ask(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("It rained.")
    with pytest.raises(FactsError, match=r"short: no sentence of 5 to 24 words"):
        read_facts(path, read_book(path))


def test_held_out_questions_may_not_be_training_questions(tmp_path: Path, book_path: Path) -> None:
    facts = read_facts(book_path, read_book(book_path))
    path = tmp_path / "questions.yaml"
    path.write_text(QUESTIONS_TEXT)
    questions = read_questions(path, facts)
    assert [question.fact.id if question.fact else None for question in questions] == [
        "digger",
        "depth",
        None,
    ]
    rewrite(path, "Which woman dug this well?", "who dug the well")
    with pytest.raises(FactsError, match="'who dug the well' is also a training question"):
        read_questions(path, facts)


def test_a_held_out_question_about_no_fact_is_refused(tmp_path: Path, book_path: Path) -> None:
    path = tmp_path / "questions.yaml"
    path.write_text(QUESTIONS_TEXT.replace("fact: depth", "fact: width"))
    with pytest.raises(FactsError, match="names no fact: 'width'"):
        read_questions(path, read_facts(book_path, read_book(book_path)))
