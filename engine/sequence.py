"""One request on its way through the engine: its tokens, its state, what it holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from llguidance import LLMatcher
from torch import Tensor

from engine.own_words import OwnWords
from engine.requests import Finished, FinishReason, GenerationRequest, Span, Started, Usage
from engine.store import Version
from engine.text import TextStream


@dataclass(eq=False, slots=True, kw_only=True)
class Sequence:
    """A live request.

    Attributes:
        token_ids: prompt and reply so far; `num_computed` of them have their KV in `row`. The
            first `num_virtual` stand for a soft prompt, which is always computed already.
        key: what the KV depends on besides the tokens: base and adapter digest.
        row, slot: the KV row and adapter slot it holds while running.
        biases: token ids [N], and what is added to their logits, fp32 [N].
        own_words: what it won't say again, if its request wants that.
        arrived, deadline, started, first_token: seconds on the engine's clock.
    """

    request: GenerationRequest
    token_ids: list[int]
    num_prompt: int
    spans: tuple[Span, ...]
    num_virtual: int
    key: str
    version: Version | None
    stream: TextStream
    matcher: LLMatcher | None
    arrived: float
    deadline: float | None
    row: int | None = None
    slot: int = 0
    num_computed: int = 0
    num_cached: int = 0
    started: float | None = None
    first_token: float | None = None
    cancelled: bool = False
    biases: tuple[Tensor, Tensor] | None = None
    own_words: OwnWords | None = None
    delta_ids: list[int] = field(default_factory=list)

    @property
    def num_generated(self) -> int:
        """Tokens of the reply so far."""
        return len(self.token_ids) - self.num_prompt

    @property
    def num_pending(self) -> int:
        """Tokens whose KV is still to be computed."""
        return len(self.token_ids) - self.num_computed

    def begun(self, base_digest: str) -> Started:
        """Its first event."""
        assert self.started is not None
        return Started(
            request_id=self.request.request_id,
            prompt_token_ids=tuple(self.token_ids[self.num_virtual : self.num_prompt]),
            spans=self.spans,
            num_cached_tokens=self.num_cached,
            base_digest=base_digest,
            adapter_digest=self.version.about.digest if self.version else None,
            queue_s=self.started - self.arrived,
        )

    def usage(self, now: float) -> Usage:
        """What it has cost until now."""
        started = self.started if self.started is not None else now
        first = self.first_token if self.first_token is not None else now
        return Usage(
            num_prompt_tokens=self.num_prompt - self.num_virtual,
            num_cached_tokens=self.num_cached,
            num_completion_tokens=self.num_generated,
            queue_s=started - self.arrived,
            time_to_first_token_s=first - self.arrived,
            decode_s=now - first,
        )

    def finished(self, reason: FinishReason, now: float, error: str | None = None) -> Finished:
        """Its last event."""
        return Finished(
            request_id=self.request.request_id, reason=reason, usage=self.usage(now), error=error
        )
