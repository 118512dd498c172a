"""Recordings: a session as it went through the gateway, to be played again word for word.

A recording is JSON Lines. The first line says where everything stood: the game's state, the
world's files and weights by digest. Then, in the order it happened, a line when each request
began and one when it ended, with what was said and what made it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from protocol import messages as wire
from protocol.errors import Refusal
from protocol.messages import Body
from protocol.service import Peer, Request, Service
from roles.dialogues.errors import RecordingError
from roles.dialogues.observation import Origin
from roles.engines import Engines
from roles.errors import LineNotFoundError
from roles.house import House
from roles.store import Store
from roles.world import World

VERSION = 1
_WAL_MARK = slice(18, 20)  # read and write version in SQLite's file header
# What only looks changes nothing and is left out.
_LOOKS = {"agents", "inspect", "lines", "lore", "stats", "saves", "rehearse", "reload", "again"}


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where everything stood when the recording began.

    Attributes:
        state: the game's whole state, as `pack_state` gives it.
        files: SHA-256 of each of the world's text files, by its path in the world.
        adapters: digest by name, for every tier.
    """

    recording: int = VERSION
    world: str = ""
    began_s: float = 0.0
    state: str = ""
    files: dict[str, str] = field(default_factory=dict)
    adapters: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Told:
    """A line in a recording: what was said, and what made it."""

    line: str
    agent: str
    text: str
    raw: str = ""
    emotion: str = ""
    actions: list[Any] = field(default_factory=list)
    fallback: bool = False
    cause: str = ""
    origin: Origin = field(default_factory=Origin)


@dataclass(kw_only=True)
class Entry:
    """One request of a recording.

    Attributes:
        number: in the order they began; `session` tells clients apart.
        lines: what was spoken; empty for requests that make nobody speak.
        refused: its error code, or "".
        cancelled: the client took it back; `heard` is what it had got by then.
    """

    number: int
    session: str
    type: str
    body: dict[str, Any]
    at_s: float = 0.0
    ended_s: float = 0.0
    lines: list[Told] = field(default_factory=list)
    refused: str = ""
    cancelled: bool = False
    heard: str = ""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording as read: requests, and the order in which they began and ended.

    Attributes:
        steps: ("begin" or "end", number of the entry).
    """

    head: Head
    entries: dict[int, Entry]
    steps: list[tuple[str, int]]


class Recorder:
    """A service that writes down what goes through it.

    Args:
        house: the running game's, for its state and its lines.
        service: answers the requests.
        path: the recording; an older one is replaced.

    Raises:
        RecordingError: the file can't be written.
    """

    def __init__(self, house: House, service: Service, path: Path) -> None:
        self._house, self._service = house, service
        self._count, self._began = 0, time.time()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: TextIO = path.open("w", encoding="utf-8")
        except OSError as error:
            raise RecordingError(f"{path} can't be written: {error.strerror}") from None
        self._headed = False

    async def handle(self, peer: Peer, request: Request) -> AsyncIterator[Body]:
        """Answer one request (see protocol.service.Service), and write it down."""
        entry = None if request.type in _LOOKS else self._begin(peer, request)
        replies: list[Body] = []
        whole = False
        try:
            async with aclosing(self._service.handle(peer, request)) as bodies:  # type: ignore[type-var]  # an async generator
                async for body in bodies:
                    if entry is not None:
                        self._hear(entry, body, replies)
                    yield body
            whole = True
        except Refusal as refusal:
            whole = True
            if entry is not None:
                entry.refused = refusal.code
            raise
        finally:
            if entry is not None:
                entry.cancelled = not whole
                self._end(entry, replies)

    def close(self) -> None:
        """The recording is over."""
        self._file.close()

    def _begin(self, peer: Peer, request: Request) -> Entry:
        if not self._headed:  # now that adapters are loaded and nothing has been said
            self._write({"head": asdict(head_of(self._house, self._began))})
            self._headed = True
        entry = Entry(
            number=self._count,
            session=peer.session,
            type=request.type,
            body=request.body.model_dump(exclude_defaults=True),
            at_s=time.time() - self._began,
        )
        self._count += 1
        begun = {"begin": entry.number, "session": entry.session, "type": entry.type}
        self._write({**begun, "body": entry.body, "at_s": round(entry.at_s, 3)})
        return entry

    @staticmethod
    def _hear(entry: Entry, body: Body, replies: list[Body]) -> None:
        if isinstance(body, wire.Delta):
            entry.heard += body.text
        elif not isinstance(body, wire.Accepted):
            replies.append(body)

    def _end(self, entry: Entry, replies: list[Body]) -> None:
        ended: dict[str, Any] = {"end": entry.number, "at_s": round(time.time() - self._began, 3)}
        if entry.refused:
            ended["refused"] = entry.refused
        if entry.cancelled:
            ended |= {"cancelled": True, "heard": entry.heard}
        lines = [asdict(told) for reply in replies for told in told_by(self._house, reply)]
        self._write({**ended, "lines": lines})

    def _write(self, row: dict[str, Any]) -> None:
        if not self._file.closed:
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._file.flush()


def told_by(house: House, reply: Body) -> list[Told]:
    """The lines of a reply, with what made each."""
    if isinstance(reply, wire.ConverseReply):
        return [told for line in reply.lines for told in told_by(house, line)]
    if not isinstance(reply, wire.LineReply):
        return []
    said = reply if isinstance(reply, wire.SayReply) else None
    return [
        Told(
            line=reply.line,
            agent=reply.agent,
            text=reply.text,
            raw=_raw(house, reply.line),
            emotion=said.emotion if said else "",
            actions=[call.model_dump() for call in said.actions] if said else [],
            fallback=reply.fallback,
            cause=reply.cause,
            origin=_origin(house, reply),
        )
    ]


def _raw(house: House, line: str) -> str:
    try:
        return house.transcript.find(line, None).raw
    except LineNotFoundError:
        return ""


def _origin(house: House, reply: wire.LineReply) -> Origin:
    try:
        line = house.transcript.find(reply.line, None)
    except LineNotFoundError:  # a rehearsal's, or too old
        return Origin()
    params = asdict(line.sampling)
    params["constraint"] = line.sampling.constraint and line.sampling.constraint.source
    return Origin(
        adapter=reply.adapter.digest if reply.adapter else "",
        base=line.started.base_digest if line.started else "",
        sampler=params,
        segments=tuple((s.kind, s.text) for m in line.prompt for s in m.segments),
        routing=tuple(line.routing),
    )


def head_of(house: House, began_s: float) -> Head:
    """Where a house stands now."""
    return Head(
        world=house.world.root.name,
        began_s=began_s,
        state=pack_state(house.store),
        files=file_digests(house.world),
        adapters=adapter_digests(house.engines),
    )


def file_digests(world: World) -> dict[str, str]:
    """SHA-256 of each text file that a world is made of."""
    patterns = ("world.toml", "npcs/*.toml", "lore/*.md", "books/*.md")
    files = sorted(file for pattern in patterns for file in world.root.glob(pattern))
    return {
        file.relative_to(world.root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def adapter_digests(engines: Engines) -> dict[str, str]:
    """Digest of every adapter and student that is served, by tier and name."""
    return {
        f"{engine.tier}/{name}": info.digest
        for engine in engines
        for name, info in engine.adapters.items()
    }


def pack_state(store: Store) -> str:
    """Everything in a store, as text."""
    return base64.b64encode(gzip.compress(store.database.serialize(), mtime=0)).decode()


def unpack_state(state: str, store: Store) -> None:
    """Make a store hold what `pack_state` packed.

    Raises:
        RecordingError: it is damaged.
    """
    try:
        packed = bytearray(gzip.decompress(base64.b64decode(state, validate=True)))
        packed[_WAL_MARK] = b"\x01\x01"  # a database in memory keeps no write-ahead log
        store.database.deserialize(bytes(packed))
        store.database.execute("PRAGMA integrity_check").fetchone()
    except (ValueError, OSError, EOFError, store.database.Error) as error:
        raise RecordingError(f"the recording's state is damaged: {error}") from None


def read_recording(path: Path) -> Recording:
    """Read a recording.

    Raises:
        RecordingError: it is missing, damaged or of another version; the message says where.
    """
    try:
        rows = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingError(f"{path} can't be read: {error}") from None
    head: Head | None = None
    entries: dict[int, Entry] = {}
    steps: list[tuple[str, int]] = []
    for number, row in enumerate(rows, 1):
        try:
            table = json.loads(row)
            if "head" in table:
                head = _head(table["head"])
            elif "begin" in table:
                entries[table["begin"]] = _begun(table)
                steps.append(("begin", table["begin"]))
            else:
                _ended(entries[table["end"]], table)
                steps.append(("end", table["end"]))
        except (ValueError, KeyError, TypeError) as error:
            message = f"{path}:{number} is not a recording's line: {error!r}"
            raise RecordingError(message) from None
    if head is None:
        raise RecordingError(f"{path} holds no recording: its first line has no head")
    return Recording(head=head, entries=entries, steps=steps)


def _head(table: dict[str, Any]) -> Head:
    if table.get("recording") != VERSION:
        raise ValueError(f"version {table.get('recording')}; this program reads {VERSION}")
    return Head(**table)


def _begun(table: dict[str, Any]) -> Entry:
    return Entry(
        number=table["begin"],
        session=table["session"],
        type=table["type"],
        body=table["body"],
        at_s=table["at_s"],
    )


def _ended(entry: Entry, table: dict[str, Any]) -> None:
    entry.ended_s = table["at_s"]
    entry.refused = table.get("refused", "")
    entry.cancelled, entry.heard = table.get("cancelled", False), table.get("heard", "")
    for line in table["lines"]:
        made = line.pop("origin")
        made["segments"] = tuple((kind, text) for kind, text in made["segments"])
        made["routing"] = tuple(made["routing"])
        entry.lines.append(Told(**line, origin=Origin(**made)))
