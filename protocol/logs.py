"""The server's log: plain lines for people or JSON lines for machines, each with its request.

`request` names the request that a task works for. Tasks inherit it, so whatever a service calls
logs under the request's key: the same by which an engine knows the line.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

from protocol.telemetry import Logged

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]
request: ContextVar[str] = ContextVar("request", default="")
_LEVELS: dict[int, Level] = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "error"}


def configure(style: Format = "text", level: Level = "info") -> None:
    """Log to stderr from now on, in this process."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if style == "json" else PlainLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(capture=True)


def escaped(text: str) -> str:
    """The text on one line: control characters, and what reorders a line, become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def of_request(record: logging.LogRecord) -> str:
    """The request a record belongs to, or ""."""
    return str(getattr(record, "request", "") or request.get())


class PlainLines(logging.Formatter):
    """`LEVEL REQUEST message`; only a traceback takes more lines."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text; nothing a client sends can begin a line of its own."""
        words = (record.levelname, of_request(record), escaped(record.getMessage()))
        line = " ".join(word for word in words if word)
        if record.exc_info:
            traceback = self.formatException(record.exc_info).splitlines()
            line = "\n    ".join([line, *map(escaped, traceback)])
        return line


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, logger, request, message; `fields` and `traceback`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": _LEVELS.get(record.levelno, "info"),
            "logger": record.name,
            "request": of_request(record),
            "message": record.getMessage(),
            "fields": getattr(record, "fields", None),
            "traceback": self.formatException(record.exc_info) if record.exc_info else None,
        }
        return json.dumps({name: value for name, value in document.items() if value is not None})


class Published(logging.Handler):
    """Passes what is logged on to watchers of telemetry.

    Args:
        publish: takes each record as a telemetry event; called on the thread that logs.
    """

    def __init__(self, publish: Callable[[Logged], None]) -> None:
        super().__init__(logging.INFO)
        self._publish = publish

    def emit(self, record: logging.LogRecord) -> None:
        """Publish one record."""
        level = _LEVELS.get(record.levelno, "info")
        text = record.getMessage()[:2_000]
        self._publish(Logged(level=level, text=text, request=of_request(record)))
