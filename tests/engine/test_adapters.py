"""What adapters may be: served exactly, or refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from engine.adapters import read_adapter
from engine.engine import Engine
from engine.errors import AdapterError
from tests.engine.conftest import request, run
from tests.tiny_models import tiny_adapter

SOFT = [
    PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=16),
    PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
]


def soft_adapter(folder: Path, base: Path, config: PeftConfig) -> Path:
    torch.manual_seed(5)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.save_pretrained(folder)
    file = folder / "adapter_model.safetensors"
    save_file({n: torch.randn_like(t) for n, t in load_file(file).items()}, file)
    return folder


def greedy(model: PeftModel, token_ids: list[int], max_tokens: int) -> list[int]:
    """PEFT's words, every prefix computed anew: its soft prompts don't know generate's caches."""
    length = len(token_ids)
    while len(token_ids) < length + max_tokens:
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([token_ids])).logits[0, -1].argmax())
        if token == 1:
            break
        token_ids = [*token_ids, token]
    return token_ids[length:]


# PEFT still calls transformers by the older name.
@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
@pytest.mark.parametrize("config", SOFT, ids=lambda config: config.peft_type.value)
def test_soft_prompts_speak_as_in_peft_beside_lora_rows(
    make_engine: Callable[..., Engine], base: Path, tmp_path: Path, config: PeftConfig
) -> None:
    folder = soft_adapter(tmp_path / "soft", base, config)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    engine = make_engine()
    engine.install_adapter("soft", engine.read_adapter(str(folder)), False)
    expected = greedy(model, engine.template.encode_text("Who is there?"), 20)
    lora = request("lora", adapter="a1")
    alone = run(engine, [lora])["lora"]
    for turn in ("first", "from the cache"):
        words = run(
            engine,
            [request(turn, "Who is there?", adapter="soft", max_tokens=20), lora],
        )
        assert words[turn] == expected
        assert words["lora"] == alone


@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
@pytest.mark.parametrize("config", SOFT[::2], ids=lambda config: config.peft_type.value)
def test_a_soft_prompt_lies_on_top_of_a_lora_as_on_the_merged_base(
    make_engine: Callable[..., Engine],
    base: Path,
    adapters: list[Path],
    tmp_path: Path,
    config: PeftConfig,
) -> None:
    merged = AutoModelForCausalLM.from_pretrained(base)
    merged = PeftModel.from_pretrained(merged, adapters[0]).merge_and_unload()
    soft = soft_adapter(tmp_path / "soft", base, config)
    model = PeftModel.from_pretrained(merged, soft).eval()
    parts = [{"path": str(adapters[0]), "weight": 1}, {"path": "soft", "weight": 1}]
    (tmp_path / "blend.json").write_text(json.dumps({"parts": parts}))
    engine = make_engine()
    engine.install_adapter("both", engine.read_adapter(str(tmp_path)), False)
    expected = greedy(model, engine.template.encode_text("Who is there?"), 20)
    for turn in ("first", "from the cache"):
        asked = request(turn, "Who is there?", adapter="both", max_tokens=20)
        words = run(engine, [asked, request("other", adapter="a1")])
        assert words[turn] == expected
    (tmp_path / "blend.json").write_text(json.dumps({"parts": parts[1:]}))
    with pytest.raises(AdapterError, match="is no LoRA adapter"):
        read_adapter(tmp_path)


def test_blend_is_the_exact_weighted_sum(
    make_engine: Callable[..., Engine], adapters: list[Path], tmp_path: Path
) -> None:
    parts = [{"path": str(adapters[0]), "weight": 0.7}, {"path": str(adapters[3]), "weight": -0.4}]
    (tmp_path / "blend.json").write_text(json.dumps({"parts": parts}))
    blended = read_adapter(tmp_path)
    first, second = read_adapter(adapters[0]), read_adapter(adapters[3])
    assert blended.rank == first.rank + second.rank
    for name, (a, b) in blended.factors.items():
        one, two = first.factors[name], second.factors[name]
        torch.testing.assert_close(b @ a, 0.7 * one[1] @ one[0] - 0.4 * two[1] @ two[0])
    engine = make_engine()
    engine.install_adapter("both", engine.read_adapter(str(tmp_path)), False)
    assert run(engine, [request("1", adapter="both")])["1"]


def test_a_blend_rounded_to_a_rank_is_the_nearest_of_that_rank(
    adapters: list[Path], tmp_path: Path
) -> None:
    parts = [{"path": str(adapters[0]), "weight": 0.7}, {"path": str(adapters[3]), "weight": 0.4}]
    (tmp_path / "blend.json").write_text(json.dumps({"parts": parts}))
    exact = read_adapter(tmp_path)
    (tmp_path / "blend.json").write_text(json.dumps({"parts": parts, "rank": 3}))
    rounded = read_adapter(tmp_path)
    assert rounded.rank == 3 < exact.rank
    assert rounded.digest != exact.digest
    for name, (a, b) in rounded.factors.items():
        full_a, full_b = exact.factors[name]
        u, s, vh = torch.linalg.svd(full_b @ full_a, full_matrices=False)
        torch.testing.assert_close(b @ a, (u[:, :3] * s[:3]) @ vh[:3], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "biases"),
        ({"peft_type": "IA3"}, "'IA3'"),
        ({"fan_in_fan_out": True}, "transposed"),
    ],
)
def test_what_the_bank_cannot_hold_exactly_is_refused_by_name(
    adapters: list[Path], tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    config = json.loads((adapters[0] / "adapter_config.json").read_text()) | change
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    weights = (adapters[0] / "adapter_model.safetensors").read_bytes()
    (tmp_path / "adapter_model.safetensors").write_bytes(weights)
    with pytest.raises(AdapterError, match=named):
        read_adapter(tmp_path)


def test_pickles_and_damaged_files_are_refused(adapters: list[Path], tmp_path: Path) -> None:
    config = (adapters[0] / "adapter_config.json").read_text()
    (tmp_path / "adapter_config.json").write_text(config)
    (tmp_path / "adapter_model.bin").write_bytes(b"never read")
    with pytest.raises(AdapterError, match="pickle"):
        read_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"\x10 not tensors")
    with pytest.raises(AdapterError, match="damaged"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(
    adapters: list[Path], tmp_path: Path, value: float
) -> None:
    shutil.copytree(adapters[0], tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = value
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="NaN or infinite"):
        read_adapter(tmp_path)


def test_weights_that_are_not_the_cards_are_refused(
    make_engine: Callable[..., Engine], adapters: list[Path], tmp_path: Path
) -> None:
    shutil.copytree(adapters[0], tmp_path, dirs_exist_ok=True)
    digest = read_adapter(tmp_path).digest
    (tmp_path / "card.json").write_text(json.dumps({"digest": digest}))
    assert make_engine().read_adapter(str(tmp_path)).digest == digest
    file = tmp_path / "adapter_model.safetensors"
    weights = bytearray(file.read_bytes())
    weights[-1] ^= 1  # one bit
    file.write_bytes(weights)
    with pytest.raises(AdapterError, match="damaged"):
        make_engine().read_adapter(str(tmp_path))


def test_rank_over_the_slots_is_refused(
    make_engine: Callable[..., Engine], base: Path, tmp_path: Path
) -> None:
    wide = tiny_adapter(tmp_path / "wide", base, rank=20)
    with pytest.raises(AdapterError, match="rank 20; a slot holds 16"):
        make_engine().read_adapter(str(wide))
