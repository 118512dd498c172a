"""A talk that no longer fits the context, in a few words: what was said, shortest form.

Extractive on purpose: a summary in the speakers' own words can't invent anything, and costs no
model time while a player waits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from roles.dialogue import Turn
from roles.memory import heard

_SENTENCE = re.compile(r"[^.!?]+[.!?]*")
_MAX_CHARS = 360
_ITEM_CHARS = 90


def summarise(turns: Sequence[Turn], name: str) -> str:
    """The weightiest sentences of some turns, in their order, as one memory of `name`."""
    items = [item for turn in turns if (item := _sentence(turn, name))]
    ranked = sorted(range(len(items)), key=lambda i: (-items[i][1], -i))
    kept: list[int] = []
    length = 0
    for i in ranked:
        if length + len(items[i][0]) > _MAX_CHARS:
            break
        kept.append(i)
        length += len(items[i][0]) + 1
    return "Earlier, " + " ".join(items[i][0] for i in sorted(kept))


def _sentence(turn: Turn, name: str) -> tuple[str, float] | None:
    """The first sentence of a turn, who said it, and how much it matters."""
    said = turn.message.segments[-1].text.split("\n")[0]
    if turn.message.role == "assistant":
        words, speaker = re.sub(r"^\[[^\]]*\]\s*", "", said), name
    else:
        speaker, _, words = said.partition(": ")
    match = _SENTENCE.search(words)
    if match is None or not match[0].strip():
        return None
    text, importance = heard(speaker, match[0].strip()[:_ITEM_CHARS])
    return text, importance - 0.2 * (turn.message.role == "assistant")
