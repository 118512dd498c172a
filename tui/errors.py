"""Errors of the console.

ConsoleError
├── RecordingError    a recording that can't be written or read
├── KeysError         a file of keys that can't be used
└── FieldsError       a request's name or fields on the command line that make no request
"""

from __future__ import annotations


class ConsoleError(Exception):
    """Root of everything the console raises on purpose; the message names the bad value."""

    exit_code = 1


class RecordingError(ConsoleError):
    """The recording is missing, is of another format, or is damaged."""

    exit_code = 2


class KeysError(ConsoleError):
    """The file of keys is missing, is no TOML, or names an unknown action."""

    exit_code = 2


class FieldsError(ConsoleError):
    """The command line names an unknown request, or a field that is unknown, missing or wrong."""

    exit_code = 2
