"""What a character feels for others: where the author put it, and where the game has moved it.

The author's words (`attitudes`) never change. Beside them stands a number from -1 to 1 for each
person, 0 at first. Every line moves it by the mood in which it is spoken to somebody, every
event by what it says of those who have part in it. Where it passes a bound, the character has
come to like somebody, or no longer does; that is a memory like any other.
"""

from __future__ import annotations

# How a mood shown to somebody moves what is felt for them, unless the world says otherwise.
OF_MOODS = {
    "warm": 0.08,
    "happy": 0.06,
    "grateful": 0.1,
    "amused": 0.04,
    "curious": 0.02,
    "wary": -0.03,
    "afraid": -0.05,
    "disgusted": -0.1,
    "angry": -0.1,
}
_BOUND = 0.4
_FOND = "I have grown fond of {name}."
_COLD = "I have turned against {name}."


def moved(regard: float, step: float) -> float:
    """The regard after a step; the nearer it is to an end, the less a step counts."""
    return regard + step * (1 - abs(regard)) if regard * step > 0 else regard + step


def turn(before: float, after: float, name: str) -> str:
    """The sentence for a change of heart, or "" if there is none."""
    if before < _BOUND <= after:
        return _FOND.format(name=name)
    if before > -_BOUND >= after:
        return _COLD.format(name=name)
    return ""


def in_words(attitude: str, regard: float) -> str:
    """The author's words, with what has become of them."""
    change = "" if abs(regard) < _BOUND else "grown fond" if regard > 0 else "turned against them"
    return "; ".join(part for part in (attitude, change) if part)
