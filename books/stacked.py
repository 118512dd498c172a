"""Stacked students in torch: one batched matmul for many books at once, on any device.

Single tokens (decoding) are grouped by `SlotPlan`. Prompts are put side by side, the shorter ones
padded, so that a batched matmul reads each student's weights once and all threads have work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from books.int8 import dequantize
from books.slots import Student, StudentBank, site_sizes
from engine.architecture import Architecture, rotary_tables
from engine.kv_cache import KVCache
from engine.model import Decoder, Layer, Step
from engine.slots import Run, SlotPlan

_LEAST_FILLED = 0.7  # prompts shorter than this share of the longest go into another batch


class PromptBatch:
    """Prompts of like length, one slot each: tokens [G, W], padded by repeating the last."""

    def __init__(self, runs: Sequence[Run]) -> None:
        runs = sorted(runs, key=lambda run: run.slot)
        width = max(run.length for run in runs)
        slots = [run.slot for run in runs]
        adjacent = slots == list(range(slots[0], slots[0] + len(slots)))
        self._slots = slice(slots[0], slots[-1] + 1) if adjacent else torch.tensor(slots)
        starts = torch.tensor([[run.start] for run in runs])
        last = torch.tensor([[run.length - 1] for run in runs])
        self._tokens = starts + torch.minimum(torch.arange(width), last)

    def multiply(self, x: Tensor, weight: Tensor, y: Tensor) -> None:
        """Write the products of these tokens of x [N, in] to y [N, out]."""
        # A padded token is computed from the same numbers as the one it repeats.
        y[self._tokens] = torch.bmm(x[self._tokens], weight[self._slots].transpose(1, 2))


def prompt_batches(runs: Sequence[Run]) -> list[PromptBatch]:
    """Few batches for a step's prompts, none of them mostly padding."""
    batches: list[list[Run]] = []
    for run in sorted(runs, key=lambda run: -run.length):
        if batches and run.length >= _LEAST_FILLED * batches[-1][0].length:
            batches[-1].append(run)
        else:
            batches.append([run])
    return [PromptBatch(batch) for batch in batches]


class StackedLinear:
    """A linear whose weights differ by slot: weight [slots, out, in]."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, x: Tensor, plan: SlotPlan, prompts: Sequence[PromptBatch] = ()) -> Tensor:
        """[N, in] -> [N, out]; every token is in the plan or in one of the prompts."""
        product = None
        if plan.singles():
            # Weights first: a batch of matrix-vector products reads each weight row once, which
            # is what a step of single tokens costs (14 ms instead of 44 for 64 students of 1M).
            product = torch.bmm(plan.pick(self.weight), plan.gather(x).transpose(1, 2))
            product = product.transpose(1, 2)
            if plan.in_order and not prompts:
                return product.reshape(x.shape[0], -1)
        y = x.new_empty(x.shape[0], self.weight.shape[1])
        if product is not None:
            plan.put(y, product)
        for batch in prompts:
            batch.multiply(x, self.weight, y)
        return y


class StackedBank(StudentBank):
    """Every tensor `[slots + 1, ...]`."""

    def __init__(
        self, shape: Architecture, num_slots: int, tokenizer_digest: str, dtype: torch.dtype
    ) -> None:
        super().__init__(shape, num_slots, tokenizer_digest)
        self.stacks = {
            name: torch.zeros(num_slots + 1, *size, dtype=dtype)
            for name, size in site_sizes(shape).items()
        }

    @property
    def size_bytes(self) -> int:
        """Memory of all slots."""
        return sum(stack.numel() * stack.element_size() for stack in self.stacks.values())

    def write(self, slot: int, content: Student) -> None:
        """Put a student into a slot, in place."""
        for name, tensor in dequantize(content.tensors).items():
            self.stacks[name][slot] = tensor


class StepSlots:
    """Which slot each token of a step belongs to; worked out once per step."""

    def __init__(self) -> None:
        self._step: Step | None = None
        self.tokens = torch.empty(0, dtype=torch.long)
        self.wanted = SlotPlan((), self.tokens.device, skip_zero=False)
        self.prompts: list[PromptBatch] = []

    def of(self, step: Step) -> StepSlots:
        """Itself, up to date with the step."""
        if self._step is not step:
            self._step = step
            slots = [run.slot for run in step.runs for _ in range(run.length)]
            self.tokens = torch.tensor(slots)
            runs = [
                Run(row=0, slot=slots[token], position=0, start=place, length=1)
                for place, token in enumerate(step.wanted.tolist())
            ]
            self.wanted = SlotPlan(runs, step.rows.device, skip_zero=False)
            self.prompts = prompt_batches(step.plan.chunks)
        return self


def build_decoder(bank: StackedBank, config: Any, cache: KVCache) -> Decoder:
    """A decoder whose every weight is looked up by the token's slot."""
    shape, slots = bank.shape, StepSlots()

    def norm(name: str) -> Any:
        weight = bank.stacks[name]

        def apply(x: Tensor, step: Step) -> Tensor:
            return F.rms_norm(x, x.shape[1:], None, shape.norm_eps) * weight[slots.of(step).tokens]

        return apply

    def last_norm(x: Tensor, step: Step) -> Tensor:
        chosen = bank.stacks["norm"][slots.of(step).tokens[step.wanted]]
        return F.rms_norm(x, x.shape[1:], None, shape.norm_eps) * chosen

    def linear(name: str) -> Any:
        stacked = StackedLinear(bank.stacks[name])
        return lambda x, step: stacked(x, step.plan, slots.of(step).prompts)

    def embed(token_ids: Tensor, step: Step) -> Tensor:
        return bank.stacks["embed"][slots.of(step).tokens, token_ids]

    head = StackedLinear(bank.stacks["embed"])
    return Decoder(
        shape,
        embed=embed,
        layers=[
            Layer(
                attention_norm=norm(f"attention_norm.{number}"),
                qkv=linear(f"qkv.{number}"),
                o=linear(f"o.{number}"),
                mlp_norm=norm(f"mlp_norm.{number}"),
                gate_up=linear(f"gate_up.{number}"),
                down=linear(f"down.{number}"),
            )
            for number in range(shape.num_layers)
        ],
        norm=last_norm,
        head=lambda x, step: head(x, slots.of(step).wanted),
        rotary=rotary_tables(config, shape, cache.length),
        cache=cache,
    )
