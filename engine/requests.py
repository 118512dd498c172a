"""What goes into an engine and what comes out of it: plain data, no torch.

A request is a prompt (raw text, or chat messages made of labelled segments) with sampling
settings; the answer is one `Started`, any number of `Delta`, and exactly one `Finished`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from engine.errors import RequestError

Role = Literal["system", "user", "assistant"]
# "busy": nothing was started, for want of room; it may be sent again in a moment.
FinishReason = Literal["stop", "length", "cancelled", "expired", "error", "busy"]
ConstraintKind = Literal["json_schema", "regex", "choice", "lark"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A piece of a message; `kind` (persona, lore, player ...) only labels it for inspection."""

    kind: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One chat message: its segments' texts are joined without a separator.

    Segment text is tokenised apart from the chat template, so nothing in it can become a
    control token.
    """

    role: Role
    segments: tuple[Segment, ...]

    @property
    def text(self) -> str:
        """The whole content."""
        return "".join(segment.text for segment in self.segments)


@dataclass(frozen=True, kw_only=True, slots=True)
class Constraint:
    """What the output must match.

    Attributes:
        kind: the language of `source`: a JSON Schema (as JSON text), a regular expression,
            a JSON array of strings to choose from, or a Lark grammar (llguidance's dialect).
        source: the schema, pattern, choices or grammar.
    """

    kind: ConstraintKind
    source: str


LogitBias = tuple[tuple[str, float], ...]
"""Texts, and what is added to the logit of the token that each begins with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How the next token is picked.

    Attributes:
        max_tokens: most new tokens, at least 1.
        temperature: 0 is greedy.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: nucleus mass in (0, 1] (Holtzman et al. 2020).
        repetition_penalty: above 1 discourages tokens already present (Keskar et al. 2019).
        no_repeat_ngram_size: from 2 on, no run of so many tokens that the speaker has said in this
            line or in an earlier one of the prompt; 0 is off. See `engine.own_words`.
        logit_bias: what is likelier or less likely; a word in the middle of a line begins with
            its space.
        stop: strings that end the text; they are not part of it.
        seed: any integer; same seed, same words, whatever else is in the batch.
        constraint: what the text must match, or None.
        num_top_logprobs: alternatives reported per token, 0 to 20.
        ignore_eos: keep going past the end-of-text token (benchmarks only).
    """

    max_tokens: int = 128
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    logit_bias: LogitBias = ()
    stop: tuple[str, ...] = ()
    seed: int = 0
    constraint: Constraint | None = None
    num_top_logprobs: int = 0
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        """Refuse settings outside their range, naming the value."""
        checks = [
            (self.max_tokens >= 1, f"max_tokens is {self.max_tokens}; it must be at least 1"),
            (self.temperature >= 0, f"temperature is {self.temperature}; it must be 0 or more"),
            (self.top_k >= 0, f"top_k is {self.top_k}; it must be 0 (off) or more"),
            (0 < self.top_p <= 1, f"top_p is {self.top_p}; it must be above 0 and at most 1"),
            (
                self.repetition_penalty > 0,
                f"repetition_penalty is {self.repetition_penalty}; it must be above 0",
            ),
            (
                self.no_repeat_ngram_size == 0 or self.no_repeat_ngram_size >= 2,
                f"no_repeat_ngram_size is {self.no_repeat_ngram_size}; it must be 0 (off) or at "
                "least 2",
            ),
            (
                0 <= self.num_top_logprobs <= 20,
                f"num_top_logprobs is {self.num_top_logprobs}; it must be from 0 to 20",
            ),
            *(
                (math.isfinite(bias), f"the logit_bias of {text!r} is {bias}; it must be finite")
                for text, bias in self.logit_bias
            ),
            (all(text for text, _ in self.logit_bias), "a text of logit_bias is empty; remove it"),
            (all(self.stop), "a stop string is empty; remove it"),
        ]
        for ok, sentence in checks:
            if not ok:
                raise RequestError(sentence)


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRequest:
    """One line to generate.

    Attributes:
        request_id: unique among the engine's live requests.
        prompt: raw text, or messages run through the base's chat template.
        adapter: a loaded adapter's name (for a shelf of books: the student's), or None.
        priority: larger goes first.
        deadline_ms: relative to submission; past it a waiting request never starts and a
            running one stops, both as `expired`. None waits for ever.
    """

    request_id: str
    prompt: str | tuple[Message, ...]
    adapter: str | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    priority: int = 0
    deadline_ms: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Tokens [start, end) of a prompt came from a segment of this kind ("template" for markup)."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Started:
    """The request left the queue; this is exactly what the model is shown."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    spans: tuple[Span, ...]
    num_cached_tokens: int
    base_digest: str
    adapter_digest: str | None
    queue_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Alternative:
    """A token the model weighed, with its log-probability before sampling settings."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Delta:
    """New whole characters of text, and the tokens that made them."""

    request_id: str
    text: str
    token_ids: tuple[int, ...] = ()
    top_logprobs: tuple[tuple[Alternative, ...], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What a request cost: token counts, and seconds since submission or between tokens."""

    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_completion_tokens: int = 0
    queue_s: float = 0.0
    time_to_first_token_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """The one last event of a request; `error` says what went wrong when reason is "error"."""

    request_id: str
    reason: FinishReason
    usage: Usage
    error: str | None = None


Event = Started | Delta | Finished


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterInfo:
    """An adapter (or a student) an engine knows.

    Attributes:
        digest: SHA-256 of its configuration and tensors, in hexadecimal.
        resident: whether it sits in a slot now, ready to run.
        rank: largest LoRA rank; 0 for a student or a soft prompt.
        num_running: rows using it at this moment.
    """

    name: str
    digest: str
    path: str
    resident: bool
    pinned: bool
    rank: int
    size_bytes: int
    num_running: int = 0
    version: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineStats:
    """Counters since start and gauges of this moment."""

    num_waiting: int
    num_running: int
    num_steps: int
    num_prompt_tokens: int
    num_cached_tokens: int
    num_completion_tokens: int
    kv_slots_used: int
    kv_slots_total: int
    adapter_hits: int
    adapter_misses: int
    adapter_evictions: int
    decode_tokens_per_s: float
    memory_bytes: int
    last_step_age_s: float
