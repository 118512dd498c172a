"""The decoder against transformers and PEFT, which are the reference."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from peft import PeftModel
from transformers import AutoModelForCausalLM

from engine.config import EngineConfig
from engine.engine import Engine, build_engine
from engine.model import Step
from engine.requests import Constraint
from engine.slots import Run
from tests.engine.conftest import request, run
from tests.tiny_models import SHAPES, tiny_adapter, tiny_base

PROMPTS = (
    "Who keeps the lamp oil?",
    "x",
    "A prompt of some length, so that a sliding window of two dozen tokens matters here.",
)
EOS = 1


def reference(base: Path, adapters: list[Path]) -> PeftModel:
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted = PeftModel.from_pretrained(model, adapters[0], adapter_name="a0")
    for number, path in enumerate(adapters[1:], start=1):
        adapted.load_adapter(path, f"a{number}")
    return adapted.eval()


def generate(model: PeftModel, token_ids: list[int], max_tokens: int) -> list[int]:
    ids = torch.tensor([token_ids])
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=max_tokens,
    )
    found: list[int] = out[0, ids.shape[1] :].tolist()
    return found[:-1] if found[-1] == EOS else found


@pytest.fixture(scope="module", params=SHAPES)
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Engine], PeftModel]:
    """The engine in C (where it can) and in torch, and the reference."""
    folder = tmp_path_factory.mktemp(request.param)
    base = tiny_base(folder / "base", request.param)
    adapters = [
        tiny_adapter(folder / "a0", base, seed=1, rank=3),
        tiny_adapter(folder / "a1", base, seed=2, rank=8, use_rslora=True),
        tiny_adapter(
            folder / "a2",
            base,
            seed=3,
            rank=4,
            targets=["o_proj", "down_proj"],
            rank_pattern={"o_proj": 6},
            alpha_pattern={"down_proj": 3},
        ),
    ]
    # Prompts are computed in small pieces while other rows speak; adapters evict each other.
    config = EngineConfig(
        base=str(base), quantization="none", prefill_tokens=16, max_rows=8, adapter_slots=2
    )
    engines = [build_engine(replace(config, compiled=compiled)) for compiled in (True, False)]
    for engine in engines:
        for number, path in enumerate(adapters):
            engine.install_adapter(f"a{number}", engine.read_adapter(str(path)), False)
    return engines, reference(base, adapters)


def test_greedy_words_equal_transformers_and_peft(
    served: tuple[list[Engine], PeftModel],
) -> None:
    engines, model = served
    names = [None, "a0", "a1", "a2"]
    asked = {f"{p}/{name}": (p, name) for p in PROMPTS for name in names}
    expected = {}
    for key, (prompt, name) in asked.items():
        token_ids = engines[0].template.encode_text(prompt)
        if name is not None:
            model.set_adapter(name)
        with nullcontext() if name else model.disable_adapter():
            expected[key] = generate(model, token_ids, 24)
    lines = [request(k, p, adapter=name, max_tokens=24) for k, (p, name) in asked.items()]
    lines.insert(5, request("ab", "x", constraint=Constraint(kind="regex", source="[ab]{9}")))
    for engine in engines:
        for _ in ("fresh", "from cached prefixes"):
            words = run(engine, lines)
            assert set(engine.template.decode(words.pop("ab"))) <= {"a", "b"}
            assert words == expected
        assert engine.stats().adapter_evictions > 0


def test_logits_equal_transformers_within_a_ten_thousandth(
    served: tuple[list[Engine], PeftModel],
) -> None:
    engines, model = served
    token_ids = engines[0].template.encode_text(PROMPTS[2])
    length = len(token_ids)
    step = Step.of([Run(0, 0, 0, 0, length)], token_ids, range(length), torch.device("cpu"))
    with torch.no_grad(), model.disable_adapter():
        expected = model(torch.tensor([token_ids])).logits[0]
    for engine in engines:
        torch.testing.assert_close(engine.base.decoder.forward(step), expected, atol=1e-4, rtol=0)


def test_nf4_rounded_weights_are_those_that_training_over_nf4_sees(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        for weight in (m.weight for m in model.model.layers.modules() if hasattr(m, "in_features")):
            packed, state = quantize_4bit(weight.data, quant_type="nf4", compress_statistics=True)
            weight.copy_(dequantize_4bit(packed, state))
    config = EngineConfig(base=str(base), quantization="none", nf4_rounded=True)
    engine, plain = build_engine(config), build_engine(replace(config, nf4_rounded=False))
    token_ids = engine.template.encode_text(PROMPTS[2])
    expected = generate(model, token_ids, 24)
    asked = request("rounded", PROMPTS[2], max_tokens=24)
    assert run(engine, [asked])["rounded"] == expected
    assert run(plain, [asked])["rounded"] != expected
