"""Replies of a plain transformers model, many at once: for judging and for on-policy training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

MAX_REPLY_TOKENS = 48


@torch.no_grad()
def write_replies(
    model: Any, prompts: Sequence[Sequence[int]], end_id: int, *, sampled: bool = False
) -> list[list[int]]:
    """Continue each prompt until the end token, which is left out.

    Args:
        model: any causal model of transformers.
        prompts: token ids, generation prompt included.
        end_id: ends a reply; also pads.
        sampled: draw at temperature 1 from torch's generator; otherwise greedy.
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
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=MAX_REPLY_TOKENS,
            do_sample=sampled,
            top_k=0 if sampled else None,
            eos_token_id=end_id,
            pad_token_id=end_id,
        )
        for place, row in enumerate(group):
            new = out[place, width:].tolist()
            replies[row] = new[: new.index(end_id)] if end_id in new else new
    return replies
