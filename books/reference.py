"""What a book is asked with: passages of its text, notes of its writer, words it doesn't know.

BM25 (Robertson and Zaragoza 2009) over a book's annotations finds the facts a question may be
about; each fact shown is a note, the annotated question nearest to the reader's with its answer.
A fact adds up what its questions score, so one that matches in several wordings comes first.
"""

from __future__ import annotations

import sqlite3
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from books.book import Book, Passage, read_book
from books.errors import FactsError
from books.facts import Fact, Facts, facts_path, fold, own_facts, read_facts, source_passages
from books.prompt import Evidence, Note
from books.retrieval import PassageIndex, content_words
from books.scores import word_f1

NUM_NOTES = 3  # with three, nine in ten held-out questions are shown their fact
_WEIGHTS = "1.0, 0.5, 0.3"  # question, answer, passage: best on questions left out of the index
_MOSTLY = 0.5  # of a question's words must be unknown to be worth telling
_SAME = 0.6  # word overlap from which an answer tells a fact
_SHARES = (1.0, 0.5, 0.25, 0.125)  # of a fact's questions, nearest first, in its score


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
        sources = source_passages(book, facts)
        self._texts = PassageIndex(book.passages)
        self._facts, self._sources = facts.by_id(), sources
        self._asked = [
            (text, fact, fold(text)) for fact in facts.facts for text in (*fact.ask, *fact.then)
        ]
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        weakref.finalize(self, self._database.close)
        self._database.execute(
            "CREATE VIRTUAL TABLE notes USING "
            "fts5(asked, answer, text, tokenize='porter unicode61')"
        )
        self._database.executemany(
            "INSERT INTO notes(asked, answer, text) VALUES (?, ?, ?)",
            [(text, fact.answer, sources[fact.id].text) for text, fact, _ in self._asked],
        )

    def find(self, question: str, without: str = "") -> Found:
        """Facts, passages and unknown words for a question.

        Args:
            question: as the reader put it.
            without: an annotated question to do as if it weren't there, so that a training row
                doesn't find itself.
        """
        words = content_words(question)
        hidden = fold(without)
        nearest = self._nearest(words, hidden)
        facts = tuple(fact for _, fact in nearest)
        hits = [hit.passage for hit in self._texts.search(question)]
        # Beside notes one passage is enough: the one that the nearest fact rests on.
        sources = tuple(self._sources[fact.id] for fact in facts)
        passages = [*sources[:1], *hits]
        shown = list(dict.fromkeys(passages))[: 1 if facts else 2]
        elsewhere, nowhere = self._strangers(words, facts, hidden)
        if len(nowhere) < _MOSTLY * len(words):
            nowhere = ()  # readers word things their own way; few unknown words tell nothing
        evidence = Evidence(
            passages=tuple(passage.text for passage in shown),
            notes=tuple(Note(question=text, answer=fact.answer) for text, fact in nearest),
            elsewhere=elsewhere,
            nowhere=nowhere,
        )
        return Found(facts=facts, sources=sources, passages=tuple(shown), evidence=evidence)

    def _nearest(self, words: Sequence[str], hidden: str) -> list[tuple[str, Fact]]:
        """The best facts, each with its annotated question that scores highest."""
        if not words:
            return []
        rows = self._database.execute(
            f"SELECT rowid, -bm25(notes, {_WEIGHTS}) FROM notes WHERE notes MATCH ?",
            (" OR ".join(f'"{word}"' for word in words),),
        )
        scores: dict[str, list[tuple[float, str]]] = {}
        for row, score in rows:
            text, fact, folded = self._asked[row - 1]
            if folded != hidden:
                scores.setdefault(fact.id, []).append((score, text))
        for of_fact in scores.values():
            of_fact.sort(key=lambda scored: -scored[0])

        def total(name: str) -> float:
            return sum(s * share for (s, _), share in zip(scores[name], _SHARES, strict=False))

        best = sorted(scores, key=total, reverse=True)[:NUM_NOTES]
        return [(scores[name][0][1], self._facts[name]) for name in best]

    def _strangers(
        self, words: Sequence[str], facts: Sequence[Fact], hidden: str
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Words that only other facts know, and words that the whole book doesn't."""
        shown = {fact.id for fact in facts}
        elsewhere, nowhere = [], []
        for word in words:
            known = self._knowing(word, hidden)
            if not known and not self._texts.search(word, 1):
                nowhere.append(word)
            elif not known & shown:
                elsewhere.append(word)
        return tuple(elsewhere), tuple(nowhere)

    def _knowing(self, word: str, hidden: str) -> set[str]:
        """Ids of the facts in whose questions, answer or passage a word stands."""
        rows = self._database.execute("SELECT rowid FROM notes WHERE notes MATCH ?", (f'"{word}"',))
        found = (self._asked[row - 1] for (row,) in rows)
        return {fact.id for _, fact, folded in found if folded != hidden}


def open_book(path: Path) -> tuple[Book, Reference]:
    """A book and what it is asked with, as it is served; all games share it, since it only reads.

    Raises:
        BookTextError: the text is broken.
        FactsError: the annotations are.
    """
    files = (path, facts_path(path))
    return _opened(path, *(file.read_bytes() if file.is_file() else b"" for file in files))


@lru_cache(maxsize=64)
def _opened(path: Path, text: bytes, annotations: bytes) -> tuple[Book, Reference]:
    """The bytes only tell whether the files are still what was read."""
    book = read_book(path)
    return book, Reference(book, _facts_of(path, book))


def _facts_of(path: Path, book: Book) -> Facts:
    if facts_path(path).exists():
        return read_facts(path, book)
    try:
        return own_facts(book)
    except FactsError:
        return Facts(facts=())  # too short to be asked, not too short to be read
