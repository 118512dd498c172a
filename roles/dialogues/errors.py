"""Errors of the dialogue scripts.

DialogueError
├── ScriptError       a script's YAML is wrong; says file, line, key and the nearest valid key
├── RecordingError    a recorded session cannot be read or played
└── ComparisonError   two things that cannot be compared
"""

from __future__ import annotations

from collections.abc import Sequence

from roles.errors import Problem, RolesError


class DialogueError(RolesError):
    """Root of everything the dialogue scripts raise on purpose."""

    exit_code = 2


class ScriptError(DialogueError):
    """Scripts are wrong; `problems` lists every mistake found, each with file and line."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, problems)))


class RecordingError(DialogueError):
    """A recorded session is damaged, from another version, or of another world."""


class ComparisonError(DialogueError):
    """Neither a world, nor an adapter, nor a base, or the two sides differ in kind."""
