"""How well a base predicts rows: the loss, and what it copies out of its prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from npc_adapters.examples import Batch, Example, collate
from npc_adapters.precision import autocast


def loss_of(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Weighted next-token cross-entropy, computed only where a weight is.

    Returns:
        The mean loss over the weights (scalar), and the logits [N, V] of the positions that have
        one, in row-major order.
    """
    with autocast():
        hidden = model.model(input_ids=batch.ids).last_hidden_state  # [B, T, D]
        weights = batch.weights[:, 1:]
        wanted = weights > 0
        logits = model.lm_head(hidden[:, :-1][wanted]).float()  # [N, V]
    losses = functional.cross_entropy(logits, batch.ids[:, 1:][wanted], reduction="none")
    weights = weights[wanted]
    return (losses * weights).sum() / weights.sum(), logits


@dataclass(frozen=True, slots=True)
class Probe:
    """Held-out figures: loss on replies, and shares of rare copied words and tokens got right."""

    loss: float
    copied_words: float
    copied_tokens: float
    num_words: int


@torch.no_grad()
def probe(model: Any, examples: Sequence[Example], pad_id: int, tokens_per_batch: int) -> Probe:
    """Judge a model on held-out rows, teacher-forced.

    A rare word counts as copied only when every one of its tokens is the likeliest one.
    """
    model.eval()
    loss = weight = tokens = right = words = whole = 0.0
    replies = [Example(e.ids, [float(w >= 1) for w in e.weights], e.copied) for e in examples]
    replies.sort(key=lambda example: len(example.ids))
    size = max(1, tokens_per_batch // max(len(e.ids) for e in replies))
    for start in range(0, len(replies), size):
        batch = collate(replies[start : start + size], pad_id)
        mean, logits = loss_of(model, batch)
        wanted = batch.weights[:, 1:] > 0
        loss += float(mean) * int(wanted.sum())
        weight += int(wanted.sum())
        hit = torch.zeros_like(wanted)
        hit[wanted] = logits.argmax(-1) == batch.ids[:, 1:][wanted]
        for row_hit, row_copied in zip(hit.tolist(), batch.copied[:, 1:].tolist(), strict=True):
            for run in _runs(row_hit, row_copied):
                words, whole = words + 1, whole + all(run)
                tokens, right = tokens + len(run), right + sum(run)
    model.train()
    return Probe(
        loss=loss / max(weight, 1),
        copied_words=whole / max(words, 1),
        copied_tokens=right / max(tokens, 1),
        num_words=int(words),
    )


def _runs(hits: list[bool], copied: list[bool]) -> Iterator[list[bool]]:
    """The hits of each unbroken stretch of copied tokens."""
    run: list[bool] = []
    for hit, inside in zip([*hits, False], [*copied, False], strict=True):
        if inside:
            run.append(hit)
        elif run:
            yield run
            run = []
