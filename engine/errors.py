"""Errors of the engine.

EngineError
├── BaseModelError    a base model that cannot be loaded or served
├── AdapterError      an adapter that the bank cannot hold exactly
├── RequestError      a request that cannot be run as asked
└── BackendError      the process behind a backend is gone or does not answer
"""

from __future__ import annotations


class EngineError(Exception):
    """Root of everything the engine raises on purpose; the message names the bad value."""

    exit_code = 1


class BaseModelError(EngineError):
    """The base model folder is missing, incomplete or of an unsupported architecture."""


class AdapterError(EngineError):
    """The adapter does not fit the base, is not exact in the bank, or is damaged."""


class RequestError(EngineError):
    """The request asks for something impossible, such as a prompt longer than the context."""

    exit_code = 2


class BackendError(EngineError):
    """The engine's process died, hangs, or is closed."""
