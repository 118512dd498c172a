from __future__ import annotations

import pytest

from roles.dialogues.wording import (
    divergence,
    language,
    num_sentences,
    overlap,
    plain,
    style,
    words,
)

FACT = "The lamp oil is kept under the third step of the Lamp Stair."


def test_a_told_fact_overlaps_and_another_does_not() -> None:
    assert overlap("It's kept under the third step, on the Lamp Stair.", FACT) > 0.8
    assert overlap("The moths are fed on misprints.", FACT) == 0


def test_words_of_the_question_prove_nothing() -> None:
    question = "Where is the lamp oil on the Lamp Stair?"
    assert overlap("The lamp oil on the Lamp Stair? No idea.", FACT, [question]) == 0
    assert overlap("Kept under the third step.", FACT, [question]) == 1


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("Hello", 1), ("Hello. There!", 2), ("No. Wait... what?", 3), ("A. B", 2)],
)
def test_sentences_are_counted(text: str, count: int) -> None:
    assert num_sentences(text) == count


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("The oil is behind the globe, and it is not yours.", "en"),
        ("Das ist nicht der Weg zu dem Haus.", "de"),
        ("La llave no está en el libro que ella lee.", "es"),
        ("Le livre est dans la salle avec une lampe.", "fr"),
        ("Xyzzy plugh", ""),
    ],
)
def test_a_language_is_known_by_its_small_words(text: str, code: str) -> None:
    assert language(text) == code


def test_plain_text_has_straight_quotes_and_single_spaces() -> None:
    assert plain("Don\u2019t\n  SAY \u201cno\u201d") == 'don\'t say "no"'
    assert words("Don\u2019t say so.") == ["don't", "say", "so"]


def test_like_weightings_do_not_diverge_and_disjoint_ones_do_wholly() -> None:
    assert divergence({"a": 2, "b": 2}, {"a": 1, "b": 1}) == pytest.approx(0)
    assert divergence({"a": 1}, {"b": 1}) == pytest.approx(1)


def test_style_is_counted_per_line() -> None:
    measured = style(["Well, well! Who are you?", "Come in."])
    assert measured["words per line"] == 3.5
    assert measured["questions per line"] == 0.5
    assert measured["commas per line"] == 0.5
