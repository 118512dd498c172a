"""How much of a model a line may use: tokens, priority, time. Counts without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from engine.requests import Message
from protocol.messages import Focus

_MARKUP_TOKENS = 8  # of the chat template, per message; the longest of the common ones
_BYTES_PER_TOKEN = 2  # pessimistic, for a base without a tokenizer.json


@dataclass(frozen=True, kw_only=True, slots=True)
class Level:
    """What a level of focus grants: a share of the tier's settings, and a place in the queue."""

    priority: int
    context_share: float
    reply_share: float
    deadline_share: float
    num_facts: int
    num_memories: int


LEVELS: dict[Focus, Level] = {
    "spotlight": Level(
        priority=30,
        context_share=1.0,
        reply_share=1.0,
        deadline_share=1.0,
        num_facts=3,
        num_memories=3,
    ),
    "near": Level(
        priority=20,
        context_share=1.0,
        reply_share=1.0,
        deadline_share=1.0,
        num_facts=2,
        num_memories=2,
    ),
    "far": Level(
        priority=10,
        context_share=0.5,
        reply_share=0.5,
        deadline_share=0.5,
        num_facts=1,
        num_memories=1,
    ),
    "offstage": Level(
        priority=0,
        context_share=0.0,
        reply_share=0.0,
        deadline_share=0.0,
        num_facts=0,
        num_memories=0,
    ),
}
LIFTED: dict[Focus, Focus] = {
    "offstage": "far",
    "far": "near",
    "near": "spotlight",
    "spotlight": "spotlight",
}


class TokenCounter:
    """Counts a model's tokens from its tokenizer.json alone.

    Args:
        base: the model's folder; without a tokenizer.json in it (a hub id, for instance),
            counts are estimated from above.
    """

    def __init__(self, base: str) -> None:
        path = Path(base) / "tokenizer.json"
        self._tokenizer = Tokenizer.from_file(str(path)) if path.is_file() else None
        self._count = lru_cache(maxsize=4096)(self._encode_length)

    def count(self, text: str) -> int:
        """Tokens of a text, without special ones."""
        return self._count(text)

    def count_messages(self, messages: Sequence[Message]) -> int:
        """Tokens of a prompt, at most a few fewer than this."""
        return sum(self.count(message.text) + _MARKUP_TOKENS for message in messages)

    def texts(self, token_ids: Sequence[int]) -> list[str]:
        """Each token's text, for looking at; empty without a tokenizer."""
        if self._tokenizer is None:
            return []
        return [self._tokenizer.decode([i], skip_special_tokens=False) for i in token_ids]

    def _encode_length(self, text: str) -> int:
        if self._tokenizer is None:
            return -(-len(text.encode()) // _BYTES_PER_TOKEN)
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)
