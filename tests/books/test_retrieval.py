from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from books.book import Passage
from books.retrieval import PassageIndex, content_words

TEXTS = ("The bell is called Old Patience.", "Eels eat glue.", "A lamp of blue glass burns.")
PASSAGES = [Passage(number=n, page=1, text=text) for n, text in enumerate(TEXTS, start=1)]


def found(question: str, k: int = 2) -> list[str]:
    return [hit.passage.text for hit in PassageIndex(PASSAGES).search(question, k)]


def test_the_passage_that_shares_most_with_the_question_comes_first() -> None:
    assert found("What do eels eat?")[0] == TEXTS[1]
    assert found("Which glass has the lamp?")[0] == TEXTS[2]


def test_words_match_by_their_stems() -> None:
    assert found("burning lamps")[0] == TEXTS[2]


def test_no_shared_word_finds_nothing() -> None:
    assert found("Where is my hat?") == []
    assert found("what is it?") == []


def test_scores_fall_and_k_bounds_them() -> None:
    hits = PassageIndex(PASSAGES).search("bell eels lamp glass", 3)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len(found("bell eels lamp glass", 1)) == 1


def test_a_question_keeps_its_content_words_once_in_order() -> None:
    assert content_words("Tell me, the bell: what is the bell CALLED?") == ["bell", "called"]


@settings(max_examples=60)
@given(st.text(max_size=80))
def test_whatever_is_typed_is_searched_and_never_a_query_syntax_error(question: str) -> None:
    assert len(found(question)) <= 2
