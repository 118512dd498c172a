"""The timing of a line: its phrases, when each came, and when each would be heard."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from protocol.messages import Phrase

# A mark that ends a phrase, with the quotes or brackets that it closes; "2.5" holds none.
_MARK = re.compile(
    r"[,;:.!?\u2026]+[\"'\u2019\u201d)]*(?=\s|$)|[\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f]+"
)
_FULL_STOPS = ".!?\u2026\u3002\uff01\uff1f"
_PAUSE_MS, _FULL_PAUSE_MS = 200.0, 400.0
_WIDE = 3  # letters of an alphabet that take as long as one Chinese character or Japanese kana


def phrases(text: str, pieces: Sequence[tuple[int, float]], letters_per_s: float) -> list[Phrase]:
    """Where each phrase of a line stands, when it came, and when it would be heard.

    Args:
        text: the line.
        pieces: for each piece of it, how long the text then was and when that was, in
            milliseconds.
        letters_per_s: how fast it would be read out.
    """
    found, heard_ms = [], 0.0
    lengths = [length for length, _ in pieces]
    for start, end in _spans(text):
        took_ms = 1000 * _letters(text[start:end]) / letters_per_s
        piece = min(bisect_left(lengths, end), len(pieces) - 1)
        found.append(
            Phrase(
                start=start,
                end=end,
                at_ms=round(pieces[piece][1], 1) if pieces else 0.0,
                begin_ms=round(heard_ms, 1),
                end_ms=round(heard_ms + took_ms, 1),
            )
        )
        last = text[start:end].rstrip("\"'\u2019\u201d)")[-1:]
        heard_ms += took_ms + (_FULL_PAUSE_MS if last in _FULL_STOPS else _PAUSE_MS)
    return found


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Phrases without the white space around them."""
    start = 0
    for end in [*(mark.end() for mark in _MARK.finditer(text)), len(text)]:
        phrase = text[start:end]
        if phrase.strip():
            first = start + len(phrase) - len(phrase.lstrip())
            yield first, start + len(phrase.rstrip())
        start = end


def _letters(phrase: str) -> int:
    return sum(
        _WIDE if unicodedata.east_asian_width(character) in "WF" else 1
        for character in phrase
        if character.isalnum()
    )
