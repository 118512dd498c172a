"""From what the scheduler planned to what the decoder computes."""

from __future__ import annotations

from collections.abc import Sequence as Several

import torch
from torch import Tensor

from engine.model import Step
from engine.sequence import Sequence
from engine.slots import Run


def make_step(
    plan: Several[tuple[Sequence, int]], device: torch.device, *, skip_zero: bool
) -> Step:
    """A step that computes the next `length` tokens of each planned sequence.

    Logits are asked for where a sequence's last token is among them.
    """
    token_ids: list[int] = []
    runs: list[Run] = []
    wanted: list[int] = []
    for sequence, length in plan:
        assert sequence.row is not None
        first = sequence.num_computed
        runs.append(Run(sequence.row, sequence.slot, first, len(token_ids), length))
        token_ids += sequence.token_ids[first : first + length]
        if length == sequence.num_pending:
            wanted.append(len(token_ids) - 1)
    return Step.of(runs, token_ids, wanted, device, skip_zero=skip_zero)


def soft_prompt_step(prompt: Tensor, row: int, slot: int, device: torch.device) -> Step:
    """A step that computes a soft prompt's vectors [tokens, hidden] at the front of a row."""
    length = prompt.shape[0]
    runs = [Run(row, slot, 0, 0, length)]
    return Step.of(runs, [0] * length, [length - 1], device, embeddings=prompt.to(device))
