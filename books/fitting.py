"""Fitting the weights of `books.signs` on a world's annotations; held-out questions have no part.

A multinomial logistic regression: for an annotated question, left out of its index, the right
choice is its fact; for one of `unknown` and for invented near questions it is "none".
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from books.book import Book
from books.facts import Facts, fold, questions_to_train, source_passages
from books.near import near_questions
from books.signs import NAMES, Candidate, SignIndex, Weights
from books.telling import WordOdds

_NUM_NEAR = 150  # invented questions of a book
_UNKNOWN, _NEAR = 1.5, 0.5  # weight of a question that can't be answered; of an invented one
_DECAY = 1e-2


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A question with its candidates; `fact` is the right one's id, None if there is none."""

    fact: str | None
    candidates: list[Candidate]
    weight: float


def cases_of(book: Book, facts: Facts) -> list[Case]:
    """A book's annotated questions, and ones that it can't answer."""
    texts = {name: passage.text for name, passage in source_passages(book, facts).items()}
    index = SignIndex(facts.facts, texts)
    trained, unknown = questions_to_train(facts)
    cases = []
    for fact in facts.facts:
        for text in trained[fact.id]:
            found = index.candidates(text, hidden=fold(text))
            if any(candidate.fact.id == fact.id for candidate in found):
                cases.append(Case(fact=fact.id, candidates=found, weight=1.0))
    near = near_questions(book, facts, Random(book.name), _NUM_NEAR)
    for texts_, weight in ((unknown, _UNKNOWN), (near, _NEAR)):
        for text in texts_:
            if found := index.candidates(text):
                cases.append(Case(fact=None, candidates=found, weight=weight))
    return cases


def fit(cases: Sequence[Case]) -> Weights:
    """The likeliest weights."""
    words = _word_odds(cases)
    most = max(len(case.candidates) for case in cases)
    signs = torch.zeros(len(cases), most, len(NAMES))
    absent = torch.full((len(cases), most), -math.inf)
    right = torch.full((len(cases),), most)
    for row, case in enumerate(cases):
        for place, candidate in enumerate(case.candidates):
            values = (*candidate.signs, words.telling(candidate.missing))
            signs[row, place], absent[row, place] = torch.tensor(values), 0.0
            if candidate.fact.id == case.fact:
                right[row] = place
    weight = torch.tensor([case.weight for case in cases])
    found = _descend(signs, absent, right, weight)
    rounded = [round(value, 3) for value in found.tolist()]
    return Weights(signs=tuple(rounded[:-1]), bias=rounded[-1], words=words)


def _descend(signs: Tensor, absent: Tensor, right: Tensor, weight: Tensor) -> Tensor:
    """Weights and bias [S + 1] from signs [N, K, S], absent [N, K], right [N], weight [N]."""
    found = torch.zeros(signs.shape[2] + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([found], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        scores = signs @ found[:-1] + found[-1] + absent
        scores = torch.cat((scores, torch.zeros(len(scores), 1)), 1)
        each = torch.nn.functional.cross_entropy(scores, right, reduction="none")
        total = (each * weight).sum() / weight.sum() + _DECAY * found[:-1].square().mean()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return found.detach()


def _word_odds(cases: Sequence[Case]) -> WordOdds:
    """What the words tell that each question's first candidate lacks."""
    inside: Counter[str] = Counter()
    outside: Counter[str] = Counter()
    for case in cases:
        (outside if case.fact is None else inside).update(set(case.candidates[0].missing))
    words = sorted(inside | outside)
    return WordOdds(seen={word: (inside[word], outside[word]) for word in words})


def write_weights(weights: Weights, path: Path) -> None:
    """Write what `read_weights` reads."""
    signs = dict(zip(NAMES, weights.signs, strict=True))
    head = json.dumps({"signs": signs, "bias": weights.bias}, indent=1).removesuffix("\n}")
    # A line a word, with its two counts.
    words = [f"{json.dumps(word)}: {list(pair)}" for word, pair in weights.words.seen.items()]
    text = head + ',\n "words": {\n  ' + ",\n  ".join(words) + "\n }\n}\n"
    path.write_text(text, encoding="utf-8")
