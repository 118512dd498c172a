"""A training loop that can be killed at any moment and goes on to the same result.

Everything that decides the next step is in one safetensors file: weights, the optimizer's
moments, the step, the losses so far. It is written beside its place and moved there whole.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import parent_process
from pathlib import Path
from random import Random

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from books.errors import DistillError
from npc_adapters.induction import Planted

# A planted circuit is torn apart at the rates that the rest of a student needs; at the end of a
# run, when the rate has fallen under a fifth of them, it may be polished.
_HELD = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: optimizer steps.
        batch_rows: rows of a step.
        learning_rate: after a warm-up of 5 % of the steps; falls to a tenth along a cosine.
        checkpoint_every: steps between two saved states.
        seed: orders the rows.
    """

    steps: int
    batch_rows: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    checkpoint_every: int = 50
    seed: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warm_up = max(1, self.steps // 20)
        if step < warm_up:
            return self.learning_rate * (step + 1) / warm_up
        progress = (step - warm_up) / max(1, self.steps - warm_up)
        return self.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass(kw_only=True, slots=True)
class Progress:
    """Where a training stands."""

    step: int = 0
    losses: list[float] = field(default_factory=list)


def batches(lengths: Sequence[int], schedule: Schedule) -> Iterator[list[int]]:
    """Row numbers of each step, without end: rows of like length together, order from the seed."""
    random = Random(schedule.seed)
    size = schedule.batch_rows
    while True:
        order = list(range(len(lengths)))
        random.shuffle(order)
        pools = [order[i : i + 16 * size] for i in range(0, len(order), 16 * size)]
        groups: list[list[int]] = []
        for pool in pools:
            pool.sort(key=lambda row: lengths[row])
            groups += [pool[i : i + size] for i in range(0, len(pool), size)]
        random.shuffle(groups)
        yield from groups


def train(
    model: nn.Module,
    lengths: Sequence[int],
    loss_of: Callable[[list[int]], Tensor],
    schedule: Schedule,
    checkpoint: Path,
    identity: str,
    report: Callable[[Progress], None] = lambda progress: None,
    planted: Planted | None = None,
) -> Progress:
    """Train in place, from the checkpoint where there is one of the same identity.

    Args:
        model: every parameter that learns, projections included.
        lengths: tokens of each row, to put like with like.
        loss_of: the loss of these rows.
        schedule: how long and how fast.
        checkpoint: file of the state.
        identity: digest of data and settings; a checkpoint of another one is left behind.
        report: called after each step.
        planted: weights to hold in place for the first `_HELD` of the steps.

    Raises:
        DistillError: the loss is no longer a number.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), weight_decay=schedule.weight_decay, betas=(0.9, 0.98)
    )
    progress = _restore(model, optimizer, checkpoint, identity)
    rows = batches(lengths, schedule)
    for _ in range(progress.step):
        next(rows)
    starter = parent_process()
    model.train()
    while progress.step < schedule.steps:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(progress.step)
        loss = loss_of(next(rows))
        if not torch.isfinite(loss):
            raise DistillError(f"the loss of step {progress.step} is {loss.item()}; lower the rate")
        loss.backward()  # type: ignore[no-untyped-call]
        held = planted if progress.step < _HELD * schedule.steps else None
        if held is not None:
            held.mask_gradients()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if held is not None:
            held.restore()
        optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.losses.append(round(loss.item(), 4))
        if progress.step % schedule.checkpoint_every == 0 or progress.step == schedule.steps:
            _save(model, optimizer, checkpoint, identity, progress)
        if starter is not None and not starter.is_alive():
            raise SystemExit(1)  # the run was killed, and the next one must not meet us
        report(progress)
    model.eval()
    return progress


def _save(
    model: nn.Module, optimizer: torch.optim.AdamW, path: Path, identity: str, progress: Progress
) -> None:
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = value
    state = {
        "identity": identity,
        "step": str(progress.step),
        "losses": json.dumps(progress.losses),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({name: t.contiguous() for name, t in tensors.items()}, partial, metadata=state)
    partial.replace(path)


def _restore(model: nn.Module, optimizer: torch.optim.AdamW, path: Path, identity: str) -> Progress:
    if not path.exists():
        return Progress()
    with safe_open(path, framework="pt") as state:
        metadata = state.metadata()
        if metadata["identity"] != identity:
            return Progress()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(state.get_tensor(f"model.{name}"))
                optimizer.state[parameter] = {
                    key: state.get_tensor(f"optimizer.{key}.{name}")
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
    return Progress(step=int(metadata["step"]), losses=json.loads(metadata["losses"]))
