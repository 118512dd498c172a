from __future__ import annotations

import pytest

from books.telling import WordOdds

ODDS = WordOdds(seen={"mother": (0, 40), "find": (40, 0), "zyzzyx": (0, 9)})


def test_words_of_questions_without_an_answer_tell_that_there_is_none() -> None:
    assert ODDS.telling(["mother"]) > 1 > -1 > ODDS.telling(["find"])


def test_a_word_never_seen_tells_what_its_like_do() -> None:
    assert ODDS.telling(["father"]) > ODDS.telling(["tide"]) > ODDS.telling(["discov"])


def test_a_word_without_a_vector_tells_what_was_counted() -> None:
    assert ODDS.telling(["zyzzyx"]) > ODDS.telling(["qwxyq"])


def test_no_single_word_tells_everything() -> None:
    odds = WordOdds(seen={"mother": (0, 9999), "find": (9999, 0)})
    assert odds.telling(["mother", "find"]) == pytest.approx(0.5)


def test_without_counts_every_word_tells_as_much() -> None:
    odds = WordOdds(seen={})
    assert odds.telling(["mother"]) == odds.telling(["find"])
