"""Near questions: about a book's own people and things, but nothing that it tells.

They are what a book must learn to decline; other books' questions alone would teach it that a
question with its own names can always be answered.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from random import Random

from books.book import Book
from books.facts import Facts, source_passages
from books.retrieval import content_words
from books.signs import stem, stems

_PATTERNS = Path(__file__).with_name("near.txt")
_NAME = re.compile(r"(?<=[a-z,] )(?:[A-Z]\w{2,} ?)+(?<! )")
_THING = re.compile(r"\bthe ((?:[a-z]+ )?[a-z]{4,})\b(?=[?.,]| (?:is|was|are|were|of|has|have)\b)")


def near_questions(book: Book, facts: Facts, random: Random, most: int) -> list[str]:
    """At most `most` of them, drawn from `near.txt`.

    A pattern is left out for a name if one of its words stands in a fact that also has the name.
    """
    told = _told(book, facts)
    text = " ".join(passage.text for passage in book.passages)
    asked = " ".join(question for fact in facts.facts for question in fact.ask)
    subjects = {
        "somebody": sorted(set(_NAME.findall(text))),
        "something": sorted({f"the {thing}" for thing in _THING.findall(asked)}),
    }
    pairs = [
        (subject, pattern)
        for kind, patterns in _patterns().items()
        for subject in subjects[kind]
        for pattern in patterns
    ]
    random.shuffle(pairs)
    found: list[str] = []
    for subject, pattern in pairs:
        if len(found) == most:
            break
        about = set(stems(subject))
        wanted = {stem(word) for word in content_words(pattern)}
        if not any(about & words and wanted & words for words in told):
            found.append(pattern.format(subject))
    return found


def _told(book: Book, facts: Facts) -> list[set[str]]:
    """The words of each fact: questions, answer and passage."""
    sources = source_passages(book, facts)
    return [
        set(stems(" ".join((*fact.ask, *fact.then, fact.answer, sources[fact.id].text))))
        for fact in facts.facts
    ]


@lru_cache(maxsize=1)
def _patterns() -> dict[str, list[str]]:
    patterns: dict[str, list[str]] = {}
    for line in _PATTERNS.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            patterns[line.strip("[]")] = kind = []
        elif line and not line.startswith("#"):
            kind.append(line)
    return patterns
