"""Keys and values of prompts already computed, found again by their tokens.

What a prefix was computed with (base digest, adapter content digest) is its key, never a name.
The first tokens of a kept sequence serve any prompt that begins with them, so a character's
persona is computed once, and a conversation's next turn only computes what is new.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Prefix:
    """A computed sequence: its tokens, and their KV [2, layers, kv_heads, length, head_dim]."""

    key: str
    token_ids: tuple[int, ...]
    saved: Tensor


class PrefixCache:
    """Kept prefixes under a byte budget, least recently used out."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._kept: dict[str, OrderedDict[tuple[int, ...], Prefix]] = {}
        self._order: OrderedDict[tuple[str, tuple[int, ...]], None] = OrderedDict()
        self.size_bytes = 0

    def match(self, key: str, token_ids: Sequence[int]) -> tuple[Prefix | None, int]:
        """The kept sequence that shares most tokens with the front of a prompt, and how many."""
        best, length = None, 0
        for prefix in self._kept.get(key, {}).values():
            shared = shared_length(prefix.token_ids, token_ids)
            if shared > length:
                best, length = prefix, shared
        if best is not None:
            self._order.move_to_end((key, best.token_ids))
        return best, length

    def wants(self, key: str, token_ids: Sequence[int], size_bytes: int) -> bool:
        """Whether keeping this would add anything."""
        _, length = self.match(key, token_ids)
        return 0 < size_bytes <= self._budget_bytes and length < len(token_ids)

    def keep(self, key: str, token_ids: Sequence[int], saved: Tensor) -> None:
        """Keep a computed sequence; those that only begin it are let go."""
        tokens = tuple(token_ids)
        for other in [t for t in self._kept.get(key, {}) if t == tokens[: len(t)]]:
            self._drop(key, other)
        self._kept.setdefault(key, OrderedDict())[tokens] = Prefix(key, tokens, saved)
        self._order[key, tokens] = None
        self.size_bytes += saved.nbytes
        while self.size_bytes > self._budget_bytes:
            self._drop(*next(iter(self._order)))

    def _drop(self, key: str, tokens: tuple[int, ...]) -> None:
        self.size_bytes -= self._kept[key].pop(tokens).saved.nbytes
        del self._order[key, tokens]
        if not self._kept[key]:
            del self._kept[key]


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many leading tokens two sequences share."""
    both = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in both if a != b), min(len(first), len(second)))
