"""Batched products for tokens that each belong to a slot of stacked weights.

A step's tokens come in runs of one sequence each. Single tokens (decoding) are grouped by slot
and multiplied in one batched matmul; a longer run (a prompt's chunk) has one slot and is a
plain matmul. Nothing loops over adapters, and nothing gathers weights per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive tokens of one sequence in a step.

    Attributes:
        row: the KV row they extend.
        slot: the adapter (or student) slot they use.
        position: of the first token in its sequence.
        start: index of the first token in the step.
        length: how many.
    """

    row: int
    slot: int
    position: int
    start: int
    length: int


class SlotPlan:
    """How a step's tokens meet stacked weights; made once per step, used by every layer.

    Args:
        runs: every run of the step.
        skip_zero: leave tokens of slot 0 out (the adapter bank's slot 0 adds nothing).
    """

    def __init__(self, runs: Sequence[Run], device: torch.device, *, skip_zero: bool) -> None:
        groups: dict[int, list[int]] = {}
        for run in runs:
            if run.length == 1 and (run.slot or not skip_zero):
                groups.setdefault(run.slot, []).append(run.start)
        self.chunks = [run for run in runs if run.length > 1 and (run.slot or not skip_zero)]
        slots = sorted(groups)
        self._num_groups, self.in_order = len(slots), False
        if not slots:
            return
        self._width = max(len(tokens) for tokens in groups.values())
        padded = [groups[s] + groups[s][:1] * (self._width - len(groups[s])) for s in slots]
        flat = [token for tokens in padded for token in tokens]
        self._contiguous = slots[-1] - slots[0] + 1 == len(slots)
        self._slots = (
            slice(slots[0], slots[-1] + 1)
            if self._contiguous
            else torch.tensor(slots, device=device)
        )
        # Tokens already in slot order, one each: the batch is a view of the step.
        self.in_order = flat == list(range(flat[0], flat[0] + len(flat)))
        self._ordered = slice(flat[0], flat[0] + len(flat))
        self._index = torch.tensor(flat, device=device)

    def __bool__(self) -> bool:
        """Whether any token needs stacked weights."""
        return bool(self._num_groups or self.chunks)

    def singles(self) -> bool:
        """Whether any single token does."""
        return self._num_groups > 0

    def pick(self, stack: Tensor) -> Tensor:
        """The groups' weights, [slots, in, out] -> [G, in, out]: a view if slots are adjacent."""
        return stack[self._slots]

    def gather(self, x: Tensor) -> Tensor:
        """The groups' tokens, [N, in] -> [G, width, in], padded by repetition."""
        x = x[self._ordered] if self.in_order else x[self._index]
        return x.reshape(self._num_groups, self._width, -1)

    def put(self, y: Tensor, delta: Tensor) -> None:
        """Write the groups' results [G, width, out] to their tokens of y [N, out]."""
        delta = delta.reshape(self._index.numel(), -1)
        if self.in_order:
            y[self._ordered] = delta
        else:
            y[self._index] = delta

    def add(self, y: Tensor, delta: Tensor) -> None:
        """Add the groups' results; padding adds nothing, as it writes the same sum twice."""
        delta = delta.reshape(self._index.numel(), -1)
        if self.in_order:
            y[self._ordered] += delta
        else:
            y[self._index] = y[self._index] + delta
