"""Conversations to token ids, loss weights and marks on what has to be copied."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from engine.requests import Message, Segment
from engine.template import ChatTemplate
from npc_adapters.examples import Example

_WORD = re.compile(r"[^\W_]{3,}")


def common_words(texts: Iterable[str], at_least: int = 8) -> frozenset[str]:
    """Words that training text holds `at_least` times: the ones that can be known by heart."""
    counts = Counter(word for text in texts for word in _WORD.findall(text))
    return frozenset(word for word, count in counts.items() if count >= at_least)


def encode(
    template: ChatTemplate,
    messages: Sequence[Message],
    *,
    prompt_weight: float = 0.0,
    copy_weight: float = 1.0,
    known: frozenset[str] | None = None,
) -> Example:
    """One conversation as an example, its tokens exactly as the engine would make them.

    Args:
        template: the base's chat template.
        messages: a conversation; every assistant message is learned, its end token included.
        prompt_weight: weight of everything else in the loss.
        copy_weight: weight of a reply's rare words that stand in the prompt (with `known`).
        known: common words; with them, rare words copied from the prompt are marked.
    """
    whole = [
        Message(role=m.role, segments=(Segment(kind=f"{i}", text=m.text),))
        for i, m in enumerate(messages)
    ]
    ids, spans = template.encode(whole, add_generation_prompt=False)
    weights = [prompt_weight] * len(ids)
    copied = [False] * len(ids) if known is not None else []
    for span in spans:
        if span.kind == "template" or messages[int(span.kind)].role != "assistant":
            continue
        stop = min(span.end + 1, len(ids))  # the end token, which the template writes
        weights[span.start : stop] = [1.0] * (stop - span.start)
        if known is not None:
            number = int(span.kind)
            earlier = "\n".join(message.text for message in messages[:number])
            marked = copied_spans(messages[number].text, earlier, known)
            marks = _marks(template, ids[span.start : span.end], marked) if marked else []
            for token, mark in enumerate(marks, span.start):
                copied[token] = mark
                weights[token] = copy_weight if mark else 1.0
    return Example(ids, weights, copied)


def copied_spans(reply: str, earlier: str, known: frozenset[str]) -> list[tuple[int, int]]:
    """Where (from, to in characters) the reply holds uncommon words that stand in the prompt."""
    there = set(_WORD.findall(earlier))
    return [
        match.span()
        for match in _WORD.finditer(reply)
        if match.group() in there and match.group() not in known
    ]


def _marks(
    template: ChatTemplate, ids: Sequence[int], marked: Sequence[tuple[int, int]]
) -> list[bool]:
    """Which tokens of a text touch the marked characters."""
    marks, start = [], 0
    for token in ids:
        stop = start + len(template.decode([token]))
        marks.append(any(start < last and stop > first for first, last in marked))
        start = stop
    return marks
