"""From what the scheduler planned to what the decoder computes."""

from __future__ import annotations

from collections.abc import Sequence as Several

import torch
from torch import Tensor

from engine.model import Step
from engine.sequence import Sequence
from engine.slots import Run, SlotPlan


def make_step(
    plan: Several[tuple[Sequence, int]], device: torch.device, *, skip_zero: bool
) -> Step:
    """A step that computes the next `length` tokens of each planned sequence.

    Logits are asked for where a sequence's last token is among them.
    """
    token_ids: list[int] = []
    positions: list[int] = []
    rows: list[int] = []
    slots: list[int] = []
    runs: list[Run] = []
    wanted: list[int] = []
    for sequence, length in plan:
        assert sequence.row is not None
        first = sequence.num_computed
        runs.append(Run(sequence.row, sequence.slot, first, len(token_ids), length))
        token_ids += sequence.token_ids[first : first + length]
        positions += range(first, first + length)
        rows += [sequence.row] * length
        slots += [sequence.slot] * length
        if length == sequence.num_pending:
            wanted.append(len(token_ids) - 1)
    return Step(
        token_ids=torch.tensor(token_ids, device=device),
        positions=torch.tensor(positions, device=device),
        rows=torch.tensor(rows, device=device),
        slots=torch.tensor(slots, device=device),
        runs=runs,
        plan=SlotPlan(runs, device, skip_zero=skip_zero),
        wanted=torch.tensor(wanted, dtype=torch.long, device=device),
    )


def soft_prompt_step(prompt: Tensor, row: int, device: torch.device) -> Step:
    """A step that computes a soft prompt's vectors [tokens, hidden] at the front of a row."""
    length = prompt.shape[0]
    runs = [Run(row, 0, 0, 0, length)]
    return Step(
        token_ids=torch.zeros(length, dtype=torch.long, device=device),
        positions=torch.arange(length, device=device),
        rows=torch.full((length,), row, device=device),
        slots=torch.zeros(length, dtype=torch.long, device=device),
        runs=runs,
        plan=SlotPlan(runs, device, skip_zero=True),
        wanted=torch.tensor([length - 1], device=device),
        embeddings=prompt.to(device),
    )
