"""Errors of adapters and their training.

AdaptersError
├── DataError        training rows that cannot be used
├── TrainingError    a training run that cannot start or go on
├── StoreError       an adapter folder or library that is damaged or refuses a change
└── UsageError       a request that makes no sense, such as an unknown method
"""

from __future__ import annotations


class AdaptersError(Exception):
    """Root of everything this folder raises on purpose; the message names the bad value."""

    exit_code = 1


class DataError(AdaptersError):
    """Training rows that cannot be used; names file, line and field."""


class TrainingError(AdaptersError):
    """A training run that cannot start or go on, with the nearest thing that can."""


class StoreError(AdaptersError):
    """An adapter that is missing, damaged, or not allowed to take a character's place."""


class UsageError(AdaptersError):
    """A request that makes no sense, such as an unknown method or target."""

    exit_code = 2
