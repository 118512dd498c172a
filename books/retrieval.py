"""Finding the passages a question may rest on: BM25 over the book's own text, in SQLite.

BM25 (Robertson and Zaragoza 2009) as SQLite's FTS5 has it, over Porter stems. No model.
"""

from __future__ import annotations

import re
import sqlite3
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

from books.book import Passage

# Words that say how a question is asked, not what it is about.
_STOPWORDS = frozenset(
    """
    a about all am an and any are as at be been book but by can could did do does exactly find
    for from had has have he her him his how i if in into is it its just know many me much my
    of on one or our page pages please said say says she should so some tell than that the
    their them then there these they this to told us want was we were what when where which
    who whom whose why will with would you your
    """.split()  # noqa: SIM905 - a list of a hundred quoted words reads worse
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A passage with its BM25 score; larger is better, 0 is no match."""

    passage: Passage
    score: float


class PassageIndex:
    """A book's passages, searchable; lives in memory, a novel's takes milliseconds to build."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = {passage.number: passage for passage in passages}
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        weakref.finalize(self, self._database.close)
        self._database.execute(
            "CREATE VIRTUAL TABLE passages USING fts5(text, tokenize='porter unicode61')"
        )
        self._database.executemany(
            "INSERT INTO passages(rowid, text) VALUES (?, ?)",
            [(p.number, p.text) for p in passages],
        )

    def search(self, question: str, k: int = 2) -> list[Hit]:
        """The k best passages, best first; fewer where fewer share a word with the question."""
        words = content_words(question)
        if not words:
            return []
        query = " OR ".join(f'"{word}"' for word in words)
        rows = self._database.execute(
            "SELECT rowid, bm25(passages) FROM passages WHERE passages MATCH ? "
            "ORDER BY bm25(passages), rowid LIMIT ?",
            (query, k),
        )
        # FTS5 returns BM25 negated, so that the best sorts first.
        return [Hit(passage=self._passages[number], score=-score) for number, score in rows]


def content_words(text: str) -> list[str]:
    """The words of a question that can match a passage, lower-case, each once, in order."""
    words = re.findall(r"[^\W_]+", text.lower())
    return list(dict.fromkeys(word for word in words if word not in _STOPWORDS))
