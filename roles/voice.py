"""What becomes of a model's words on their way to the player: clean, whole, never an echo.

Three small filters, each taking pieces and giving pieces back: `Voice` cleans them for the
game's font and cuts them for speech synthesis, `Echo` holds back what was said word for word
before until it differs, `Loop` ends a line that has begun to go round in circles.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from roles.schema import TextTable

_TYPOGRAPHY = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2013": "-",
        "\u2014": "-",
        "\u2026": "...",
        "\u00a0": " ",
        "\u2009": " ",
        "\u202f": " ",
    }
)
_LAST_CODE = {"any": 0x10FFFF, "latin": 0x17F, "ascii": 0x7F}
LOOPED = "the model began to say one phrase over and over"
_WORD = re.compile(r"\w+")
_PART = re.compile(r"\w+|\W+")
_LONGEST_PHRASE = 24  # words; a longer loop is caught by the reply's own limit
# How many times a phrase of so many words may come in a row; a longer one, once.
_TIMES = {1: 5, 2: 3, 3: 2, 4: 2}
# The end of a word that says some letters over and over: "ineineine"; once more is held back,
# four times more is a loop (of one letter: seven times more, as in a scream).
_AGAIN = re.compile(r"(\w{2,6}?)\1+$|(\w)\2{2,}$")
_ROUNDS, _ROUNDS_OF_ONE = 5, 8
_SENTENCE = re.compile(r".+?[.!?\u2026]+[\"'\u2019\u201d)]*(?=\s)\s*", re.DOTALL)


@dataclass(slots=True)
class Voice:
    """Cleans one line as it streams.

    Args:
        name: the speaker's name; a label like "Ottavia:" before the words is taken away.
    """

    table: TextTable
    name: str = ""
    _held: str = ""
    _began: bool = False

    def feed(self, piece: str) -> str:
        """Take a piece; returns what may be shown now."""
        self._held += piece
        if not self._began and not self._drop_label():
            return ""
        if self.table.pieces == "sentences":
            return self._whole_sentences()
        shown, self._held = self._held, ""
        return clean(shown, self.table.font)

    def finish(self) -> str:
        """The line is over; returns the rest."""
        self._drop_label()
        shown, self._held = self._held, ""
        return clean(shown, self.table.font)

    def _drop_label(self) -> bool:
        """Take a label away; False while it can't be told yet whether there is one."""
        label = f"{self.name}:"
        if self.name and len(self._held) <= len(label) and label.startswith(self._held):
            return False
        if self.name and self._held.startswith(label):
            self._held = self._held[len(label) :].lstrip()
        self._began = True
        return True

    def _whole_sentences(self) -> str:
        shown = ""
        while match := _SENTENCE.match(self._held):
            shown += match[0]
            self._held = self._held[match.end() :]
        return clean(shown, self.table.font)


@dataclass(slots=True)
class Echo:
    """Holds a line back while it is the beginning of one said before.

    A line that ends that way is a repetition, and nothing of it has been shown.
    """

    said: Collection[str]
    _text: str = ""
    _held: str = field(default="")

    def feed(self, piece: str) -> str:
        """Take a piece; returns what may be shown now."""
        self._text += piece
        self._held += piece
        if any(line.startswith(self._text) for line in self.said):
            return ""
        shown, self._held = self._held, ""
        return shown

    def finish(self) -> str:
        """The line is over; returns the rest of it, or "" for a repetition."""
        shown, self._held = self._held, ""
        return "" if self.repeats else shown

    @property
    def repeats(self) -> bool:
        """Whether the whole line was said before."""
        return self._text in self.said


@dataclass(slots=True)
class Loop:
    """Finds a line that says one phrase over and over, as small models do, and ends it.

    Words that repeat those before them are held back until something new comes, and so are
    letters within a word. When they have become a loop, nothing of it has been shown but its
    first round.

    Attributes:
        found: the line goes round in circles; there is no use in feeding more of it.
    """

    found: bool = False
    _text: str = ""
    _num_shown: int = 0
    _words: list[str] = field(default_factory=list)
    _ends: list[int] = field(default_factory=list)
    _last_start: int = 0
    _growing: bool = False  # the text ends within a word, which may become another one yet

    def feed(self, piece: str) -> str:
        """Take a piece; returns what may be shown now."""
        shown = ""
        for part in _PART.findall(piece):
            if not self.found:
                self._append(part)
                shown += self._show(self._new_until())
        return shown

    def _append(self, part: str) -> None:
        """Add a word, a word's next letters, or what stands between words."""
        start, growing = len(self._text), self._growing
        self._text += part
        self._growing = _WORD.match(part) is not None
        if not self._growing:
            return
        if growing:
            self._words.pop()
            self._ends.pop()
        else:
            self._last_start = start
        self._words.append(self._text[self._last_start :].lower())
        self._ends.append(len(self._text))

    def finish(self) -> str:
        """The line is over; returns the rest, without a loop's rounds."""
        return "" if self.found else self._show(len(self._text))

    def _show(self, end: int) -> str:
        shown = self._text[self._num_shown : end]
        self._num_shown = max(self._num_shown, end)
        return shown

    def _new_until(self) -> int:
        """Where the words begin that repeat those before them; notes a loop."""
        words, longest = self._words, 0
        for period in range(1, min(_LONGEST_PHRASE, len(words) - 1) + 1):
            repeated = _repeated(words, period)
            whole = repeated - self._growing
            self.found |= whole >= period * _TIMES.get(period, 1)
            longest = max(longest, repeated)
        until = self._ends[-longest - 1] if longest else len(self._text.rstrip())
        return min(until, self._letters_until()) if self._growing else until

    def _letters_until(self) -> int:
        """Where the letters begin that repeat those before them in a word; notes a loop."""
        again = _AGAIN.search(self._text, self._last_start)
        if not again:
            return len(self._text)
        letters = again[1] or again[2]
        rounds = len(again[0]) // len(letters)
        self.found |= rounds >= (_ROUNDS if len(letters) > 1 else _ROUNDS_OF_ONE)
        return again.start() + len(letters)


def _repeated(words: Sequence[str], period: int) -> int:
    """How many words at the end are those of `period` words before; the last may be unfinished."""
    if not words[-1 - period].startswith(words[-1]):
        return 0
    count = 1
    while count + period < len(words) and words[-1 - count] == words[-1 - count - period]:
        count += 1
    return count


def clean(text: str, font: str) -> str:
    """The text as the game's font can show it.

    What the font lacks is written with its nearest letters, or left out.
    """
    if font == "any":
        return text
    last = _LAST_CODE[font]
    text = text.translate(_TYPOGRAPHY)
    return "".join(c if ord(c) <= last else _nearest(c, last) for c in text)


def _nearest(character: str, last: int) -> str:
    parts = unicodedata.normalize("NFKD", character)
    return "".join(c for c in parts if ord(c) <= last)
