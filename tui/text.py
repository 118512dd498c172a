"""The one way for text from outside to reach the terminal.

Everything a server, a model or a player wrote goes through `clean` (plain text) or `words`
(styled content) before any widget sees it, and never through markup. Characters that would
steer a terminal or hide from the reader are made visible instead of being dropped: someone
looking for the cause of a bug wants to see that an escape sequence was there.
"""

from __future__ import annotations

import re
import unicodedata

from textual.content import Content

# Joiners that spell emoji and Persian or Indic words; without them honest text breaks apart.
_JOINERS = "\u200c\u200d"
# Unassigned and private characters have no width that terminals agree on.
_UNPRINTABLE = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
# Stacked accents paint over neighbouring rows; three per letter are more than any language needs.
_STACKED = re.compile(
    "([\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u20d0-\u20ff]{3})"
    "[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u20d0-\u20ff]+"
)


def clean(text: str, *, lines: bool = False) -> str:
    """Text without anything a terminal would obey or a reader could not see.

    Args:
        text: what somebody else wrote.
        lines: keep line breaks; otherwise they become "⏎" so that a row stays one row.

    Returns:
        The text with control characters as their pictures (ESC as "␛"), bidirectional
        overrides and other invisible marks as "⟨202E⟩", lone surrogates as "�".
    """
    if text.isascii() and text.isprintable():
        return text
    shown = "".join(c if c.isprintable() else _visible(c, lines) for c in text)
    return _STACKED.sub(r"\1", shown)


def _visible(character: str, lines: bool) -> str:
    """A stand-in for one character that can't be printed as it is."""
    code = ord(character)
    if character == "\n":
        return "\n" if lines else "⏎"
    if character == "\t":
        return "    "
    category = unicodedata.category(character)
    if character in _JOINERS or category not in _UNPRINTABLE:
        return " " if category == "Zs" else character
    if category == "Cs":
        return "\ufffd"
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"⟨{code:04X}⟩"


def words(text: str, style: str = "", *, lines: bool = False) -> Content:
    """Cleaned text as content, in a style such as "bold $primary"; nothing in it is markup."""
    return Content.styled(clean(text, lines=lines), style)


def number(value: float | None, unit: str = "", *, decimals: int = 0) -> str:
    """A measured number, or "—" where there is none: unknown is never shown as zero."""
    return "—" if value is None else f"{value:,.{decimals}f}{unit}".replace(",", "\u202f")


def count(how_many: int, noun: str) -> str:
    """So many things: "1 line", "2 lines"."""
    return f"{number(how_many)} {noun}{'' if how_many == 1 else 's'}"


def duration(seconds: float | None) -> str:
    """A length of time in the unit that suits it, such as "85 ms", "2.4 s" or "3 m 05 s"."""
    if seconds is None:
        return "—"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} m" if hours else f"{minutes} m {rest:02} s"


def size(size_bytes: int | None) -> str:
    """A size in binary units, such as "1.2 MiB"."""
    if size_bytes is None:
        return "—"
    value, units = float(size_bytes), ["B", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"
