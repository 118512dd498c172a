from __future__ import annotations

import pytest

from books.facts import Fact, Question
from books.scores import score, word_f1

FACT = Fact(id="oil", answer="The oil is pressed from olives.", key="olives", ask=("What?",))


def judge(*replies: tuple[bool, str]) -> dict[str, float]:
    questions = [Question(text="?", fact=FACT if inside else None) for inside, _ in replies]
    scores = score(questions, [text for _, text in replies])
    return {name: getattr(scores, name) for name in scores.__dataclass_fields__}


def test_the_reference_scores_one_whatever_its_case_and_stops() -> None:
    scores = judge((True, "[answer] the oil is pressed from olives"))
    assert (scores["exact"], scores["f1"], scores["key"]) == (1, 1, 1)


def test_part_of_the_words_is_part_of_the_score() -> None:
    scores = judge((True, "[answer] From olives, dear reader."))
    assert (scores["exact"], scores["key"]) == (0, 1)
    assert scores["f1"] == pytest.approx(2 * 2 / (4 + 6))


def test_abstaining_inside_the_book_earns_nothing_even_with_the_right_words() -> None:
    scores = judge((True, "[unknown] The oil is pressed from olives."))
    assert (scores["exact"], scores["f1"], scores["abstain_precision"]) == (0, 0, 0)


def test_abstention_is_judged_by_precision_and_recall() -> None:
    scores = judge((False, "[unknown] No."), (False, "[answer] Five."), (True, "[unknown] No."))
    assert (scores["abstain_precision"], scores["abstain_recall"]) == (0.5, 0.5)
    assert scores["abstain_f1"] == 0.5


def test_repeating_a_word_does_not_help() -> None:
    assert word_f1("olives olives olives olives", "The oil is pressed from olives.") == 0.2
    assert word_f1("", "anything") == 0
