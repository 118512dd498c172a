"""From a step's logits to each line's next token: penalties, constraints, sampling."""

from __future__ import annotations

from collections.abc import Sequence as Several
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

import torch
from llguidance import LLMatcher
from tokenizers import Tokenizer
from torch import Tensor

from engine.constraints import ConstraintCompiler, forbid
from engine.loader import LoadedBase
from engine.own_words import DISCOURAGED, OwnWords, word_parts
from engine.requests import Alternative, Constraint, SamplingParams
from engine.sampler import penalize, sample
from engine.sequence import Sequence

Alternatives = dict[int, tuple[Alternative, ...]]
"""By row of a step: the likeliest tokens, for the lines that want to see them."""


class Picker:
    """What sampling keeps between steps: tokens already seen per row, constraints' masks."""

    def __init__(self, base: LoadedBase, tokenizer: Tokenizer) -> None:
        shape = (base.cache.num_rows, base.architecture.vocab_size)
        self._shape, self._device, self._tokenizer = shape, base.device, tokenizer
        self._constraints = ConstraintCompiler(tokenizer, sorted(base.eos_ids), shape[1])
        self._filler = ThreadPoolExecutor(1, thread_name_prefix="constraint-masks")
        self._filling: Future[Tensor] | None = None
        self._seen: Tensor | None = None  # bool [rows, V], once a line has a repetition penalty

    def compile(self, constraint: Constraint) -> LLMatcher:
        """A constraint at its beginning. Raises: RequestError if it can't be used."""
        return self._constraints.compile(constraint)

    def biases(self, params: SamplingParams) -> tuple[Tensor, Tensor] | None:
        """Token ids [N] of a line's `logit_bias`, and what is added to them, fp32 [N]."""
        if not params.logit_bias:
            return None
        found = {self._first_token(text): bias for text, bias in params.logit_bias}
        added = torch.tensor(list(found.values()), dtype=torch.float32, device=self._device)
        return torch.tensor(list(found), device=self._device), added

    def _first_token(self, text: str) -> int:
        """The token that a text begins with after other words."""
        before = "a" if text[0].isspace() else ""  # at a line's beginning some tokenizers add one
        words = self._tokenizer.encode(before + text, add_special_tokens=False)
        ends = (end for _, end in words.offsets)
        return next(i for i, end in zip(words.ids, ends, strict=True) if end > len(before))

    @cached_property
    def _word_parts(self) -> frozenset[int]:
        return word_parts(self._tokenizer)

    def start(self, sequence: Sequence) -> None:
        """A line got its row."""
        if size := sequence.request.sampling.no_repeat_ngram_size:
            prompt = sequence.token_ids[sequence.num_virtual : sequence.num_prompt]
            sequence.own_words = OwnWords(size, prompt, sequence.spans, self._word_parts)
            for token in sequence.token_ids[sequence.num_prompt :]:
                sequence.own_words.add(token)
        if sequence.request.sampling.repetition_penalty == 1.0:
            return
        if self._seen is None:
            self._seen = torch.zeros(self._shape, dtype=torch.bool, device=self._device)
        self._seen[sequence.row] = False
        self._seen[sequence.row, torch.tensor(sequence.token_ids[sequence.num_virtual :])] = True

    def note(self, sequence: Sequence, token: int) -> None:
        """A line got a token."""
        if sequence.own_words is not None:
            sequence.own_words.add(token)
        if self._seen is not None:
            self._seen[sequence.row, token] = True

    def prepare(self, asking: Several[Sequence]) -> None:
        """Begin to work out the constraints' masks, beside the forward pass."""
        matchers = [s.matcher for s in asking]
        constrained = any(matcher is not None for matcher in matchers)
        fill = self._filler.submit
        self._filling = fill(self._constraints.masks, matchers) if constrained else None

    def pick(self, asking: Several[Sequence], logits: Tensor) -> tuple[list[int], Alternatives]:
        """The next token of each line, and what else was likely: logits fp32 [lines, V]."""
        alternatives = self._alternatives(asking, logits)
        logits = self._penalize(asking, logits)
        for line, sequence in enumerate(asking):
            if sequence.biases is not None:
                tokens, biases = sequence.biases
                logits[line, tokens] += biases
            if sequence.own_words is not None and (again := sequence.own_words.again()):
                logits[line, list(again)] -= DISCOURAGED
        if self._filling is not None:
            forbid(logits, self._filling.result())
        params = [s.request.sampling for s in asking]
        return sample(logits, params, [s.num_generated for s in asking]).tolist(), alternatives

    def _penalize(self, asking: Several[Sequence], logits: Tensor) -> Tensor:
        penalties = [s.request.sampling.repetition_penalty for s in asking]
        if self._seen is None or all(penalty == 1.0 for penalty in penalties):
            return logits
        seen = self._seen[[s.row for s in asking]]
        return penalize(logits, seen, torch.tensor(penalties, device=logits.device))

    def _alternatives(self, asking: Several[Sequence], logits: Tensor) -> Alternatives:
        found = {}
        for row, sequence in enumerate(asking):
            if count := sequence.request.sampling.num_top_logprobs:
                top = torch.log_softmax(logits[row], dim=0).topk(count)
                found[row] = tuple(
                    Alternative(token_id=i, text=self._tokenizer.decode([i]), logprob=v)
                    for v, i in zip(top.values.tolist(), top.indices.tolist(), strict=True)
                )
        return found
