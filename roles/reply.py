"""Reads a model's words as they stream: the mood, the speech, the actions.

    [calm] The oil stands behind the globe.
    > give {"item": "brass key"}

The engine's grammar lets characters write nothing else; still, whatever arrives is read without
failing, since a book's model or a base of the user's own may be less tidy.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

_THINK, _THOUGHT = "<think>", "</think>"
_MAX_MOOD = 40  # characters; a longer bracket is speech


@dataclass(frozen=True, slots=True)
class Action:
    """An action a character wants; it has not happened yet."""

    name: str
    arguments: dict[str, Any]


@dataclass(slots=True)
class ReplyReader:
    """Takes a reply piece by piece and gives back what is to be spoken.

    Attributes:
        mood: what stood in brackets, "" until known.
        actions: calls read so far.
        spoken: all speech given out so far.
        raw: everything taken in.
    """

    mood: str = ""
    actions: list[Action] = field(default_factory=list)
    spoken: str = ""
    raw: str = ""
    _pending: str = ""
    _where: str = "mood"

    def feed(self, text: str) -> str:
        """Take more of the reply; returns the speech that is certain now."""
        self.raw += text
        self._pending += text
        return self._advance(final=False)

    def finish(self) -> str:
        """The reply is over; returns what speech was held back."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        speech = ""
        if self._where == "mood":
            self._read_mood(final)
        if self._where == "speech":
            speech = self._read_speech(final)
        if self._where == "actions":
            self._read_actions(final)
        self.spoken += speech
        return speech

    def _read_mood(self, final: bool) -> None:
        text = self._unthought(final)
        if text is None:
            return
        if text.startswith("["):
            mood, closed, rest = text[1:].partition("]")
            if not closed and len(mood) <= _MAX_MOOD and "\n" not in mood and not final:
                return
            if closed and len(mood) <= _MAX_MOOD:
                self.mood, self._pending = mood.strip(), rest
        elif not text and not final:
            return
        self._where = "speech"

    def _unthought(self, final: bool) -> str | None:
        """The beginning without what some bases think aloud first; None while they still do."""
        text = self._pending.lstrip()
        if not text.startswith(_THINK):
            return None if text and _THINK.startswith(text) and not final else text
        _, closed, rest = text.partition(_THOUGHT)
        if not closed and not final:
            return None
        self._pending = rest
        return self._unthought(final)

    def _read_speech(self, final: bool) -> str:
        text = self._pending if self.spoken else self._pending.lstrip()
        speech, newline, rest = text.partition("\n")
        if newline:
            self._where, self._pending = "actions", rest
            return speech.rstrip()
        if final:
            self._pending = ""
            return speech.rstrip()
        # White space waits for what follows: a reply never ends in a space.
        kept = speech.rstrip()
        self._pending = text[len(kept) :]
        return kept

    def _read_actions(self, final: bool) -> None:
        *lines, last = self._pending.split("\n")
        self._pending = "" if final else last
        for line in [*lines, last] if final else lines:
            if action := read_action(line):
                self.actions.append(action)


def read_action(line: str) -> Action | None:
    """The action of a line `> name {json}`, or None if it is not one."""
    if not line.startswith("> "):
        return None
    name, _, arguments = line[2:].strip().partition(" ")
    try:
        values = json.loads(arguments)
    except ValueError:
        return None
    return Action(name, values) if name and isinstance(values, dict) else None
