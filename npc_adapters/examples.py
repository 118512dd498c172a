"""Conversations as token ids with loss weights, and batches of similar length.

A batch is padded on the right and holds whole conversations only: with causal attention the
padding then needs no mask, and no conversation ever sees another.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BUCKET = 32  # lengths are rounded up to a multiple of this


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation.

    Attributes:
        ids: its tokens.
        weights: the weight of each token's own prediction in the loss; 0 leaves it out.
        copied: whether each token belongs to a rare word of a reply that stands in its prompt,
            which only copying can get right. Empty where nobody asked.
    """

    ids: Sequence[int]
    weights: Sequence[float]
    copied: Sequence[bool] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded conversations: `ids` int64 [B, T], `weights` float32 [B, T], `copied` bool [B, T]."""

    ids: Tensor
    weights: Tensor
    copied: Tensor

    @property
    def num_tokens(self) -> int:
        """Tokens in the batch, padding included."""
        return self.ids.numel()


def collate(examples: Sequence[Example], pad_id: int) -> Batch:
    """Pad examples to one length, a multiple of `BUCKET`."""
    longest = max(len(example.ids) for example in examples)
    length = -(-longest // BUCKET) * BUCKET
    ids = torch.full((len(examples), length), pad_id)
    weights = torch.zeros(len(examples), length)
    copied = torch.zeros(len(examples), length, dtype=torch.bool)
    for row, example in enumerate(examples):
        count = len(example.ids)
        ids[row, :count] = torch.tensor(example.ids)
        weights[row, :count] = torch.tensor(example.weights)
        if example.copied:
            copied[row, :count] = torch.tensor(example.copied)
    return Batch(ids, weights, copied)


def batches(
    examples: Sequence[Example], tokens_per_batch: int, pad_id: int, rng: random.Random
) -> Iterator[Batch]:
    """Endless batches of about `tokens_per_batch` tokens; every epoch is shuffled anew.

    Windows of 512 examples are sorted by length before they are cut, which keeps padding to a
    few per cent while every batch stays a random sample of its window's length class.
    """
    order = list(range(len(examples)))
    while True:
        rng.shuffle(order)
        cut: list[list[Example]] = []
        for start in range(0, len(order), 512):
            window = sorted(order[start : start + 512], key=lambda i: len(examples[i].ids))
            cut += _cut([examples[i] for i in window], tokens_per_batch)
        rng.shuffle(cut)
        for group in cut:
            yield collate(group, pad_id)


def _cut(examples: list[Example], tokens_per_batch: int) -> list[list[Example]]:
    """Consecutive groups that stay within the token budget once padded to their longest."""
    groups: list[list[Example]] = [[]]
    for example in examples:  # sorted: the newest is the longest
        padded = -(-len(example.ids) // BUCKET) * BUCKET
        if groups[-1] and padded * (len(groups[-1]) + 1) > tokens_per_batch:
            groups.append([])
        groups[-1].append(example)
    return groups


def repetitions(tokens_per_batch: int, ids: range, length: int, rng: random.Random) -> Batch:
    """Random tokens said twice, chunk by chunk in another order: practice for copying.

    Induction heads (Olsson et al. 2022) form in minutes on such sequences, long before the text
    itself would teach them. A chunk is a cue of one token and one to five tokens that follow it;
    the loss is on what follows the cues of the second half, which can only be copied.

    Args:
        tokens_per_batch: size of the batch.
        ids: the ordinary tokens, special ones left out.
        length: tokens per row.
        rng: where randomness comes from.
    """
    examples = []
    for _ in range(max(1, tokens_per_batch // length)):
        chunks: list[list[int]] = []
        cues = set()
        while sum(map(len, chunks)) < length // 2 - 6:
            chunk = [rng.choice(ids) for _ in range(rng.randint(2, 6))]
            if chunk[0] not in cues:
                cues.add(chunk[0])
                chunks.append(chunk)
        again = chunks if rng.random() < 0.3 else rng.sample(chunks, len(chunks))
        first = [token for chunk in chunks for token in chunk]
        second = [token for chunk in again for token in chunk]
        weights = [float(i > 0) for chunk in again for i in range(len(chunk))]
        examples.append(Example(first + second, [0.0] * len(first) + weights))
    return collate(examples, pad_id=0)
