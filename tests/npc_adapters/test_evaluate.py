from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM

from engine.requests import SamplingParams
from engine.template import ChatTemplate
from npc_adapters.bases import make_examples
from npc_adapters.data import Row
from npc_adapters.encoding import encode
from npc_adapters.errors import StoreError
from npc_adapters.evaluate import (
    BARE,
    GENERAL,
    Trial,
    distinct,
    draw_matrix,
    evaluate_adapters,
    judge_replies,
    loops,
    perplexities,
    perplexity,
    questions_of,
    swap_matrix,
)
from npc_adapters.judge import CharacterJudge, spoken
from tests.npc_adapters.conftest import row
from tests.tiny_models import tiny_adapter


def test_perplexity_is_that_of_transformers(base: Path, rows: list[Row]) -> None:
    template = ChatTemplate(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    example = encode(template, rows[0].messages)
    pairs = zip(example.ids, example.weights, strict=True)
    labels = torch.tensor([[token if w else -100 for token, w in pairs]])
    with torch.no_grad():
        loss = float(model(input_ids=torch.tensor([example.ids]), labels=labels).loss)
    examples = make_examples(template, rows[:1], prompt_weight=0.0, max_tokens=256)
    assert perplexity(model, examples, 0) == pytest.approx(math.exp(loss), rel=0.02)  # bf16


def test_the_swap_matrix_has_a_row_per_adapter_and_one_for_the_base(
    tmp_path: Path, base: Path, rows: list[Row]
) -> None:
    adapters = {name: tiny_adapter(tmp_path / name, base, seed=i) for i, name in enumerate("ab")}
    both = {"a": rows[:4], "b": rows[4:8], GENERAL: rows[8:12]}
    matrix = swap_matrix(base, adapters, both)
    assert list(matrix) == [BARE, "a", "b"]
    alone = swap_matrix(base, {"b": adapters["b"]}, both)
    assert alone["b"] == pytest.approx(matrix["b"])
    draw_matrix(matrix, tmp_path / "swap.png")
    assert (tmp_path / "swap.png").read_bytes().startswith(b"\x89PNG")


def test_gain_margin_and_forgetting_are_shares() -> None:
    matrix = {
        BARE: {"a": 10.0, GENERAL: 5.0},
        "a": {"a": 6.0, GENERAL: 5.5},
        "b": {"a": 8.0, GENERAL: 5.0},
    }
    figures = perplexities(matrix, "a")
    assert figures["gain"] == pytest.approx(0.4)
    assert figures["margin"] == pytest.approx(0.25)
    assert figures["forgetting"] == pytest.approx(0.1)


def test_distinct_counts_different_pairs_of_words() -> None:
    assert distinct(["a b a b"]) == pytest.approx(2 / 3)
    assert distinct(["one"]) == 0.0


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("All is well.", False),
        ("", True),
        ("All is", True),
        ("go on and go on and go on and stop.", True),
    ],
)
def test_loops_and_fragments_are_noticed(text: str, broken: bool) -> None:
    assert loops(text) is broken


def test_a_judge_tells_voices_apart_and_survives_saving(tmp_path: Path) -> None:
    pirate = [f"[calm] Arr, {i} it be, matey." for i in range(20)]
    clerk = [f"[calm] Kindly note entry {i} of the register." for i in range(20)]
    names = ["pirate"] * 20 + ["clerk"] * 20
    judge = CharacterJudge.train([*pirate, *clerk], names)
    judge.save(tmp_path)
    again = CharacterJudge.load(tmp_path)
    assert again.accuracy([["Arr, matey!"], ["Kindly note this."]], ["pirate", "clerk"]) == 1.0
    mixed = ["Kindly note this.", "Arr, matey, it be so.", "Arr!"]
    assert again.accuracy([mixed], ["pirate"]) == 1.0  # a talk is heard as a whole
    scores = again.score("Arr, a register, matey")
    assert sum(scores.values()) == pytest.approx(1.0)


def test_a_judge_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    tensors = {"weights": np.zeros((8, 2), dtype=np.float16), "bias": np.zeros(2, np.float32)}
    save_file(tensors, tmp_path / "judge.safetensors", metadata={"agents": '["a", "b"]'})
    with pytest.raises(StoreError, match=r"judge\.safetensors was made by another version"):
        CharacterJudge.load(tmp_path)


def test_the_judge_hears_words_alone() -> None:
    assert spoken('[sad] Take it.\n> give {"item": "key"}') == "Take it."


def test_lore_counts_rows_whose_facts_were_all_said() -> None:
    rows = [row("a", "b", ("Zorvald",)), row("a", "b", ("Mirrel", "oil")), row("a", "b")]
    judge = CharacterJudge.train(["x y", "p q"], ["a", "b"])
    replies = ["zorvald has it.", "Mirrel knows.", "Hm."]
    figures = judge_replies("a", rows, replies, judge)
    assert figures["lore"] == 0.5
    assert {"recognised", "recognised_lines"} <= set(figures)


def test_every_line_of_a_talk_is_answered_with_what_came_before_it() -> None:
    once = row("a", "b").messages
    questions = questions_of([Row((*once, *once[1:]), "x", 1), row("c", "d")], "ann")
    assert [len(question.messages) for question in questions] == [2, 4, 2]


def test_characters_are_judged_through_the_engine(
    tmp_path: Path, base: Path, rows: list[Row]
) -> None:
    adapters = {name: tiny_adapter(tmp_path / name, base, seed=i) for i, name in enumerate("ab")}
    trials = {
        name: Trial(held_out=rows[i : i + 2], train=rows[4 + i : 12 + i])
        for i, name in enumerate(adapters)
    }
    sampling = SamplingParams(max_tokens=8, temperature=0.0)
    figures, whole = evaluate_adapters(
        base, adapters, trials, rows[20:22], sampling=sampling, threads=1
    )
    assert set(figures) == {"a", "b"}
    assert {"gain", "margin", "forgetting", "recognised", "distinct_2", "broken"} <= set(
        figures["a"]
    )
    assert 0 <= whole["judge_accuracy"] <= 1
    assert 0 <= whole["judge_accuracy_lines"] <= 1
