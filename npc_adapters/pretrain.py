"""Training a small base from scratch: a plain loop, sized for a few CPU cores.

Hidden matrices are trained by Muon (Jordan et al. 2024), embeddings and norms by AdamW; the
learning rate warms up and then falls along a cosine, driven by tokens seen or by minutes spent,
whichever is further on, so that a run on a busy machine still ends annealed and on time.

A step's rows are shared among threads of one operator thread each: models of this size spend
more time at the barriers inside an operator than two whole rows side by side ever wait.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from npc_adapters.errors import TrainingError
from npc_adapters.examples import Batch, Example, batches, repetitions
from npc_adapters.induction import Planted
from npc_adapters.muon import Muon
from npc_adapters.probe import loss_of, probe

# Groups of matrices that Muon works on side by side; fixed, since checkpoints number them.
_MUON_SHARDS = 4


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """How a base is trained.

    Attributes:
        tokens: tokens to train on, padding included.
        minutes: time limit; the learning rate reaches its end by then.
        tokens_per_batch: tokens per optimizer step, all threads together.
        threads: parts of a step computed side by side.
        lr: peak learning rate (Muon's updates are scaled to AdamW's size).
        outer_lr: learning rate of embeddings and norms, as a share of the matrices'.
        warmup: share of the run spent warming up.
        floor: final learning rate as a share of the peak.
        copying: share of steps spent on repeated random tokens early in the run (see
            `copying_share`); 0 for none at all.
        held: share of the run in which a planted circuit stays as it is.
        report_every: steps between reports.
        save_every_s: seconds between checkpoints.
    """

    tokens: int = 15_000_000
    minutes: float = 60.0
    tokens_per_batch: int = 3072
    threads: int = 1
    lr: float = 7e-4
    outer_lr: float = 1.0
    warmup: float = 0.04
    floor: float = 0.02
    weight_decay: float = 0.05
    copying: float = 0.3
    held: float = 0.6
    report_every: int = 200
    save_every_s: float = 300.0
    seed: int = 1


def new_base(vocab_size: int, *, hidden: int, layers: int, heads: int, intermediate: int) -> Any:
    """A randomly initialised Llama with tied embeddings; residual outputs start small."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        initializer_range=0.02,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
                linear.weight.mul_(1 / math.sqrt(2 * layers))
    return model


def optimizers(model: Any, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers (in shards), AdamW for everything else."""
    inner = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    chosen = {id(p) for p in inner}
    outer = [p for p in model.parameters() if id(p) not in chosen]
    muons = [
        Muon(inner[shard::_MUON_SHARDS], lr=config.lr, weight_decay=config.weight_decay)
        for shard in range(_MUON_SHARDS)
    ]
    group = {"params": outer, "share": config.outer_lr}
    adamw = torch.optim.AdamW([group], lr=config.lr, betas=(0.9, 0.95), weight_decay=0.0)
    return [*muons, adamw]


def copying_share(config: PretrainConfig, progress: float) -> float:
    """Share of steps on repeated random tokens: at first nothing else, later a reminder."""
    if progress < 0.03:
        return 1.0 if config.copying else 0.0
    return config.copying if progress < 0.15 else config.copying / 10


def learning_rate(config: PretrainConfig, progress: float) -> float:
    """Linear warm-up, then a cosine down to `floor`; `progress` runs from 0 to 1."""
    if progress < config.warmup:
        return config.lr * max(progress, 1e-3) / config.warmup
    done = min(1.0, (progress - config.warmup) / (1 - config.warmup))
    return config.lr * (config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * done)))


class Run:
    """A training run: its model, optimizers and counters, which a checkpoint can restore."""

    def __init__(
        self, model: Any, config: PretrainConfig, folder: Path, planted: Planted | None = None
    ) -> None:
        self.model = model
        self.config = config
        self.folder = folder
        self.planted = planted
        self.parameters = list(model.parameters())
        self.optimizers = optimizers(model, config)
        self.pool = ThreadPoolExecutor(config.threads)
        self.step = 0
        self.tokens = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []

    @property
    def progress(self) -> float:
        """How much of the run is done, 0 to 1, by tokens or by time."""
        by_time = self.seconds / (60 * self.config.minutes)
        return min(1.0, max(self.tokens / self.config.tokens, by_time))

    def train_step(self, parts: Sequence[Batch]) -> float:
        """One optimizer step on some batches, each computed in a thread; returns the loss."""
        started = time.perf_counter()
        lr = learning_rate(self.config, self.progress)
        whole = sum(_weight(part) for part in parts)
        results = list(self.pool.map(lambda part: self._gradients(part, whole), parts))
        for parameter, *gradients in zip(self.parameters, *(g for _, g in results), strict=True):
            parameter.grad = torch.stack(gradients).sum(0) if len(parts) > 1 else gradients[0]
        held = self.planted if self.progress < self.config.held else None
        if held:
            held.mask_gradients()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        list(self.pool.map(lambda optimizer: _update(optimizer, lr), self.optimizers))
        if held:
            held.restore()
        self.step += 1
        self.tokens += sum(part.num_tokens for part in parts)
        self.seconds += time.perf_counter() - started
        return sum(loss for loss, _ in results)

    def _gradients(self, part: Batch, whole: float) -> tuple[float, Sequence[Tensor]]:
        """A part's share of the step's loss, and the gradients of all parameters."""
        loss, _ = loss_of(self.model, part)
        loss = loss * (_weight(part) / whole)
        return float(loss.detach()), torch.autograd.grad(loss, self.parameters)

    def save(self) -> None:
        """Write everything needed to go on, the new state replacing the old one at the end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"model.{k}": v for k, v in self.model.named_parameters()}
        for i, optimizer in enumerate(self.optimizers):
            for key, state in optimizer.state_dict()["state"].items():
                for name, value in state.items():
                    tensors[f"optimizer.{i}.{key}.{name}"] = torch.as_tensor(value)
        counters = {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "history": self.history,
            "config": asdict(self.config),
        }
        target = self.folder / "checkpoint.safetensors"
        partial = target.with_suffix(".partial")
        save_file(
            {k: v.detach().contiguous() for k, v in tensors.items()},
            partial,
            metadata={"counters": json.dumps(counters)},
        )
        partial.replace(target)

    def resume(self) -> bool:
        """Go on from the last checkpoint; False if there is none.

        Raises:
            TrainingError: if the checkpoint is of another shape.
        """
        path = self.folder / "checkpoint.safetensors"
        if not path.exists():
            return False
        tensors = load_file(path)
        weights = {k[6:]: v for k, v in tensors.items() if k.startswith("model.")}
        try:
            self.model.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            raise TrainingError(f"{path} is of another model: {error}") from error
        for i, optimizer in enumerate(self.optimizers):
            self._restore(optimizer, tensors, f"optimizer.{i}.")
        counters = _counters(path)
        self.step, self.tokens = counters["step"], counters["tokens"]
        self.seconds, self.history = counters["seconds"], counters["history"]
        return True

    @staticmethod
    def _restore(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str) -> None:
        """Put an optimizer's saved state back."""
        state = optimizer.state_dict()
        for key, value in tensors.items():
            if key.startswith(prefix):
                number, name = key[len(prefix) :].split(".", 1)
                state["state"].setdefault(int(number), {})[name] = value
        optimizer.load_state_dict(state)


def _weight(batch: Batch) -> float:
    """What a batch counts for in a loss."""
    return float(batch.weights[:, 1:].sum())


def _update(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("share", 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


@contextmanager
def _one_operator_thread() -> Iterator[None]:
    """Threads of ours instead of threads inside every operator."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _counters(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        counters: dict[str, Any] = json.loads(file.metadata()["counters"])
    return counters


def pretrain(
    run: Run,
    train: Sequence[Example],
    valid: Sequence[Example],
    *,
    pad_id: int,
    num_special: int,
    report: Any = print,
) -> list[dict[str, float]]:
    """Train until the tokens or the minutes are used up.

    Args:
        run: the state to go on from.
        train: conversations to learn.
        valid: held-out conversations, judged every `report_every` steps.
        pad_id: id that pads rows.
        num_special: ids below this are special tokens.
        report: called with one line of text per report.

    Returns:
        One dictionary per report: step, tokens, seconds, loss, and the probe's figures.
    """
    with _one_operator_thread():
        return _pretrain(run, train, valid, pad_id, num_special, report)


def _pretrain(
    run: Run,
    train: Sequence[Example],
    valid: Sequence[Example],
    pad_id: int,
    num_special: int,
    report: Any,
) -> list[dict[str, float]]:
    config, rng = run.config, random.Random(run.config.seed + run.step)
    vocab = range(num_special, run.model.config.vocab_size)
    share = config.tokens_per_batch // config.threads
    stream = batches(train, share, pad_id, rng)
    recent: list[float] = []
    recall: list[float] = []
    saved_at, since, tokens_since = run.seconds, time.perf_counter(), run.tokens
    run.model.train()
    while run.progress < 1:
        if rng.random() < copying_share(config, run.progress):
            length = rng.choice((64, 128, 256))
            parts = [repetitions(share, vocab, length, rng) for _ in range(config.threads)]
            recall.append(run.train_step(parts))
        else:
            recent.append(run.train_step([next(stream) for _ in range(config.threads)]))
        if run.step % config.report_every == 0 or run.progress >= 1:
            speed = (run.tokens - tokens_since) / (time.perf_counter() - since)
            figures = asdict(probe(run.model, valid, pad_id, config.tokens_per_batch))
            entry = {
                "step": run.step,
                "tokens": run.tokens,
                "seconds": round(run.seconds, 1),
                "train_loss": sum(recent) / max(len(recent), 1),
                "recall_loss": sum(recall) / max(len(recall), 1),
                "tokens_per_s": speed,
                **figures,
            }
            run.history.append(entry)
            report(_line(entry, run))
            recent, recall, since, tokens_since = [], [], time.perf_counter(), run.tokens
        if run.seconds - saved_at > config.save_every_s:
            run.save()
            saved_at = run.seconds
    run.save()
    return run.history


def _line(entry: dict[str, float], run: Run) -> str:
    """A report as a person reads it."""
    left_s = run.seconds / max(run.progress, 1e-6) - run.seconds
    return (
        f"step {entry['step']:>6} · {entry['tokens'] / 1e6:5.2f}M tokens · "
        f"loss {entry['train_loss']:.3f} · held-out {entry['loss']:.3f} "
        f"(perplexity {math.exp(entry['loss']):.2f}) · rare words copied "
        f"{entry['copied_words']:.0%} of {entry['num_words']}, "
        f"random tokens recalled at loss {entry['recall_loss']:.2f} · "
        f"{entry['tokens_per_s']:.0f} tok/s · {left_s / 60:.0f} min left"
    )
