"""Replies of a plain transformers model, many at once: for judging and for on-policy training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from engine.constraints import ConstraintCompiler, forbid
from engine.requests import Constraint

MAX_REPLY_TOKENS = 64


@torch.no_grad()
def write_replies(
    model: Any,
    prompts: Sequence[Sequence[int]],
    end_id: int,
    *,
    sampled: bool = False,
    choices: Sequence[Constraint | None] = (),
    compiler: ConstraintCompiler | None = None,
) -> list[list[int]]:
    """Continue each prompt until the end token, which is left out.

    Args:
        model: any causal model of transformers.
        prompts: token ids, generation prompt included.
        end_id: ends a reply; also pads.
        sampled: draw at temperature 1 from torch's generator; otherwise greedy.
        choices: what each reply may be, as a served book's; empty: anything.
        compiler: of the model's tokenizer; only needed with `choices`.
    """
    replies: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    for first in range(0, len(order), 32):
        group = order[first : first + 32]
        width = max(len(prompts[row]) for row in group)
        ids = torch.full((len(group), width), end_id)
        mask = torch.zeros_like(ids)
        for place, row in enumerate(group):
            ids[place, width - len(prompts[row]) :] = torch.tensor(prompts[row])
            mask[place, width - len(prompts[row]) :] = 1
        chosen = [choices[row] for row in group] if choices else []
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=MAX_REPLY_TOKENS,
            do_sample=sampled,
            top_k=0 if sampled else None,
            eos_token_id=end_id,
            pad_token_id=end_id,
            logits_processor=[_Choices(compiler, chosen, width, end_id)] if compiler else None,
        )
        for place, row in enumerate(group):
            new = out[place, width:].tolist()
            replies[row] = new[: new.index(end_id)] if end_id in new else new
    return replies


class _Choices:
    """Keeps the rows of one call of `generate` to their choices, as the engine does."""

    def __init__(
        self,
        compiler: ConstraintCompiler,
        choices: Sequence[Constraint | None],
        width: int,
        end_id: int,
    ) -> None:
        self._compiler, self._width, self._end_id = compiler, width, end_id
        self._matchers = {row: compiler.compile(c) for row, c in enumerate(choices) if c}

    def __call__(self, token_ids: Tensor, logits: Tensor) -> Tensor:
        """Forbid in logits [B, V] what must not follow token_ids [B, T]."""
        for row, matcher in self._matchers.items():
            if token_ids.shape[1] > self._width and not matcher.is_stopped():
                matcher.consume_token(int(token_ids[row, -1]))
            if matcher.is_stopped():
                logits[row] = -torch.inf
                logits[row, self._end_id] = 0.0
        going = {r: matcher for r, matcher in self._matchers.items() if not matcher.is_stopped()}
        if going:
            forbid(logits, self._compiler.masks([going.get(row) for row in range(len(logits))]))
        return logits
