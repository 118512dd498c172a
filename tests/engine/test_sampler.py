from __future__ import annotations

import math

import pytest
import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from engine.engine import Engine
from engine.errors import RequestError
from engine.requests import SamplingParams
from engine.sampler import penalize, sample, uniform
from tests.engine.conftest import request, run


def draw(logits: torch.Tensor, params: SamplingParams, count: int) -> torch.Tensor:
    """Tokens drawn for `count` seeds."""
    each = [
        SamplingParams(
            temperature=params.temperature, top_k=params.top_k, top_p=params.top_p, seed=s
        )
        for s in range(count)
    ]
    return sample(logits.expand(count, -1), each, [0] * count)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.7, 0, 0.8), (1.3, 12, 1.0), (0.9, 30, 0.6), (1.0, 0, 0.999)],
)
def test_draws_follow_the_distribution_that_transformers_would_use(
    temperature: float, top_k: int, top_p: float
) -> None:
    # 600 tokens, flat enough that the nucleus of 0.999 reaches past the first candidates.
    logits = torch.randn(1, 600, generator=torch.Generator().manual_seed(1))
    warped = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        warped = TopKLogitsWarper(top_k)(None, warped)
    if top_p < 1:
        warped = TopPLogitsWarper(top_p)(None, warped)
    expected = warped.softmax(dim=1)[0]
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p)
    count = 4_000
    found = torch.bincount(draw(logits, params, count), minlength=600) / count
    assert not found[expected == 0].any()
    if top_p < 0.9:  # and every token that is likely enough to be drawn can be
        assert (found[expected > 10 / count] > 0).all()
    # The total variation of 4,000 fair draws from 600 tokens is about 0.15 at most.
    assert 0.5 * (found - expected).abs().sum() < 0.16


def test_greedy_takes_the_likeliest_beside_sampled_rows() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(2))
    warm, cold = SamplingParams(temperature=1.0, seed=1), SamplingParams(temperature=0.0)
    mixed = sample(logits, [cold, warm, cold], [0, 0, 0])
    assert mixed[0] == logits[0].argmax()
    assert mixed[2] == logits[2].argmax()
    assert mixed[1] == sample(logits[1:2], [warm], [0])[0]


def test_repetition_penalty_equals_transformers() -> None:
    logits = torch.randn(2, 40, generator=torch.Generator().manual_seed(3))
    said = torch.tensor([[1, 2, 3], [4, 4, 5]])
    seen = torch.zeros(2, 40, dtype=torch.bool)
    seen.scatter_(1, said, True)
    expected = RepetitionPenaltyLogitsProcessor(1.3)(said, logits.clone())
    torch.testing.assert_close(penalize(logits, seen, torch.tensor([1.3, 1.3])), expected)


def test_numbers_depend_on_seed_and_index_alone_and_fill_the_interval() -> None:
    numbers = [uniform(seed, index) for seed in range(-20, 20) for index in range(50)]
    assert len(set(numbers)) == len(numbers)
    assert 0 <= min(numbers) < 0.01
    assert 0.99 < max(numbers) < 1
    assert uniform(7, 3) == uniform(7, 3)


def test_a_bias_moves_the_token_that_a_text_begins_with(engine: Engine) -> None:
    def said(bias: float, text: str = "e") -> str:
        biased = request("one", max_tokens=24, logit_bias=((text, bias),), ignore_eos=True)
        ids = run(engine, [biased])["one"]
        return engine.template.decode(ids)

    assert set(said(1e4).replace("e", "")) == set()
    assert set(said(1e4, "\n")) == {"\n"}
    assert {" "} <= set(said(1e4, " e")) <= {" ", "e"}  # a word begins with its space
    assert "e" not in said(-1e4)
    assert said(0.0) == engine.template.decode(
        run(engine, [request("two", max_tokens=24, ignore_eos=True)])["two"]
    )


def test_a_bias_without_end_is_refused() -> None:
    with pytest.raises(RequestError, match="the logit_bias of 'e' is inf; it must be finite"):
        SamplingParams(logit_bias=(("e", math.inf),))
