"""A closed vocabulary: the words a small base was taught, besides those that its prompt shows.

A base of a few million parameters writes rare words piece by piece, and now and then joins pieces
that make no word at all ("zoolog", "Koencil"). Where a world lists the words its base was taught,
a reply is held to them and to the words it was shown: once a name is begun, it can only be ended
as it stands in the notes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from roles.errors import Problem, WorldError

_APOSTROPHES = "'\u2019"
WORD = re.compile(rf"[^\W\d_]+(?:[{_APOSTROPHES}][^\W\d_]+)*")
# What may stand between two words; it holds no bracket, slash or markup.
_BETWEEN = rf"[ ,.!?:;\"{_APOSTROPHES}\u201c\u201d()…\u2013\u2014-]{{1,4}}"
_BEFORE = r"[\"'\u201c(]?"  # the first of them
_NUMBER = r"[0-9]+([.:,][0-9]+)*"
_LEAST_ROWS = 10  # a word of fewer replies is not one that the base was taught

_Trie = dict[str, "_Trie"]


class Lexicon:
    """Known words; one in lower case may also begin with a capital."""

    def __init__(self, words: Iterable[str]) -> None:
        self.words = frozenset(words)

    @classmethod
    def load(cls, path: Path) -> Lexicon:
        """The words of a text file, one per line.

        Raises:
            WorldError: the file can't be read or holds no word.
        """
        try:
            words = path.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise WorldError([_problem(path, f"can't be read: {error}")]) from None
        if not words:
            raise WorldError([_problem(path, "holds no word")])
        return cls(words)

    def knows(self, word: str) -> bool:
        """Whether a word may be said without having been shown."""
        return word in self.words or word[0].lower() + word[1:] in self.words

    def pattern(self, shown: Iterable[str]) -> str:
        """A regular expression of what may be said to somebody who was shown these texts."""
        found = {word for text in shown for word in WORD.findall(text)}
        return _pattern(self.words, frozenset(word for word in found if not self.knows(word)))


def taught(replies: Iterable[str], own: Iterable[str]) -> list[str]:
    """The words that replies teach, in order: those of many replies.

    Args:
        replies: what a base or its characters were trained to say.
        own: the world's own texts. A word that is only ever written with a capital is a name or
            a cry; it must stand in one of these, since other names are for prompts to show.
    """
    rows = Counter(word for reply in replies for word in set(WORD.findall(reply)))
    common = {word for word, count in rows.items() if count >= _LEAST_ROWS}
    ours = {word for text in own for word in WORD.findall(text)}
    low = {word for word in common if word == word.lower()}
    return sorted(low | {word for word in common & ours if word.lower() not in low})


@lru_cache(maxsize=64)
def _pattern(known: frozenset[str], shown: frozenset[str]) -> str:
    word = _alternatives(_trie(sorted(known | shown)), first=True)
    return rf"{_BEFORE}(({word}|{_NUMBER})([{_APOSTROPHES}]s)?{_BETWEEN})+"


def _trie(words: Iterable[str]) -> _Trie:
    """Letters to what may follow them; the key "" ends a word."""
    root: _Trie = {}
    for word in words:
        node = root
        for letter in word:
            node = node.setdefault(letter, {})
        node[""] = {}
    return root


def _alternatives(node: _Trie, *, first: bool = False) -> str:
    """A trie as an expression: ten times shorter, and sooner compiled, than a list of words."""
    branches = [
        (f"[{letter}{letter.upper()}]" if first and _has_capital(letter) else letter)
        + _alternatives(rest)
        for letter, rest in node.items()
        if letter
    ]
    if not branches:
        return ""
    single = len(branches) == 1 and "" not in node
    text = branches[0] if single else f"({'|'.join(branches)})"
    return f"{text}?" if "" in node else text


def _has_capital(letter: str) -> bool:
    return letter.islower() and len(letter.upper()) == 1


def _problem(path: Path, message: str) -> Problem:
    remedy = "list known words, one per line, or remove `words` from the tier"
    return Problem(str(path), "", message, remedy)
