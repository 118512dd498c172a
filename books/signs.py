"""Whether a fact answers a question, judged by thirteen signs, weighed and added.

Ten are in the words that both have, three in what the words mean (`books.meaning`). The weights,
and what single words that a fact lacks tell, were fitted by `books.fitting` on annotated questions
(each left out of its own index) and on questions that the books can't answer. A softmax
over the facts and over "none of them", whose score is 0, gives each a probability:

    p(fact | question) = exp(w . signs) / (1 + sum over facts of exp(w . signs))
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from books.facts import Fact, fold
from books.meaning import Senses
from books.retrieval import content_words
from books.telling import WordOdds

WEIGHTS_PATH = Path(__file__).with_name("signs.json")
NAMES = (
    "asked", "answer", "covered", "kind", "no_number", "foreign", "bare", "attribute",
    "named", "meant", "akin_answer", "akin_passage", "telling",
)  # fmt: skip
_COVERED, _MEANING = NAMES.index("covered"), NAMES.index("meant")
_CANDIDATES = 12
_MEANT = 0.5  # of a question's meaning, what a fact without any of its words must know
# What a question asks for, by the first pattern that it matches.
_KINDS = {
    "number": r"\bhow (many|much|often|old|long|tall|far|deep|high|heavy|big|large|fast|wide)\b"
    r"|what (number|amount)",
    "person": r"\b(who|whom|whose)\b",
    "time": r"\bwhen\b|(what|which) (time|hour|bell|day|month|year|night)",
    "place": r"\bwhere\b|(which|what) (place|room|floor|country|town|shelf|stair)",
    "reason": r"\bwhy\b|what (reason|for)",
    "manner": r"\bhow\b",
    "colour": r"\bcolou?r",
    "name": r"\b(named?|called|title)\b",
    "thing": r"\b(what|which)\b",
}
_NUMBER = re.compile(
    r"\d|\b(one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|\w+teen|twenty|thirty"
    r"|\w+ty|hundred|thousand|half|dozen|once|twice|pair|first|second|third|\w+th|none|no|every)\b"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """What `signs.json` holds.

    Attributes:
        signs: one weight per name in `NAMES`.
        bias: added to each fact's score.
        words: how much oftener a question that can't be answered has a word that the nearest
            fact lacks.
    """

    signs: tuple[float, ...]
    bias: float
    words: WordOdds


@lru_cache(maxsize=1)
def read_weights() -> Weights:
    """The weights that come with this package."""
    stored = json.loads(WEIGHTS_PATH.read_text(encoding="utf-8"))
    signs = tuple(stored["signs"][name] for name in NAMES)
    seen = {word: (inside, outside) for word, (inside, outside) in stored["words"].items()}
    return Weights(signs=signs, bias=stored["bias"], words=WordOdds(seen=seen))


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A fact that shares a word with a question, or much of its meaning.

    Attributes:
        nearest: its annotated question that is most like the asked one; None if all are hidden.
        signs: by `NAMES`, "telling" left out.
        missing: stems of the question, names apart, that the fact lacks.
    """

    fact: Fact
    nearest: str | None
    signs: tuple[float, ...]
    missing: tuple[str, ...]

    def is_asked(self, folded: str) -> bool:
        """Whether its nearest question is this one, word for word."""
        return self.nearest is not None and fold(self.nearest) == folded

    def score(self, weights: Weights) -> float:
        """Log of its odds against "none of the facts"."""
        signs = (*self.signs, weights.words.telling(self.missing))
        return weights.bias + sum(w * s for w, s in zip(weights.signs, signs, strict=True))


class SignIndex:
    """A book's facts as sets of stems, and what these mean."""

    def __init__(self, facts: Sequence[Fact], passages: dict[str, str]) -> None:
        """`passages`: by fact id, the text that tells it."""
        self._facts = [_Stems(fact, passages[fact.id]) for fact in facts]
        self._spread = Counter(word for one in self._facts for word in one.all)
        self._uses = Counter(word for one in self._facts for word in one.uses())
        self._senses = Senses(
            [one.content for one in self._facts],
            [self._rarities(fact.answer) for fact in facts],
            [self._rarities(passages[fact.id]) for fact in facts],
        )
        self._names = _names([*passages.values(), *(text for f in facts for text in f.ask)])

    def candidates(self, question: str, hidden: str = "") -> list[Candidate]:
        """The facts that may answer a question, at most twelve; `hidden`: a folded annotated
        question to do as if it weren't there."""
        asked = _Asked(question, self)
        if not asked.stems:
            return []
        without = {row: one for row, one in enumerate(self._facts) if hidden and one.hidden(hidden)}
        gone = Counter(word for one in without.values() for word in one.hidden(hidden))
        foreign = asked.share([word for word in asked.stems if self._uses[word] <= gone[word]])
        changed = {row: one.content_without(hidden) for row, one in without.items()}
        senses = self._senses.judge(asked.rarity, changed).tolist()
        found = [
            (one, *one.signs(asked, foreign, hidden, sense))
            for one, sense in zip(self._facts, senses, strict=True)
            if sense[0] > _MEANT or not one.all.isdisjoint(asked.stems)
        ]
        touched = [row for row in found if row[1][_COVERED] > 0 or row[1][_MEANING] > _MEANT]
        touched.sort(key=lambda row: _roughly(row[1]), reverse=True)
        return [
            Candidate(
                fact=one.fact, nearest=one.nearest(asked, hidden), signs=signs, missing=missing
            )
            for one, signs, missing in touched[:_CANDIDATES]
        ]

    def _rarities(self, text: str) -> dict[str, float]:
        return {word: self.rarity(word) for word in _content(text)}

    def rarity(self, word: str) -> float:
        """Inverse document frequency over the facts, as in BM25."""
        spread = self._spread.get(word, 0)
        return math.log(1 + (len(self._facts) - spread + 0.5) / (spread + 0.5))

    def is_name(self, word: str) -> bool:
        """Whether the book writes this stem with a capital more often than without."""
        return word in self._names


def _roughly(signs: Sequence[float]) -> float:
    named = dict(zip(NAMES, signs, strict=False))
    words = 4 * named["covered"] + 3 * named["answer"] + named["asked"]
    return words + 2 * (named["meant"] + named["akin_answer"] + named["akin_passage"])


class _Asked:
    """A question, its content stems with what each of them weighs."""

    def __init__(self, question: str, index: SignIndex) -> None:
        self.stems = _content(question)
        self.kind = kind_of(question)
        self.rarity = {word: index.rarity(word) for word in self.stems}
        self.total = sum(self.rarity.values())
        self.rest = [word for word in self.stems if not index.is_name(word)]

    def share(self, words: Sequence[str]) -> float:
        """Of the question's whole weight, that of these words."""
        return sum(self.rarity[word] for word in words) / self.total


class _Stems:
    """One fact's words."""

    def __init__(self, fact: Fact, passage: str) -> None:
        self.fact = fact
        self._answer = set(stems(fact.answer))
        self._told = self._answer | set(stems(passage))
        self._has_number = bool(_NUMBER.search(fact.answer.lower()))
        self._asks = [
            (text, fold(text), set(_content(text)), kind_of(text))
            for text in (*fact.ask, *fact.then)
        ]
        self._asked: set[str] = set().union(*(words for _, _, words, _ in self._asks))
        self.all = self._told | self._asked
        self._told_content = {*_content(fact.answer), *_content(passage)}
        self.content = self.content_without("")

    def uses(self) -> list[str]:
        """Every stem as often as a question, or answer and passage together, has it."""
        return [*self._told, *(word for _, _, words, _ in self._asks for word in words)]

    def hidden(self, question: str) -> list[str]:
        return [word for _, folded, words, _ in self._asks if folded == question for word in words]

    def content_without(self, question: str) -> set[str]:
        """Stems of content words that it knows if this question is hidden."""
        kept = [words for _, folded, words, _ in self._asks if folded != question]
        return self._told_content.union(*kept)

    def nearest(self, asked: _Asked, hidden: str) -> str | None:
        """Its question that is most like the asked one."""
        asks = [ask for ask in self._asks if ask[1] != hidden]
        near = max(asks, key=lambda ask: _overlap(asked, ask[2]), default=None)
        return near[0] if near else None

    def signs(
        self, asked: _Asked, foreign: float, hidden: str, sense: Sequence[float]
    ) -> tuple[tuple[float, ...], tuple[str, ...]]:
        """Its signs, and the question's stems that it lacks; `sense`: see `Senses.judge`."""
        asks, in_questions, known = self._asks, self._asked, self.all
        if hidden:
            asks = [ask for ask in asks if ask[1] != hidden]
            in_questions = set().union(*(words for _, _, words, _ in asks))
            known = in_questions | self._told
        missing = [word for word in asked.rest if word not in known]
        rest = sum(asked.rarity[word] for word in asked.rest)
        lost = sum(asked.rarity[word] for word in missing)
        signs = (
            asked.share([w for w in asked.stems if w in in_questions or w in self._answer]),
            asked.share([w for w in asked.stems if w in self._answer]),
            asked.share([w for w in asked.stems if w in known]),
            float(asked.kind in {kind for *_, kind in asks}),
            float(asked.kind == "number" and not self._has_number),
            foreign,
            float(len(asked.stems) == 1),
            1.0 - lost / rest if rest else 1.0,
            float(len(asked.rest) < len(asked.stems)),
            *sense,
        )
        return signs, tuple(missing)


def _overlap(asked: _Asked, words: set[str]) -> float:
    shared = sum([asked.rarity[word] for word in asked.stems if word in words])
    return shared - 0.01 * len(words)  # of two that share as much, the shorter


def _names(texts: Sequence[str]) -> set[str]:
    text = " ".join(texts)
    capital = Counter(re.findall(r"(?<=[a-z,] )[A-Z]\w+", text))
    small = Counter(re.findall(r"\b[a-z]\w+", text))
    return {stem(w.lower()) for w, count in capital.items() if count > small[w.lower()]}


def kind_of(question: str) -> str:
    """What a question asks for: a number, a person, a place ..."""
    lowered = question.lower()
    return next((kind for kind, shape in _KINDS.items() if re.search(shape, lowered)), "other")


def _content(text: str) -> list[str]:
    """Stems of a text's content words, each once, in order."""
    return list(dict.fromkeys(stem(word) for word in content_words(text)))


def stems(text: str) -> list[str]:
    """Every word of a text as its Porter stem."""
    return [stem(word) for word in re.findall(r"[^\W_]+", text.lower())]


@lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """A word's Porter stem, as SQLite's search has it."""
    with _stemmer() as database:
        database.execute("DELETE FROM words")
        database.execute("INSERT INTO words VALUES (?)", (word,))
        row = database.execute("SELECT term FROM terms").fetchone()
    return row[0] if row else word


@lru_cache(maxsize=1)
def _stemmer() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", check_same_thread=False)
    database.execute("CREATE VIRTUAL TABLE words USING fts5(word, tokenize='porter unicode61')")
    database.execute("CREATE VIRTUAL TABLE terms USING fts5vocab(words, 'row')")
    return database
