from __future__ import annotations

import re
from pathlib import Path
from statistics import median

from books.book import read_book
from books.corpus import build_rows, split_passages
from books.facts import questions_to_train, read_facts
from books.prompt import parse_reply
from books.reference import open_book


def rows_of(path: Path) -> list[tuple[str, str, str]]:
    book = read_book(path)
    rows = build_rows(book, read_facts(path, book), ["Who rang the tide bell?"])
    return [(row.kind, row.messages[-1].text if row.messages else "", row.reply) for row in rows]


def test_rows_are_the_same_each_time(book_path: Path) -> None:
    assert rows_of(book_path) == rows_of(book_path)


def test_every_kind_of_row_is_there_with_its_mark(book_path: Path) -> None:
    kinds = {kind for kind, _, _ in rows_of(book_path)}
    assert kinds == {"answer", "unknown", "follow_up", "passage"}
    for kind, _, reply in rows_of(book_path):
        if kind != "passage":
            assert parse_reply(reply)[0] == (kind != "unknown")


def lines(turn: str, head: str) -> list[str]:
    return [line.removeprefix(head) for line in turn.split("\n") if line.startswith(head)]


def test_answers_rest_on_passages_of_the_book(book_path: Path) -> None:
    book = read_book(book_path)
    texts = {passage.text for passage in book.passages}
    for kind, turn, _ in rows_of(book_path):
        if kind == "answer":
            shown = lines(turn, "Passage: ")
            assert shown
            assert set(shown) <= texts


def test_what_is_to_be_answered_always_stands_in_a_note(book_path: Path) -> None:
    for kind, turn, reply in rows_of(book_path):
        if kind in {"answer", "follow_up"}:
            answer = parse_reply(reply)[1]
            assert any(note.endswith(answer) for note in lines(turn, "Note "))


def test_a_question_seldom_meets_itself_among_its_notes(book_path: Path) -> None:
    facts = read_facts(book_path, read_book(book_path))
    asked = {text for fact in facts.facts for text in fact.ask}
    met = [
        any(f": {turn.split('Reader: ')[1]}" in note for note in lines(turn, "Note "))
        for kind, turn, _ in rows_of(book_path)
        if kind == "answer" and turn.split("Reader: ")[1] in asked
    ]
    assert sum(met) < len(met) / 2


def test_what_a_book_cannot_answer_has_a_higher_doubt_than_most_answers(book_path: Path) -> None:
    book, reference = open_book(book_path)
    untold = [reference.find(text).evidence.doubt for text in read_facts(book_path, book).unknown]
    answers = [
        int(digit) / 10
        for kind, turn, _ in rows_of(book_path)
        if kind == "answer"
        for digit in lines(turn, "Doubt: ")
    ]
    assert median(answers) < 0.4 < median(1.0 if doubt is None else doubt for doubt in untold)


def test_a_question_kept_apart_is_in_no_row(book_path: Path) -> None:
    facts = read_facts(book_path, read_book(book_path))
    again = [fact.model_copy(update={"id": f"{fact.id}2"}) for fact in facts.facts]
    doubled = facts.model_copy(update={"facts": (*facts.facts[:3], *again[:1])})
    trained, _ = questions_to_train(doubled)
    assert trained["digger2"] == again[0].ask[:-1]
    assert trained["digger"] == facts.facts[0].ask


def test_a_question_that_no_model_is_asked_is_in_no_row(book_path: Path) -> None:
    rows = [(kind, turn) for kind, turn, _ in rows_of(book_path) if kind != "passage"]
    assert not any("tide bell" in turn.lower() for _, turn in rows)  # another book's
    assert {"answer", "unknown"} <= {kind for kind, _ in rows}
    assert all(int(digit) <= 6 for _, turn in rows for digit in lines(turn, "Doubt: "))


def test_a_follow_up_carries_the_question_before(book_path: Path) -> None:
    book = read_book(book_path)
    rows = build_rows(book, read_facts(book_path, book), [])
    row = next(row for row in rows if row.kind == "follow_up")
    roles = [message.role for message in row.messages]
    assert roles == ["system", "user", "assistant", "user"]
    assert row.messages[2].text == "[answer] The keeper is a boy called Anselm Pike."
    assert re.fullmatch(r"\[\d\] His dog is named Ash\.", row.reply)


def test_held_out_passages_are_never_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("\n\n".join(f"Sentence number {n} tells of the year {n}." for n in range(60)))
    book = read_book(path)
    kept, held_out = split_passages(book)
    assert len(held_out) == len(book.passages) // 10
    trained = {reply for kind, _, reply in rows_of(path) if kind == "passage"}
    assert trained == {passage.text for passage in kept}
