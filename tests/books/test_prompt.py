from __future__ import annotations

import pytest

from books.prompt import refers_back


@pytest.mark.parametrize(
    "question", ["And where are those?", "How deep is it?", "What's HIS name?"]
)
def test_a_question_that_points_refers_to_the_one_before(question: str) -> None:
    assert refers_back(question)


@pytest.mark.parametrize("question", ["Who dug the well?", "How many are there?", "Andrew?", ""])
def test_a_question_that_names_its_matter_does_not(question: str) -> None:
    assert not refers_back(question)
