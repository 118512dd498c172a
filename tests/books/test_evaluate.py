from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from books.baselines import best_sentence, first_note
from books.distill import Volume, read_volumes
from books.errors import FactsError, StudentError
from books.evaluate import average, judge_world
from books.facts import read_questions
from books.scores import score
from tests.books.conftest import QUESTIONS_TEXT, tiny_student
from tests.tiny_models import tiny_base


@pytest.fixture
def world(tmp_path: Path, book_path: Path) -> Path:
    """A folder with a teacher, a student, a baseline and held-out questions."""
    base = tiny_base(tmp_path / "base", max_position_embeddings=2048)
    for place in ("students", "plain"):
        tiny_student(tmp_path / place / "well_of_ink", base, max_position_embeddings=2048)
    (tmp_path / "students" / "well_of_ink" / "report.json").write_text('{"teacher": "base"}')
    (tmp_path / "questions").mkdir()
    (tmp_path / "questions" / "well_of_ink.yaml").write_text(QUESTIONS_TEXT)
    return tmp_path


def judge(world: Path, volumes: dict[str, Volume]) -> dict[str, dict[str, dict[str, object]]]:
    questions, students = world / "questions", world / "students"
    return judge_world(volumes, ["well_of_ink"], questions, students, world / "plain", world)


def test_a_student_is_judged_beside_its_teacher_its_int8_self_and_baselines(
    world: Path, book_path: Path
) -> None:
    results = judge(world, read_volumes(book_path.parent))["well_of_ink"]
    assert tuple(results) == (
        "teacher", "student", "no_distillation", "student_int8", "first_note",
        "best_sentence",
    )  # fmt: skip
    student, plain = results["student"], results["no_distillation"]
    assert student["scores"] == plain["scores"]  # the same random weights
    kl, top1 = student["teacher_kl"], student["teacher_top1"]
    assert isinstance(kl, float)
    assert isinstance(top1, float)
    assert kl > 0
    assert 0 <= top1 <= 1
    assert results["first_note"]["size_bytes"] == 0


def test_a_teacher_judged_as_its_own_student_agrees_with_itself(
    world: Path, book_path: Path
) -> None:
    from books.evaluate import Court
    from books.facts import read_facts
    from books.students import load_model
    from engine.template import ChatTemplate

    volume = read_volumes(book_path.parent)["well_of_ink"]
    facts = read_facts(book_path, volume.book)
    questions = read_questions(world / "questions" / "well_of_ink.yaml", facts)
    court = Court(volume, questions, ChatTemplate(world / "base"))
    model = load_model(world / "base").eval()
    verdict = court.judge_model(model, world / "base", model)
    assert verdict.teacher_kl == pytest.approx(0, abs=1e-6)
    assert verdict.teacher_top1 == 1


def test_the_first_note_answers_in_the_authors_words(book_path: Path) -> None:
    volume = read_volumes(book_path.parent)["well_of_ink"]
    reply = first_note(volume.book, volume.facts)("Who was it that dug the well?")
    assert reply == "[answer] The well was dug by Vera Holm."


def test_the_best_sentence_is_one_of_the_book(book_path: Path) -> None:
    volume = read_volumes(book_path.parent)["well_of_ink"]
    answer = best_sentence(volume.book, volume.facts)
    reply = answer("How many steps deep is the well?").removeprefix("[answer] ")
    assert "ninety steps deep" in reply
    assert reply in " ".join(passage.text for passage in volume.book.passages)
    assert answer("Zyzzyva quux?").startswith("[unknown] My pages are dry")


def test_a_missing_student_and_missing_questions_are_named(world: Path, book_path: Path) -> None:
    volumes = read_volumes(book_path.parent)
    (world / "students" / "well_of_ink" / "report.json").unlink()
    with pytest.raises(StudentError, match=r"no report\.json names its teacher"):
        judge(world, volumes)
    (world / "questions" / "well_of_ink.yaml").unlink()
    with pytest.raises(FactsError, match=r"well_of_ink\.yaml: can't be read"):
        judge(world, volumes)


def test_averages_keep_what_every_book_has() -> None:
    one: dict[str, dict[str, Any]] = {
        "student": {"scores": {"f1": 1.0}, "retention": 0.5},
        "extra": {"scores": {"f1": 1.0}},
    }
    two: dict[str, dict[str, Any]] = {"student": {"scores": {"f1": 0.0}, "retention": None}}
    assert average([one, two]) == {"student": {"scores": {"f1": 0.5}, "retention": None}}
    assert score([], []).f1 == 0
    assert math.isfinite(score([], []).abstain_f1)
