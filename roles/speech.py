"""Runs one line through its engine: streams what is spoken, keeps time, and never hangs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import cast

from engine.backend import Backend
from engine.errors import EngineError
from engine.requests import Delta, Event, GenerationRequest, Started
from roles.engines import Engine
from roles.errors import BusyError
from roles.line import Line
from roles.reply import ReplyReader

NO_WORD = "no word came before the deadline"
CUT_SHORT = "the deadline came before the last word"
ANSWER_MARGIN_S = 0.1  # between our giving up and the client's: time to send a fallback line
_SILENCE = 0.25  # of a tier's patience: an engine that tells nobody anything for so long is ill
_PATIENT_S = 60.0  # no player waits that long; a rehearsal does, for an engine that rests


@dataclass(frozen=True, kw_only=True, slots=True)
class Deadlines:
    """On the event loop's clock: when the first word, and the last one, must have come."""

    first_word_s: float
    last_word_s: float | None = None

    @classmethod
    def after(cls, first_word_s: float, client_s: float | None) -> Deadlines:
        """From now: so long for the first word, and before the client gives up for the last."""
        first = asyncio.get_running_loop().time() + first_word_s
        if client_s is None:
            return cls(first_word_s=first)
        last = client_s - ANSWER_MARGIN_S
        return cls(first_word_s=min(first, last), last_word_s=last)


async def speak(
    engine: Engine, line: Line, reader: ReplyReader, deadlines: Deadlines
) -> AsyncGenerator[str, None]:
    """Speak a line whose prompt is set; yields speech as it becomes certain.

    Fills in the line as it goes. If nothing was spoken, `line.cause` says why and it is the
    caller's to find other words; if the line broke off, what was spoken stands.

    Raises:
        BusyError: the engine has no room for another line now.
    """
    if line.cause:  # why it can't be spoken is known already
        return
    asked_s = asyncio.get_running_loop().time()
    try:
        async with contextlib.aclosing(_events(engine.backend, line, deadlines)) as events:
            async for speech in _listen(engine, events, line, reader, deadlines):
                yield speech
    finally:
        _note(engine, line, asked_s)


async def _listen(
    engine: Engine,
    events: AsyncIterator[Event],
    line: Line,
    reader: ReplyReader,
    deadlines: Deadlines,
) -> AsyncIterator[str]:
    while line.finished is None:
        limit = deadlines.last_word_s if reader.spoken else deadlines.first_word_s
        try:
            async with asyncio.timeout_at(limit):
                event = await anext(events)
        except TimeoutError:
            line.cause = CUT_SHORT if reader.spoken else NO_WORD
            break
        engine.heard_s = asyncio.get_running_loop().time()
        if isinstance(event, Started):
            line.started = event
        elif isinstance(event, Delta):
            line.deltas.append(event)
            if speech := reader.feed(event.text):
                yield speech
        else:
            line.finished = event
    if speech := reader.finish():
        yield speech
    if line.finished is not None and line.finished.reason == "busy":
        line.cause = line.finished.error or f"the {engine.tier} engine is full"
        raise BusyError(line.cause)
    if line.finished is not None and line.finished.reason not in ("stop", "length"):
        line.cause = line.finished.error or f"the engine ended it: {line.finished.reason}"


def _events(backend: Backend, line: Line, deadlines: Deadlines) -> AsyncGenerator[Event, None]:
    left_s = None  # the engine gives up at the last word's deadline by itself
    if deadlines.last_word_s is not None:
        left_s = max(deadlines.last_word_s - asyncio.get_running_loop().time(), 0.001)
    request = GenerationRequest(
        request_id=line.key,
        prompt=line.prompt,
        adapter=line.adapter.name if line.adapter else None,
        sampling=line.sampling,
        priority=line.priority,
        deadline_ms=None if left_s is None else left_s * 1000,
    )
    return cast("AsyncGenerator[Event, None]", backend.submit(request))


async def obstacle(engine: Engine, deadlines: Deadlines) -> str:
    """Wait while the engine starts, as long as the first word may take.

    An engine that failed too often is not waited for, unless there is plenty of time.

    Returns why it can't speak now, or "" if it can.
    """
    now_s = asyncio.get_running_loop().time()
    if (rest_s := engine.breaker.rest_left_s(now_s)) > 0:
        if deadlines.first_word_s - now_s < _PATIENT_S:
            return f"the {engine.tier} engine failed too often and rests"
        await asyncio.sleep(rest_s)
    if not engine.prepared.is_set() or engine.state != "ready":
        try:
            async with asyncio.timeout_at(deadlines.first_word_s):
                await engine.prepared.wait()
                await engine.backend.wait_ready()
        except TimeoutError:
            state = engine.state if engine.prepared.is_set() else "still loading"
            return f"the {engine.tier} engine is {state}"
        except EngineError as error:
            return str(error)
    return ""


def _note(engine: Engine, line: Line, asked_s: float) -> None:
    """Tell the breaker how it went: a fallen or a silent engine fails, a bad request doesn't.

    A word that was wanted at once, or of an engine busy with others, is nobody's fault.
    """
    now_s = asyncio.get_running_loop().time()
    if line.finished is not None and line.finished.reason in ("stop", "length"):
        engine.breaker.succeeded()
        engine.error = ""
        return
    silent_s = now_s - max(asked_s, engine.heard_s)
    silent = silent_s >= _SILENCE * engine.table.deadline_ms / 1000
    if engine.state != "ready" or (line.cause == NO_WORD and silent):
        engine.error = line.cause
        engine.breaker.failed(now_s)
