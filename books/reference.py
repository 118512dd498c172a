"""What a book is asked with: passages of its text, notes of its writer, words it doesn't know.

The facts a question may be about are found and ordered by `books.signs`; each fact shown is a
note, the annotated question nearest to the reader's with its answer. A fact much less likely than
the first is not shown. Passages come from BM25 over the text where no fact brings its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from books.book import Book, Passage, read_book
from books.errors import FactsError
from books.facts import Fact, Facts, facts_path, fold, own_facts, read_facts, source_passages
from books.prompt import Evidence, Note
from books.retrieval import PassageIndex
from books.scores import word_f1
from books.signs import SignIndex, read_weights

NUM_NOTES = 3  # with three, nine in ten held-out questions are shown their fact
_LEAST_LIKELY = 0.2  # of the first fact's probability; a fact below it is no note
_HOPELESS = 0.6  # doubt from which no model is asked; chosen on questions kept out of training
_CERTAIN = 10.0  # score of a fact whose annotated question is the reader's own
_SAME = 0.6  # word overlap from which an answer tells a fact


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a question may rest on.

    Attributes:
        facts: nearest first.
        sources: of each of these facts, the passage that tells it.
        passages: of the text, best first; empty where nothing shares a word with the question.
        evidence: what of it the model is shown.
    """

    facts: tuple[Fact, ...]
    sources: tuple[Passage, ...]
    passages: tuple[Passage, ...]
    evidence: Evidence

    @property
    def hopeless(self) -> bool:
        """Whether the book declines without asking its model."""
        return not self.passages or (self.evidence.doubt or 0.0) > _HOPELESS

    def rests_on(self, words: str) -> tuple[Passage, ...]:
        """The passages that an answer in these words rests on.

        Where it says what a fact that was shown says, that is this fact's own; else all shown.
        """
        likeness = [word_f1(words, fact.answer) for fact in self.facts]
        best = max(likeness, default=0.0)
        if best < _SAME:
            return self.passages
        return (self.sources[likeness.index(best)],)


class Reference:
    """A book's text and annotations, searchable; in memory."""

    def __init__(self, book: Book, facts: Facts) -> None:
        self._sources = source_passages(book, facts)
        self._texts = PassageIndex(book.passages)
        texts = {name: passage.text for name, passage in self._sources.items()}
        self._signs = SignIndex(facts.facts, texts)

    def find(self, question: str, before: str = "", *, without: str = "") -> Found:
        """Facts, a passage and a doubt for a question.

        Args:
            question: as the reader put it.
            before: the question that this one refers to, whose fact is likely found, too; so all
                `NUM_NOTES` are shown.
            without: an annotated question to do as if it weren't there, so that a training row
                doesn't find itself.
        """
        weights = read_weights()
        folded, hidden = fold(question), fold(without)
        scored = [
            (_CERTAIN if candidate.is_asked(folded) else candidate.score(weights), candidate)
            for candidate in self._signs.candidates(f"{before} {question}", hidden)
        ]
        scored.sort(key=lambda pair: -pair[0])
        doubt = 1 / (1 + sum(math.exp(score) for score, _ in scored))
        near = [
            candidate
            for score, candidate in scored[:NUM_NOTES]
            if before or score >= scored[0][0] + math.log(_LEAST_LIKELY)
        ]
        facts = tuple(candidate.fact for candidate in near)
        sources = tuple(self._sources[fact.id] for fact in facts)
        # Beside notes one passage is enough: the one that the nearest fact rests on.
        passages = sources[:1] or tuple(hit.passage for hit in self._texts.search(question))
        evidence = Evidence(
            passages=tuple(passage.text for passage in passages),
            notes=tuple(
                Note(question=candidate.nearest or "", answer=candidate.fact.answer)
                for candidate in near
            ),
            doubt=doubt if scored else None,
        )
        return Found(facts=facts, sources=sources, passages=passages, evidence=evidence)


def open_book(path: Path) -> tuple[Book, Reference]:
    """A book and what it is asked with, as it is served; all games share it, since it only reads.

    Raises:
        BookTextError: the text is broken.
        FactsError: the annotations are.
    """
    return _opened(path, _written(path), _written(facts_path(path)))


def _written(file: Path) -> tuple[int, int] | None:
    """When a file was written last, and its size."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=64)
def _opened(
    path: Path, text: tuple[int, int] | None, annotations: tuple[int, int] | None
) -> tuple[Book, Reference]:
    """The times only tell whether the files are still what was read."""
    book = read_book(path)
    return book, Reference(book, _facts_of(path, book))


def _facts_of(path: Path, book: Book) -> Facts:
    if facts_path(path).exists():
        return read_facts(path, book)
    try:
        return own_facts(book)
    except FactsError:
        return Facts(facts=())  # too short to be asked, not too short to be read
