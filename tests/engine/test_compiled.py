"""The C kernels: right against torch, and the same bits whatever else is in a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engine.architecture import read_architecture
from engine.compiled import CompiledDecoder, pack
from engine.config import EngineConfig
from engine.engine import Engine, build_engine
from engine.kernels import load_library
from engine.kv_cache import KVCache
from engine.linear import Linear, quantize_rows
from engine.lora import LoraBank
from engine.model import Step
from engine.slots import Run
from tests.tiny_models import SHAPES, tiny_adapter, tiny_base

pytestmark = pytest.mark.skipif(load_library() is None, reason="needs a C compiler")


def logits(engine: Engine, runs: list[Run], token_ids: list[int]) -> Tensor:
    """Logits of every token of the runs."""
    step = Step.of(runs, token_ids, range(len(token_ids)), torch.device("cpu"))
    return engine.base.decoder.forward(step).clone()


def build(base: Path, adapter: Path, quantization: str, compiled: bool) -> Engine:
    config = EngineConfig(base=str(base), quantization=quantization, compiled=compiled)  # type: ignore[arg-type]  # parametrised
    engine = build_engine(config)
    engine.install_adapter("a", engine.read_adapter(str(adapter)), True)
    return engine


def exact_int8(weight: Tensor, bias: Tensor | None, _: str) -> Linear:
    """W8A8 in exact arithmetic: a weight scale per output, an activation scale per token."""
    quantized, scale = quantize_rows(weight)

    def apply(x: Tensor) -> Tensor:
        rows = x.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127.0
        y = torch.round(x / rows).double() @ quantized.double().T
        y = y.float() * rows * scale
        return y if bias is None else y + bias

    return apply


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "gemma3"])
def test_kernels_are_as_close_to_fp32_as_exact_int8(
    shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base(tmp_path / "base", shape)
    adapter = tiny_adapter(tmp_path / "adapter", base, rank=5)
    full = build(base, adapter, "none", False)
    kernels = build(base, adapter, "int8", True)
    monkeypatch.setattr("engine.loader.make_linear", exact_int8)
    exact = build(base, adapter, "none", False)
    assert isinstance(kernels.base.decoder, CompiledDecoder)
    token_ids = list(range(10, 90))
    for slot in (0, 1):
        runs = [Run(0, slot, 0, 0, 80)]
        found = [logits(engine, runs, token_ids) for engine in (full, exact, kernels)]
        reference, ours = ((other - found[0]).norm() / found[0].norm() for other in found[1:])
        assert ours < 1.1 * reference + 1e-3


def test_the_largest_weights_and_activations_do_not_overflow(base: Path) -> None:
    # All products are 127 * 127; a processor that adds their pairs in 16 bits would saturate.
    shape = replace(read_architecture(base)[0], num_layers=0)
    size, device, library = shape.hidden_size, torch.device("cpu"), load_library()
    decoder = CompiledDecoder(
        shape,
        library,
        embedding=torch.ones(shape.vocab_size, size, dtype=torch.bfloat16),
        layers=[],
        norm=torch.ones(size),
        head=pack(torch.ones(shape.vocab_size, size), None, library, full=False),
        rotary=[torch.zeros(8, 2, shape.head_dim // 2)],
        cache=KVCache(shape, 1, 8, torch.bfloat16, device),
        bank=LoraBank(shape, 1, 16, "", torch.bfloat16, device, 16),
    )
    step = Step.of([Run(0, 0, 0, 0, 3)], [5, 6, 7], range(3), device)
    expected = torch.full((3, shape.vocab_size), float(size))
    torch.testing.assert_close(decoder.forward(step), expected)


@pytest.mark.parametrize("quantization", ["int8", "none"])
def test_logits_are_the_same_bits_alone_in_chunks_and_among_others(
    make_engine: Callable[..., Engine], quantization: str
) -> None:
    engine = make_engine(quantization=quantization, max_rows=8)
    assert isinstance(engine.base.decoder, CompiledDecoder)
    for version in (engine._store.find(f"a{n}") for n in range(6)):
        assert engine._store.acquire(version)
    token_ids = [7 + 3 * n for n in range(40)]
    whole = logits(engine, [Run(0, 2, 0, 0, 40)], token_ids)
    cuts = [(0, 1), (1, 14), (15, 2), (17, 23)]
    chunks = [logits(engine, [Run(1, 2, a, 0, n)], token_ids[a : a + n]) for a, n in cuts]
    assert torch.equal(torch.cat(chunks), whole)
    # One token at a time, at every place among seven other rows of other adapters.
    engine.base.cache.copy(0, 3, 39)
    others = [Run(row, row % 6, 5, 0, 1) for row in (1, 2, 4, 5, 6, 7)]
    for place in range(len(others) + 1):
        runs = [*others[:place], Run(3, 2, 39, 0, 1), *others[place:]]
        runs = [Run(r.row, r.slot, r.position, n, 1) for n, r in enumerate(runs)]
        ids = [token_ids[39] if run.row == 3 else 50 + run.row for run in runs]
        assert torch.equal(logits(engine, runs, ids)[place], whole[39])


def test_without_a_compiler_int8_is_served_as_fp32_and_says_so(
    base: Path, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.kernels.load_library", lambda full: None)
    with pytest.warns(UserWarning, match="can't serve int8 here; using fp32"):
        engine = build(base, adapters[0], "int8", True)
    assert not isinstance(engine.base.decoder, CompiledDecoder)
    assert logits(engine, [Run(0, 1, 0, 0, 3)], [10, 11, 12]).isfinite().all()
