"""Constrained decoding through llguidance: which tokens may come next, per row."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from llguidance import LLExecutor, LLMatcher, LLTokenizer
from llguidance.numpy import fill_next_token_bitmask_par
from tokenizers import Tokenizer
from torch import Tensor

from engine.errors import RequestError
from engine.requests import Constraint

_KEPT = 64  # compiled constraints; most lines of a world share one, and compiling takes 2 ms


class ConstraintCompiler:
    """Makes matchers for one tokenizer; their masks are filled beside the forward pass."""

    def __init__(self, tokenizer: Tokenizer, eos_ids: Sequence[int], vocab_size: int) -> None:
        self._described, self._eos_ids = tokenizer.to_str(), list(eos_ids)
        self._vocab_size = max(vocab_size, tokenizer.get_vocab_size())
        self._tokenizer: LLTokenizer | None = None  # takes a second to build: only if needed
        self._executor: LLExecutor | None = None
        self._kept: OrderedDict[Constraint, LLMatcher] = OrderedDict()  # at their beginnings

    def compile(self, constraint: Constraint) -> LLMatcher:
        """A matcher at its beginning.

        Raises:
            RequestError: the schema, pattern, choices or grammar can't be used.
        """
        if self._tokenizer is None:
            self._tokenizer = LLTokenizer(
                self._described, n_vocab=self._vocab_size, eos_token=self._eos_ids
            )
            self._executor = LLExecutor(num_threads=1)
        if constraint not in self._kept:
            self._kept[constraint] = self._compiled(constraint)
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(constraint)
        return self._kept[constraint].deep_copy()

    def _compiled(self, constraint: Constraint) -> LLMatcher:
        try:
            matcher = LLMatcher(self._tokenizer, _grammar(constraint), log_level=0)
        except ValueError as error:
            raise RequestError(
                f"the {constraint.kind} constraint can't be used: {error}"
            ) from error
        if matcher.is_error():
            raise RequestError(
                f"the {constraint.kind} constraint can't be used: {matcher.get_error()}"
            )
        return matcher

    def masks(self, matchers: Sequence[LLMatcher | None]) -> Tensor:
        """Forbidden tokens of each row, none where there is no matcher: bool [len(matchers), V]."""
        bits = np.full((len(matchers), (self._vocab_size + 31) // 32), -1, dtype=np.int32)
        assert self._executor is not None
        rows = [(matcher, row) for row, matcher in enumerate(matchers) if matcher is not None]
        fill_next_token_bitmask_par(self._executor, rows, bits)
        allowed = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")
        return torch.from_numpy(allowed == 0)


def forbid(logits: Tensor, forbidden: Tensor) -> None:
    """Set forbidden tokens of logits [B, V] to minus infinity, in place."""
    # A tokenizer may know more tokens than the base has logits for.
    logits.masked_fill_(forbidden[:, : logits.shape[1]].to(logits.device), float("-inf"))


def _grammar(constraint: Constraint) -> str:
    match constraint.kind:
        case "json_schema":
            return str(LLMatcher.grammar_from_json_schema(constraint.source))
        case "regex":
            return str(LLMatcher.grammar_from_regex(constraint.source))
        case "lark":
            return str(LLMatcher.grammar_from_lark(constraint.source))
        case "choice":
            choices = json.loads(constraint.source)
            if not choices or not all(isinstance(choice, str) for choice in choices):
                raise ValueError("choices must be a JSON array of strings, at least one")
            quoted = " | ".join(json.dumps(choice) for choice in choices)
            return str(LLMatcher.grammar_from_lark(f"start: {quoted}"))
