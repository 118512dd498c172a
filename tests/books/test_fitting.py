from __future__ import annotations

from pathlib import Path

import pytest

from books import signs
from books.book import read_book
from books.facts import read_facts
from books.fitting import cases_of, fit, write_weights
from books.signs import NAMES, Weights, read_weights
from books.telling import WordOdds


def test_fitted_weights_tell_what_can_be_answered_from_what_cannot(book_path: Path) -> None:
    book = read_book(book_path)
    cases = cases_of(book, read_facts(book_path, book))
    weights = fit(cases)
    best = [max(c.score(weights) for c in case.candidates) for case in cases]
    told = [score for score, case in zip(best, cases, strict=True) if case.fact]
    untold = [score for score, case in zip(best, cases, strict=True) if not case.fact]
    assert min(len(told), len(untold)) > 8
    assert sum(told) / len(told) > 0 > sum(untold) / len(untold)


def test_no_case_finds_its_own_question(book_path: Path) -> None:
    book = read_book(book_path)
    facts = read_facts(book_path, book)
    asked = [text for fact in facts.facts for text in fact.ask]
    told = [case for case in cases_of(book, facts) if case.fact]
    assert len(told) <= len(asked)
    assert any(all(c.signs[2] < 1 for c in case.candidates) for case in told)


def test_weights_are_read_as_they_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odds = WordOdds(seen={"mother": (1, 9)})
    weights = Weights(signs=tuple(range(len(NAMES))), bias=-1.5, words=odds)
    write_weights(weights, tmp_path / "signs.json")
    monkeypatch.setattr(signs, "WEIGHTS_PATH", tmp_path / "signs.json")
    read_weights.cache_clear()
    assert read_weights() == weights
    read_weights.cache_clear()
