"""The teacher: the books' base fine-tuned on every book, and what it thinks of each token.

A teacher runs once over each training row; the k likeliest tokens of every reply token are kept
on disk, so that any number of students can be trained without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from books.corpus import Row
from books.losses import LossMix, TopK, keep_top_k, mixed_loss
from engine.template import ChatTemplate
from npc_adapters.precision import autocast

TOP_K = 32
_PAD_ID = 0
_SHAPE_STEP = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A row as tokens; the reply begins at `start`, and only it is learned."""

    token_ids: tuple[int, ...]
    start: int

    @property
    def num_labels(self) -> int:
        """Tokens of the reply, its end included."""
        return len(self.token_ids) - self.start


@dataclass(frozen=True, kw_only=True, slots=True)
class Logits:
    """Kept distributions of many rows: `rows[i]` is the first and last + 1 of row i's tokens."""

    kept: TopK
    rows: tuple[tuple[int, int], ...]

    def of(self, rows: Sequence[int]) -> TopK:
        """The distributions of these rows' reply tokens, one after another."""
        spans = [self.rows[row] for row in rows]
        ids = torch.cat([self.kept.token_ids[a:b] for a, b in spans])
        log_probs = torch.cat([self.kept.log_probs[a:b] for a, b in spans])
        return TopK(token_ids=ids.long(), log_probs=log_probs.float())


def encode_rows(template: ChatTemplate, rows: Sequence[Row], limit: int) -> list[Example]:
    """Rows as tokens, those longer than `limit` left out."""
    end = template.end_id
    assert end is not None, "a student's tokenizer has a token that ends a turn"
    examples = []
    for row in rows:
        prompt = template.encode(row.messages)[0] if row.messages else []
        ids = (*prompt, *template.encode_words(row.reply), end)
        if len(ids) <= limit:
            # Nothing stands before a passage's first token, so that one isn't learned.
            examples.append(Example(token_ids=ids, start=max(1, len(prompt))))
    return examples


def data_digest(examples: Sequence[Example]) -> str:
    """SHA-256 of the examples, in hexadecimal."""
    total = sha256()
    for example in examples:
        total.update(f"{example.start}:{example.token_ids}".encode())
    return total.hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Rows as tensors.

    Attributes:
        token_ids: int64 [B, T], padded at the end.
        picked: int64 [N], flat positions in [B * T] whose next token is learned, row by row.
        labels: int64 [N], those next tokens.
    """

    token_ids: Tensor
    picked: Tensor
    labels: Tensor


def collate(examples: Sequence[Example]) -> Batch:
    """Put rows side by side; widths are rounded up, as each new shape costs time and memory."""
    width = _rounded(max(len(example.token_ids) for example in examples))
    ids = torch.full((len(examples), width), _PAD_ID)
    picked: list[int] = []
    labels: list[int] = []
    for row, example in enumerate(examples):
        ids[row, : len(example.token_ids)] = torch.tensor(example.token_ids)
        stop = len(example.token_ids)
        picked += range(row * width + example.start - 1, row * width + stop - 1)
        labels += example.token_ids[example.start :]
    return Batch(token_ids=ids, picked=torch.tensor(picked), labels=torch.tensor(labels))


def reply_logits(model: Any, batch: Batch) -> Tensor:
    """The model's logits at the learned positions, fp32 [N, V].

    Padding stands behind every real token, so the causal mask alone hides it.
    """
    with autocast():
        hidden = model.model(input_ids=batch.token_ids).last_hidden_state
        return picked_logits(model, hidden, batch)


def picked_logits(model: Any, hidden: Tensor, batch: Batch) -> Tensor:
    """Logits of hidden states [B, T, H] at the learned positions, fp32 [N, V]."""
    count = len(batch.picked)
    picked = torch.nn.functional.pad(batch.picked, (0, _rounded(count) - count))
    logits: Tensor = model.lm_head(hidden.flatten(0, 1)[picked])
    return logits[:count].float()


def _rounded(size: int) -> int:
    return -(-size // _SHAPE_STEP) * _SHAPE_STEP


def label_loss(model: Any, examples: Sequence[Example], mix: LossMix) -> Tensor:
    """Cross-entropy of a model on rows."""
    batch = collate(examples)
    return mixed_loss(reply_logits(model, batch), batch.labels, None, mix)


@torch.no_grad()
def record_logits(
    model: Any, examples: Sequence[Example], path: Path, temperature: float, k: int = TOP_K
) -> None:
    """Keep the teacher's distributions for every reply token, in the order of the examples."""
    rows = _spans(examples)
    order = sorted(range(len(examples)), key=lambda row: len(examples[row].token_ids))
    ids = torch.empty(rows[-1][1], k, dtype=torch.int32)
    log_probs = torch.empty(rows[-1][1], k, dtype=torch.float16)
    for start in range(0, len(order), 32):
        group = order[start : start + 32]
        logits = reply_logits(model, collate([examples[row] for row in group]))
        kept = keep_top_k(logits, k, temperature)
        places = torch.cat([torch.arange(*rows[row]) for row in group])
        ids[places] = kept.token_ids.int()
        log_probs[places] = kept.log_probs.half()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({"token_ids": ids, "log_probs": log_probs}, partial)
    partial.replace(path)


def read_logits(paths: Sequence[Path], examples: Sequence[Example]) -> Logits:
    """Kept distributions from files that together cover the examples in order."""
    stored = [load_file(path) for path in paths]
    kept = TopK(
        token_ids=torch.cat([tensors["token_ids"] for tensors in stored]),
        log_probs=torch.cat([tensors["log_probs"] for tensors in stored]),
    )
    rows = _spans(examples)
    assert rows[-1][1] == len(kept.token_ids), "kept logits belong to other rows"
    return Logits(kept=kept, rows=rows)


def _spans(examples: Sequence[Example]) -> tuple[tuple[int, int], ...]:
    ends = list(accumulate(example.num_labels for example in examples))
    return tuple(zip([0, *ends[:-1]], ends, strict=True))
