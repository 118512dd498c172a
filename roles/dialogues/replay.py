"""Plays recordings again, offline, and says which line differs first, and why."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from protocol import messages as wire
from protocol.catalogue import REQUESTS
from protocol.errors import Refusal
from protocol.messages import Body
from protocol.service import Request
from roles.dialogues.errors import RecordingError
from roles.dialogues.hosting import Hosted
from roles.dialogues.observation import Origin, Spoken
from roles.dialogues.recording import (
    Entry,
    Recording,
    Told,
    adapter_digests,
    file_digests,
    told_by,
    unpack_state,
)
from roles.dialogues.rehearsal import new_house
from roles.house import House
from roles.manager import answer

_KEYS = itertools.count(1)
_OWN_WILL = {"", "the model had nothing to say"}  # causes that depend on no clock


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A recorded line beside the replayed one.

    Attributes:
        number: of its request in the recording.
        replayed: None where no such line came.
        causes: what made the difference, the likeliest first; empty if there is none.
    """

    number: int
    recorded: Told
    replayed: Told | None
    causes: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether words, mood and actions are the same."""
        return self.replayed is not None and _words(self.recorded) == _words(self.replayed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """A whole recording, played again.

    Attributes:
        changed_files: the world's files that are not what they were.
        changed_adapters: adapters that are not what they were, by tier and name.
        refusals: requests refused now but not then, or the other way round.
    """

    lines: tuple[Comparison, ...]
    changed_files: tuple[str, ...]
    changed_adapters: tuple[str, ...]
    refusals: tuple[str, ...]

    @property
    def num_same(self) -> int:
        """How many lines came out the same."""
        return sum(line.same for line in self.lines)

    @property
    def first_difference(self) -> Comparison | None:
        """The first line that differs."""
        return next((line for line in self.lines if not line.same), None)

    @property
    def passed(self) -> bool:
        """Whether everything came out the same."""
        return self.num_same == len(self.lines) and not self.refusals


async def replay(recording: Recording, host: Hosted) -> Replay:
    """Play a recording on a world's engines, in a game of its own.

    Raises:
        RecordingError: its state or a request can't be read.
    """
    house = new_house(host.world, host.manager.house.engines)
    saves = TemporaryDirectory(prefix="biblioteca-replay-")
    house.store.path = Path(saves.name) / "game.sqlite"
    try:
        unpack_state(recording.head.state, house.store)
        await house.reopen()
        return await _Player(recording, house).play()
    finally:
        house.store.close()
        saves.cleanup()


class _Player:
    """A recording and the house it is played in."""

    def __init__(self, recording: Recording, house: House) -> None:
        self._recording, self._house = recording, house
        self._lines: dict[int, list[Told]] = {}
        self._refused: dict[int, str] = {}

    async def play(self) -> Replay:
        tasks: dict[int, asyncio.Task[None]] = {}
        for step, number in self._recording.steps:  # what overlapped then overlaps now
            if step == "begin":
                entry = self._recording.entries[number]
                tasks[number] = asyncio.create_task(self._request(entry))
                await asyncio.sleep(0)  # it takes its line's number now
            else:
                await tasks.pop(number)
        for task in tasks.values():  # the recording ended before these did
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        return self._compared()

    async def _request(self, entry: Entry) -> None:
        request = Request(f"replay-{next(_KEYS)}", entry.type, body_of(entry))
        late = any(line.fallback and line.cause not in _OWN_WILL for line in entry.lines)
        patience = self._house.deadline_ms
        if late:  # the clock took its words then, so it does now
            self._house.deadline_ms = 0.0
        heard = ""
        told: list[Told] = []
        try:
            async with aclosing(answer(self._house, request)) as bodies:
                async for body in bodies:
                    heard += body.text if isinstance(body, wire.Delta) else ""
                    if entry.cancelled and len(heard) >= len(entry.heard):
                        break
                    told += told_by(self._house, body)
        except Refusal as refusal:
            self._refused[entry.number] = refusal.code
        finally:
            self._house.deadline_ms = patience
        self._lines[entry.number] = told

    def _compared(self) -> Replay:
        head, house = self._recording.head, self._house
        files = _changes(head.files, file_digests(house.world))
        adapters = _changes(head.adapters, adapter_digests(house.engines))
        lines = []
        for number, entry in self._recording.entries.items():
            now: Sequence[Told | None] = self._lines.get(number, [])
            for recorded, replayed in itertools.zip_longest(entry.lines, now):
                if recorded is not None:
                    compared = Comparison(number=number, recorded=recorded, replayed=replayed)
                    causes = () if compared.same else tuple(causes_of(recorded, replayed, files))
                    lines.append(
                        Comparison(
                            number=number, recorded=recorded, replayed=replayed, causes=causes
                        )
                    )
        return Replay(
            lines=tuple(lines),
            changed_files=tuple(files),
            changed_adapters=tuple(adapters),
            refusals=tuple(self._refusals()),
        )

    def _refusals(self) -> list[str]:
        found = []
        for number, entry in self._recording.entries.items():
            now = self._refused.get(number, "")
            if now != entry.refused:
                then = entry.refused or "answered"
                found.append(f"request {number} ({entry.type}) was {then}, is {now or 'answered'}")
        return found


def body_of(entry: Entry) -> Body:
    """A recorded request as it was sent.

    Raises:
        RecordingError: this program knows no such request.
    """
    try:
        return REQUESTS[entry.type].request.model_validate(entry.body)
    except (KeyError, ValidationError) as error:
        message = f"request {entry.number} ({entry.type}) can't be sent again: {error}"
        raise RecordingError(message) from None


def causes_of(
    then: Told | Spoken, now: Told | Spoken | None, files: Sequence[str] = ()
) -> list[str]:
    """Why two lines that should be the same differ, the likeliest cause first."""
    if now is None:
        return ["no line came"]
    if then.fallback != now.fallback:
        which = now if now.fallback else then
        return [f"an authored line stands in {'now' if now.fallback else 'then'}: {which.cause}"]
    a, b = then.origin, now.origin
    causes = []
    if a.adapter != b.adapter:
        was = f"was {_short(a.adapter)}, is {_short(b.adapter)}"
        causes.append(f"the adapter of {then.agent} {was}")
    if a.base != b.base:
        causes.append(f"the base was {_short(a.base)}, is {_short(b.base)}")
    causes += [
        f"the sampler's {name} was {_brief(a.sampler.get(name))}, is {_brief(value)}"
        for name, value in b.sampler.items()
        if _plain(a.sampler.get(name)) != _plain(value)
    ]
    if a.segments != b.segments:
        causes.append(_prompt_cause(a, b, files))
    return causes or ["nothing that was recorded: another machine, or another build of torch"]


def _prompt_cause(a: Origin, b: Origin, files: Sequence[str]) -> str:
    pairs = itertools.zip_longest(a.segments, b.segments, fillvalue=("nothing", ""))
    old, new = next(pair for pair in pairs if pair[0] != pair[1])
    kind = old[0] if old[0] != "nothing" else new[0]
    changed = f"; changed files: {', '.join(files)}" if files else ""
    return f"the prompt's {kind} was {_brief(old[1])}, is {_brief(new[1])}{changed}"


def _words(told: Told) -> tuple[Any, ...]:
    return told.agent, told.text, told.emotion, _plain(told.actions)


def _plain(value: Any) -> Any:
    """As JSON gives it back: tuples are lists."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def _changes(then: dict[str, str], now: dict[str, str]) -> list[str]:
    return sorted(name for name in {*then, *now} if then.get(name) != now.get(name))


def _short(digest: str) -> str:
    return digest[:12] or "none"


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
