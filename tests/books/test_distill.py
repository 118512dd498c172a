from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from books.book import read_book
from books.distill import Distillery, Volume, distill, finish_job, read_volumes
from books.errors import DistillError
from books.facts import Facts
from books.learner import run_job
from books.losses import HARD_LABELS, LossMix
from books.recipe import Recipe, Workshop
from books.students import (
    count_params,
    load_model,
    new_student,
    parse_params,
    student_config,
)
from books.training import Schedule
from engine.template import ChatTemplate
from tests.tiny_models import VOCABULARY, tiny_base

TINY = Schedule(steps=3, batch_rows=2, learning_rate=1e-3, checkpoint_every=1)


@pytest.fixture
def recipe(base: Path) -> Recipe:
    return Recipe(
        base=base, params=150_000, teacher=TINY, first=TINY, student=TINY, context_tokens=900
    )


@pytest.fixture
def volumes(book_path: Path) -> dict[str, Volume]:
    return read_volumes(book_path.parent)


def workshop(folder: Path) -> Workshop:
    return Workshop(students=folder / "students", work=folder / "work", jobs=1, threads=1)


def weights(folder: Path) -> bytes:
    return (folder / "students" / "well_of_ink" / "model.safetensors").read_bytes()


def run_here(volumes: dict[str, Volume], recipe: Recipe, shop: Workshop) -> None:
    """Every stage, in this process."""
    distillery = Distillery(volumes, recipe, shop, lambda *_: None)
    for job in distillery.jobs(list(volumes)):
        finish_job(job, volumes[job.name], shop)


def test_a_book_becomes_a_student_within_its_budget(
    tmp_path: Path, volumes: dict[str, Volume], recipe: Recipe, base: Path
) -> None:
    reports = distill(volumes, ["well_of_ink"], recipe, workshop(tmp_path))
    folder = tmp_path / "students" / "well_of_ink"
    assert reports["well_of_ink"] == json.loads((folder / "report.json").read_text())
    assert count_params(load_model(folder)) == reports["well_of_ink"]["num_params"] <= 150_000
    card = json.loads((folder / "student.json").read_text())
    assert (folder / card["tokenizer"]).resolve() == base.resolve()
    assert card["book_digest"] == volumes["well_of_ink"].book.digest
    assert reports["well_of_ink"]["kept_logits_bytes"] > 0


@pytest.mark.parametrize("stage", ["teacher", "first student"])
def test_a_run_killed_in_the_middle_resumes_to_the_same_student(
    tmp_path: Path, volumes: dict[str, Volume], recipe: Recipe, stage: str
) -> None:
    class Killed(Exception):
        pass

    def kill(now: str, step: int, steps: int, loss: float) -> None:
        if (now, step) == (stage, 2):
            raise Killed

    run_here(volumes, recipe, workshop(tmp_path / "whole"))
    cut = workshop(tmp_path / "cut")
    with pytest.raises(Killed):
        Distillery(volumes, recipe, cut, kill).jobs(["well_of_ink"])
    run_here(volumes, recipe, cut)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_without_a_teacher_none_is_trained(
    tmp_path: Path, volumes: dict[str, Volume], recipe: Recipe
) -> None:
    run_here(volumes, replace(recipe, mix=HARD_LABELS), workshop(tmp_path))
    assert weights(tmp_path)
    assert not [path for path in (tmp_path / "work").iterdir() if "teacher" in path.name]


def test_hidden_attention_and_on_policy_losses_train_too(
    tmp_path: Path, volumes: dict[str, Volume], recipe: Recipe
) -> None:
    mix = LossMix(jensen_shannon=1.0, hidden=0.5, attention=0.5)
    whole = replace(recipe, mix=mix, on_policy=replace(TINY, steps=1))
    shop = workshop(tmp_path)
    job = Distillery(volumes, whole, shop, lambda *_: None).jobs(["well_of_ink"])[0]
    trained = run_job(job)
    assert len(trained.losses) == TINY.steps + 1
    assert all(loss > 0 for loss in trained.losses)


def test_another_tokenizer_means_learning_from_the_teachers_words(
    tmp_path: Path, volumes: dict[str, Volume], recipe: Recipe
) -> None:
    other = tiny_base(tmp_path / "other")
    path = other / "tokenizer.json"
    path.write_text(path.read_text() + "\n")  # another digest is another tokenizer
    whole = replace(recipe, tokenizer=other, teacher=replace(TINY, steps=0))
    few = Facts(facts=volumes["well_of_ink"].facts.facts[:3])
    small = {"well_of_ink": replace(volumes["well_of_ink"], facts=few)}
    run_here(small, whole, workshop(tmp_path))
    card = json.loads((tmp_path / "students" / "well_of_ink" / "student.json").read_text())
    assert (tmp_path / "students" / "well_of_ink" / card["tokenizer"]).resolve() == other.resolve()
    assert not (tmp_path / "work" / "logits").exists()


def test_a_book_too_short_to_ask_about_stops_the_run_before_training(
    tmp_path: Path, recipe: Recipe
) -> None:
    path = tmp_path / "books" / "one.txt"
    path.parent.mkdir()
    path.write_text("The lamp of the harbour was lit by nobody at all.")
    volumes = read_volumes(path.parent)
    with pytest.raises(DistillError, match="one: only 3 questions can be made from it"):
        distill(volumes, ["one"], recipe, workshop(tmp_path))
    assert not (tmp_path / "work").exists()


def test_a_base_that_is_missing_is_named(
    tmp_path: Path, volumes: dict[str, Volume], recipe: Recipe
) -> None:
    with pytest.raises(DistillError, match=r"nowhere holds no model"):
        distill(
            volumes, ["well_of_ink"], replace(recipe, base=tmp_path / "nowhere"),
            workshop(tmp_path),
        )  # fmt: skip


def test_a_student_of_the_teachers_width_starts_from_its_layers(base: Path) -> None:
    teacher = load_model(base)
    config = LlamaConfig(**{**teacher.config.to_dict(), "num_hidden_layers": 1})
    student, planted = new_student(config, teacher, 0)
    assert planted is None
    mine = student.model.layers[0].mlp.up_proj.weight
    assert torch.equal(mine, teacher.model.layers[0].mlp.up_proj.weight)


def test_another_student_starts_out_copying_from_its_prompt() -> None:
    student, planted = new_student(student_config(400_000, VOCABULARY, 128, 1), None, 0)
    assert planted is not None
    shown = torch.randperm(VOCABULARY - 5, generator=torch.Generator().manual_seed(1))[:32] + 5
    with torch.no_grad():
        told = student(input_ids=torch.cat([shown, shown]).unsqueeze(0)).logits[0, 32:-1].argmax(-1)
    assert (told == shown[1:]).float().mean() > 0.2  # by chance: 0.002


@pytest.mark.parametrize(("text", "budget"), [("1M", 1_000_000), ("800k", 800_000)])
def test_a_budget_is_kept_to_the_last_parameter(text: str, budget: int) -> None:
    assert parse_params(text) == budget
    config = student_config(budget, 2048, 512, 1)
    assert 0.9 * budget < count_params(LlamaForCausalLM(config)) <= budget


@pytest.mark.parametrize("text", ["", "many", "10", "3G", "200M"])
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(DistillError, match="--params is"):
        parse_params(text)


def test_a_vocabulary_beyond_the_budget_is_refused() -> None:
    with pytest.raises(DistillError, match="too few for a vocabulary of 32,000"):
        student_config(1_000_000, 32_000, 512, 1)


def test_rows_end_where_the_engine_lets_a_reply_begin(
    volumes: dict[str, Volume], recipe: Recipe, base: Path, tmp_path: Path
) -> None:
    from books.distill import rows_of
    from books.teacher import encode_rows

    template = ChatTemplate(base)
    row = rows_of(volumes["well_of_ink"], [])[0]
    (example,) = encode_rows(template, [row], 2000)
    assert list(example.token_ids[: example.start]) == template.encode(row.messages)[0]
    assert template.decode(example.token_ids[example.start :]) == row.reply
    assert example.token_ids[-1] == template.end_id


def test_broken_text_in_a_folder_is_named(tmp_path: Path, book_path: Path) -> None:
    from books.errors import BookTextError

    (book_path.parent / "bad.md").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BookTextError, match=r"bad\.md"):
        read_volumes(book_path.parent)
    assert read_book(book_path).name == "well_of_ink"
