"""Logits to tokens, for a whole batch in one call, seeded per request.

A request's n-th token is drawn with a number that depends on its seed and n alone, by
inversion of the cumulative distribution, so batch, order and hardware threads don't matter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.requests import SamplingParams

CANDIDATES = 256  # likeliest tokens looked at before sorting the whole vocabulary
_MASK = (1 << 64) - 1


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) for a seed and a token's index (SplitMix64, Steele et al. 2014)."""
    z = (seed * 0x9E3779B97F4A7C15 + (index + 1) * 0xD1B54A32D192ED03) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


def penalize(logits: Tensor, seen: Tensor, penalties: Tensor) -> Tensor:
    """Repetition penalty (Keskar et al. 2019): logits [B, V], seen bool [B, V], penalties [B]."""
    scale = penalties[:, None]
    weakened = torch.where(logits < 0, logits * scale, logits / scale)
    return torch.where(seen, weakened, logits)


def sample(logits: Tensor, params: Sequence[SamplingParams], indices: Sequence[int]) -> Tensor:
    """The next token of each row.

    Args:
        logits: fp32 [B, V], penalties and constraints already applied.
        params: each row's settings.
        indices: how many tokens each row has generated so far.

    Returns:
        Token ids, int64 [B].
    """
    groups: dict[Callable[..., Tensor], list[int]] = {}
    for row, p in enumerate(params):
        draw = _draw_cut if p.top_k or p.top_p < 1 else _draw_free
        groups.setdefault(draw if p.temperature > 0 else _likeliest, []).append(row)
    tokens = torch.empty(len(params), dtype=torch.long, device=logits.device)
    for draw, rows in groups.items():
        numbers = [uniform(params[row].seed, indices[row]) for row in rows]
        drawn = torch.tensor(numbers, dtype=torch.float64, device=logits.device)
        some = logits if len(rows) == len(params) else logits[rows]
        tokens[rows] = draw(some, [params[row] for row in rows], drawn)
    return tokens


def _likeliest(logits: Tensor, params: Sequence[SamplingParams], drawn: Tensor) -> Tensor:
    return logits.argmax(dim=1)


def _scaled(logits: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    return logits / torch.tensor([p.temperature for p in params], device=logits.device)[:, None]


def _draw_free(logits: Tensor, params: Sequence[SamplingParams], drawn: Tensor) -> Tensor:
    """Draw from the whole vocabulary."""
    return _invert(torch.softmax(_scaled(logits, params), dim=1).double().cumsum(dim=1), drawn)


def _invert(mass: Tensor, drawn: Tensor) -> Tensor:
    """The first index whose cumulative mass [B, V] exceeds drawn * total."""
    target = drawn[:, None] * mass[:, -1:]
    return torch.searchsorted(mass, target, right=True).squeeze(1).clamp_max(mass.shape[1] - 1)


def _draw_cut(logits: Tensor, params: Sequence[SamplingParams], drawn: Tensor) -> Tensor:
    """Draw from the top_k likeliest tokens, of those from the top_p nucleus."""
    scaled, device = _scaled(logits, params), logits.device
    top_k = torch.tensor([p.top_k for p in params], device=device)
    top_p = torch.tensor([p.top_p for p in params], device=device).double()
    vocabulary = scaled.shape[1]
    count = min(vocabulary, max(CANDIDATES, int(top_k.max())))
    total = scaled.logsumexp(dim=1, keepdim=True)
    while True:
        values, tokens = scaled.topk(count, dim=1)
        mass = (values - total).exp().double().cumsum(dim=1)
        # A nucleus that reaches past the candidates needs the whole order.
        short = (top_k == 0) & (mass[:, -1] < top_p)
        if count == vocabulary or not bool(short.any()):
            break
        count = vocabulary
    last_k = torch.where(top_k > 0, top_k, count).clamp(max=count) - 1
    kept = torch.where(top_k[:, None] > 0, mass.gather(1, last_k[:, None]), 1.0)
    nucleus = torch.searchsorted(mass, top_p[:, None] * kept).squeeze(1)
    last = torch.minimum(last_k, nucleus)
    target = drawn[:, None] * mass.gather(1, last[:, None])
    index = torch.searchsorted(mass, target, right=True).squeeze(1)
    return tokens.gather(1, torch.minimum(index, last)[:, None]).squeeze(1)
