"""One conversation's working history: exactly the messages the model has been shown.

It only grows at its end, so that each turn's cached prompt is a prefix of the next. When the
context is full the older half leaves at once (rather than a little every turn, which would void
the cache every turn) and comes back as one summary; its exchanges stay in memory for ever.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from engine.requests import Message, Segment
from roles.budget import TokenCounter
from roles.store import Store


@dataclass(frozen=True, slots=True)
class Turn:
    """A message, where it is stored, and the line it belongs to."""

    id: int
    message: Message
    line: str


class Dialogue:
    """What one character and one speaker have said to each other, as its model knows it."""

    def __init__(self, store: Store, key: str) -> None:
        self._store, self.key = store, key
        rows = store.database.execute(
            "SELECT id, role, segments, line FROM turns WHERE conversation=? AND live=1 "
            "ORDER BY id",
            (key,),
        )
        self.turns = [
            Turn(row, Message(role=role, segments=_segments(segments)), line)
            for row, role, segments, line in rows
        ]

    @property
    def messages(self) -> tuple[Message, ...]:
        """The history, oldest first."""
        return tuple(turn.message for turn in self.turns)

    @property
    def lines(self) -> frozenset[str]:
        """Lines that are still in the history, word for word."""
        return frozenset(turn.line for turn in self.turns)

    @property
    def rolled_up(self) -> bool:
        """Whether older exchanges have left it."""
        row = self._store.database.execute(
            "SELECT EXISTS(SELECT 1 FROM turns WHERE conversation=? AND live=0)", (self.key,)
        ).fetchone()
        return bool(row[0])

    def newest(self, counter: TokenCounter, budget_tokens: int) -> tuple[Message, ...]:
        """The newest whole exchanges that fit a budget, oldest first."""
        messages = list(self.messages)
        total = counter.count_messages(messages)
        while messages and (total > budget_tokens or messages[0].role != "user"):
            total -= counter.count_messages([messages.pop(0)])
        return tuple(messages)

    def last_text(self, kind: str, about: str = "") -> str:
        """The newest segment of a kind (and with some words in it) in the history, or ""."""
        for turn in reversed(self.turns):
            for segment in turn.message.segments:
                if segment.kind == kind and about in segment.text:
                    return segment.text
        return ""

    def append(self, line: str, messages: Sequence[Message]) -> None:
        """Add messages of one line, for good."""
        with self._store.transaction() as database:
            for message in messages:
                segments = [[segment.kind, segment.text] for segment in message.segments]
                cursor = database.execute(
                    "INSERT INTO turns(conversation, line, role, segments) VALUES (?, ?, ?, ?)",
                    (self.key, line, message.role, json.dumps(segments)),
                )
                self.turns.append(Turn(cursor.lastrowid or 0, message, line))

    def roll_up(self, counter: TokenCounter, budget_tokens: int) -> list[Turn]:
        """Let the oldest exchanges go until the rest fills at most half the budget.

        Nothing happens while everything fits. Returns what left, oldest first; it stays in the
        store, out of the prompt.
        """
        total = counter.count_messages(self.messages)
        if total <= budget_tokens:
            return []
        left: list[Turn] = []
        while self.turns and (total > budget_tokens // 2 or self.turns[0].message.role != "user"):
            turn = self.turns.pop(0)
            total -= counter.count_messages([turn.message])
            left.append(turn)
        with self._store.transaction() as database:
            database.execute(
                "UPDATE turns SET live=0 WHERE conversation=? AND id<=?", (self.key, left[-1].id)
            )
        return left


def _segments(text: str) -> tuple[Segment, ...]:
    return tuple(Segment(kind=kind, text=words) for kind, words in json.loads(text))
