"""What came of one turn, as plain data: what expectations look at and reports show."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What made a line: enough to tell why another run's words differ.

    Attributes:
        adapter: digest of the weights that spoke, "" for none; `base` likewise.
        sampler: how words were picked, the seed included.
        segments: (kind, text) of the prompt, template markup left out.
        routing: why this tier, adapter, budget.
    """

    adapter: str = ""
    base: str = ""
    sampler: dict[str, Any] = field(default_factory=dict)
    segments: tuple[tuple[str, str], ...] = ()
    routing: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """The prompt's text, one segment after the other."""
        return "\n".join(text.strip("\n") for _, text in self.segments)

    @property
    def prompt_digest(self) -> str:
        """SHA-256 of kinds and texts, in hexadecimal."""
        joined = "\x00".join(part for segment in self.segments for part in segment)
        return hashlib.sha256(joined.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Spoken:
    """One line that was spoken.

    Attributes:
        raw: the model's words before they were read as a reply.
        logprobs: natural log-probability per token of the reply, where asked for.
        pages: of the passages that a book's answer rests on.
    """

    agent: str
    text: str
    raw: str = ""
    emotion: str = ""
    actions: tuple[tuple[str, dict[str, Any]], ...] = ()
    reason: str = "stop"
    seed: int = 0
    fallback: bool = False
    cause: str = ""
    abstained: bool = False
    pages: tuple[int, ...] = ()
    directive: dict[str, Any] | None = None
    adapter_name: str = ""
    ttft_ms: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    logprobs: tuple[float, ...] = ()
    origin: Origin = Origin()


@dataclass(frozen=True, kw_only=True, slots=True)
class Observation:
    """What came of one turn: lines, a page, a count, or a refusal.

    Attributes:
        said: what was said to the agents.
        refused: (error code, message), if the request was refused.
        offered: names of the actions that were possible.
    """

    kind: str
    said: str = ""
    lines: tuple[Spoken, ...] = ()
    page: int | None = None
    page_text: str = ""
    waiting: int | None = None
    refused: tuple[str, str] | None = None
    offered: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Everything the player gets to read."""
        return "\n".join(line.text for line in self.lines) or self.page_text

    @property
    def first(self) -> Spoken | None:
        """The first line, if any was spoken."""
        return self.lines[0] if self.lines else None
