"""Scores of replies to held-out questions: plain functions, no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from books.facts import Question, fold
from books.prompt import parse_reply


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """All in 0 to 1.

    Attributes:
        exact: answerable questions answered with the reference's very words.
        f1: word overlap with the reference, averaged over answerable questions (0 for abstaining).
        key: answerable questions whose reply holds the fact's key words.
        abstain_precision: of the abstentions, those in place.
        abstain_recall: of the questions outside the book, those declined.
        abstain_f1: their harmonic mean.
    """

    exact: float
    f1: float
    key: float
    abstain_precision: float
    abstain_recall: float
    abstain_f1: float


def score(questions: Sequence[Question], replies: Sequence[str]) -> Scores:
    """Judge one reply per question, marks `[answer]` and `[unknown]` included."""
    exact: list[bool] = []
    overlaps: list[float] = []
    keys: list[bool] = []
    declined = right = outside = 0
    for question, reply in zip(questions, replies, strict=True):
        known, words = parse_reply(reply)
        declined += not known
        if question.fact is None:
            outside += 1
            right += not known
            continue
        said = words if known else ""
        exact.append(fold(said) == fold(question.fact.answer))
        overlaps.append(word_f1(said, question.fact.answer))
        keys.append(fold(question.fact.key) in fold(said))
    precision = right / declined if declined else 0.0
    recall = right / outside if outside else 0.0
    both = precision + recall
    return Scores(
        exact=_mean(exact),
        f1=_mean(overlaps),
        key=_mean(keys),
        abstain_precision=precision,
        abstain_recall=recall,
        abstain_f1=2 * precision * recall / both if both else 0.0,
    )


def word_f1(said: str, reference: str) -> float:
    """Harmonic mean of word precision and recall, words counted (as in SQuAD's script)."""
    mine, theirs = fold(said).split(), fold(reference).split()
    common = sum((Counter(mine) & Counter(theirs)).values())
    return 2 * common / (len(mine) + len(theirs)) if common else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
