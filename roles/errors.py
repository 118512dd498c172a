"""Errors of the roles.

RolesError
├── WorldError         a world's files are wrong; says which file, which key, and what to do
├── AgentError         nobody of that name lives in this world
├── LineError          a line, question or event that cannot be answered as asked
├── GrammarError       a writer's grammar file cannot be read or expanded
├── LineNotFoundError  no such line is kept
├── RestoredError      the game was restored under a line being spoken
├── BusyError          an engine has no room for another line now
├── HushedError        the game has silenced the scene
├── AdapterRefusedError  an adapter was not loaded, promoted or rolled back
├── MemoryNotFoundError  nobody remembers that
├── SaveError          a save cannot be written or read
│   └── SaveNotFoundError  there is no save of that name
├── SharedStoreError   the database that gateways share cannot be used
└── ServeError         the server could not start, or could not be reached
"""

from __future__ import annotations

from dataclasses import dataclass


class RolesError(Exception):
    """Root of everything the roles raise on purpose; the message names the bad value."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a world's files.

    Attributes:
        file: path inside the world, with `:line` where a line is known.
        key: dotted key, heading or field that is wrong; "" when it is the file itself.
        message: what is wrong, naming the value.
        remedy: what to write instead.
    """

    file: str
    key: str
    message: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.file}: {self.key}" if self.key else self.file
        return f"{where}: {self.message}; {self.remedy}"


class WorldError(RolesError):
    """A world's files are wrong; `problems` lists every mistake found."""

    exit_code = 2

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = tuple(problems)
        more = f" (and {len(problems) - 1} more: biblioteca validate)" if len(problems) > 1 else ""
        super().__init__(f"{problems[0]}{more}")


class AgentError(RolesError):
    """Nobody of that name lives in this world."""

    exit_code = 2


class LineError(RolesError):
    """A line, question or event cannot be answered as asked."""

    exit_code = 2


class LineNotFoundError(RolesError):
    """No such line is kept."""

    exit_code = 2


class RestoredError(RolesError):
    """The game was restored under a line being spoken."""


class BusyError(RolesError):
    """An engine has no room for another line now; nothing was said."""


class HushedError(RolesError):
    """The game has silenced the scene."""


class AdapterRefusedError(RolesError):
    """An adapter was not loaded, promoted or rolled back; the old one stays."""


class MemoryNotFoundError(RolesError):
    """Nobody remembers that."""

    exit_code = 2


class EncoderError(RolesError):
    """A sentence encoder gave no vectors; memories come by words alone."""


class SaveError(RolesError):
    """A save cannot be written or read."""


class SaveNotFoundError(SaveError):
    """There is no save of that name."""


class SharedStoreError(RolesError):
    """The database that gateways share cannot be used."""


class ServeError(RolesError):
    """The server could not start, or could not be reached."""


class GrammarError(RolesError):
    """A writer's grammar file cannot be read or expanded."""

    exit_code = 2
