"""Sessions on disk: what was seen, one JSON document per line, and a link that plays it back."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, TextIO

from pydantic import ValidationError

from protocol import administration, messages, play, telemetry
from protocol.errors import Code, Refusal
from protocol.messages import Body
from tui.errors import RecordingError
from tui.seen import Seen
from tui.session import Sink

FORMAT = "biblioteca-console 1"
_BODIES: dict[str, type[Body]] = {
    kind.__name__: kind
    for source in (messages, administration, play, telemetry)
    for kind in vars(source).values()
    if isinstance(kind, type) and issubclass(kind, Body)
}


class Recorder:
    """Writes down everything seen; a crash loses at most the last line."""

    def __init__(self, path: Path) -> None:
        """Start a recording.

        Raises:
            RecordingError: the file can't be written.
        """
        try:
            self._file: TextIO = path.open("w", encoding="utf-8", errors="replace")
        except OSError as error:
            raise RecordingError(f"cannot record to {path}: {error.strerror}") from error
        self._write({"format": FORMAT, "time_s": time.time()})

    def __call__(self, seen: Seen) -> None:
        """Write one thing down."""
        fields: dict[str, Any] = {"time_s": round(seen.time_s, 4), "name": seen.name}
        if seen.about:
            fields["about"] = seen.about
        if seen.body is not None:
            fields["type"] = type(seen.body).__name__
            body = seen.body.model_dump(exclude_defaults=True)
            if isinstance(seen.body, messages.Welcome):
                body.pop("token", None)  # a secret; a replay has no use for it
                body["token"] = "-"
            fields["body"] = body
        self._write(fields)

    def _write(self, fields: dict[str, Any]) -> None:
        self._file.write(json.dumps(fields, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """End the recording."""
        self._file.close()


def read_recording(path: Path) -> list[Seen]:
    """Everything in a recording, in order.

    Raises:
        RecordingError: the file is missing, is no recording, or has a broken line.
    """
    try:
        rows = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingError(f"cannot read the recording {path}: {error}") from error
    seen = []
    for number, row in enumerate(rows, 1):
        try:
            fields = json.loads(row)
            if number == 1:
                _check_format(fields, path)
                continue
            seen.append(_read(fields))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(rows):
                break  # the console was killed while it wrote this line
            raise RecordingError(f"{path}, line {number}: {error!r} is no thing seen") from error
    return seen


def _check_format(fields: Any, path: Path) -> None:
    found = fields.get("format") if isinstance(fields, dict) else None
    if found != FORMAT:
        raise RecordingError(
            f"{path} is no console recording: its format is {found!r}, not {FORMAT!r}"
        )


def _read(fields: dict[str, Any]) -> Seen:
    body = None
    if "type" in fields:
        if fields["type"] not in _BODIES:
            raise ValueError(f"unknown message type {fields['type']!r}")
        try:
            body = _BODIES[fields["type"]].model_validate(fields.get("body", {}))
        except ValidationError as error:
            raise ValueError(str(error)) from error
    return Seen(
        time_s=float(fields["time_s"]),
        name=fields["name"],
        body=body,
        about=fields.get("about", ""),
    )


class ReplayLink:
    """Plays a recording as if it happened now; what was not recorded can't be asked for."""

    live = False

    def __init__(self, seen: list[Seen], name: str, speed: float = 1.0) -> None:
        """Play `seen` at `speed` times its own pace; 0 is all at once."""
        self.endpoint = name
        self._seen, self._speed = seen, speed

    async def run(self, see: Sink) -> None:
        """Feed everything with the pauses it had, then stay."""
        before = self._seen[0].time_s if self._seen else 0.0
        for seen in self._seen:
            if self._speed > 0 and seen.time_s > before:
                await asyncio.sleep((seen.time_s - before) / self._speed)
            before = max(before, seen.time_s)
            see(seen)
        await asyncio.Event().wait()

    async def request(self, kind: str, body: Body) -> Body:
        """Refuse: a recording can't answer.

        Raises:
            Refusal: always.
        """
        raise _refusal(kind)

    async def stream(self, kind: str, body: Body) -> AsyncGenerator[Body, None]:
        """Refuse: a recording can't speak.

        Raises:
            Refusal: always.
        """
        raise _refusal(kind)
        yield body  # makes this an async generator


def _refusal(kind: str) -> Refusal:
    why = f"this is a recording; {kind} can't be asked of it"
    return Refusal(Code.UNAVAILABLE, why, retryable=False)
