"""What becomes of a model's words on their way to the player: clean, whole, never an echo.

Three small filters, each taking pieces and giving pieces back: `Voice` cleans them for the
game's font and cuts them for speech synthesis, `Echo` holds back what was said word for word
before until it differs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection
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
