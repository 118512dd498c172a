"""Keys and values of prompts already computed, found again by their tokens.

What a prefix was computed with (base digest, adapter content digest) is its key, never a name.
The first tokens of a kept sequence serve any prompt that begins with them, so a character's
persona is computed once, and a conversation's next turn only computes what is new.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class PrefixCache:
    """Kept prefixes under a byte budget, least recently used out.

    A prefix is the KV [2, layers, kv_heads, length, head_dim] of a whole sequence, kept under its
    key and tokens.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        # Oldest first. Not an OrderedDict, which hashes every key, token by token, as it is read.
        self._kept: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self.size_bytes = 0

    def match(self, key: str, token_ids: Sequence[int]) -> tuple[Tensor | None, int]:
        """The KV of the sequence that shares most tokens with a prompt's front, and how many."""
        best, length = None, 0
        for place in self._kept:
            if place[0] == key and (shared := shared_length(place[1], token_ids)) > length:
                best, length = place, shared
        if best is None:
            return None, 0
        saved = self._kept[best] = self._kept.pop(best)  # the newest from now on
        return saved, length

    def wants(self, key: str, token_ids: Sequence[int], size_bytes: int) -> bool:
        """Whether keeping this would add anything."""
        _, length = self.match(key, token_ids)
        return 0 < size_bytes <= self._budget_bytes and length < len(token_ids)

    def keep(self, key: str, token_ids: Sequence[int], saved: Tensor) -> None:
        """Keep a computed sequence; those that only begin it are let go."""
        tokens = tuple(token_ids)
        for place in [p for p in self._kept if p[0] == key and p[1] == tokens[: len(p[1])]]:
            self._drop(place)
        self._kept[key, tokens] = saved
        self.size_bytes += saved.nbytes
        while self.size_bytes > self._budget_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, place: tuple[str, tuple[int, ...]]) -> None:
        self.size_bytes -= self._kept.pop(place).nbytes


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading tokens two sequences share."""
    both = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in both if a != b), min(len(first), len(second)))
