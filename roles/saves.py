"""Save slots: each is one file, a snapshot of everything the game has become.

    STATE/game.sqlite           the running game
    STATE/saves/SLOT.sqlite     one slot

A slot is written beside its place and moved there, so it is the old one or the whole new one. It
holds no absolute path: copied to another machine, it loads there.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from protocol.play import SaveInfo
from roles.errors import SaveError, SaveNotFoundError
from roles.store import Store, opened


class Saves:
    """The slots of one game."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, store: Store, slot: str, about: dict[str, Any]) -> SaveInfo:
        """Write a slot.

        Args:
            about: what else to note with it: note, game clock, adapter digests.

        Raises:
            SaveError: it can't be written; the slot is as it was.
        """
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        store.set("save", {"slot": slot, "saved_at": moment, **about})
        store.copy_to(self.file(slot))
        return self.info(slot)

    def put(self, slot: str, file: Path) -> SaveInfo:
        """Take in a save's file from elsewhere.

        Raises:
            SaveError: it is no save of ours, or it can't be written; the slot is as it was.
        """
        with opened(file):
            self._write(slot, file.read_bytes())
        return self.info(slot)

    def restore(self, store: Store, slot: str) -> SaveInfo:
        """Make the running game what a slot holds.

        Raises:
            SaveError: there is no such slot, or it is damaged; the game goes on as it was.
        """
        store.copy_from(self.file(slot))
        return self.info(slot)

    def info(self, slot: str) -> SaveInfo:
        """What a slot says of itself. Raises: SaveError."""
        path = self.file(slot)
        about = self.about(slot)
        return SaveInfo(
            slot=slot,
            note=about.get("note", ""),
            saved_at=about.get("saved_at", ""),
            now=about.get("now"),
            digest=hashlib.sha256(path.read_bytes()).hexdigest(),
            size_bytes=path.stat().st_size,
        )

    def about(self, slot: str) -> dict[str, Any]:
        """Everything noted with a slot. Raises: SaveError."""
        found: dict[str, Any] = _read(
            self.file(slot), "SELECT value FROM settings WHERE key='save'"
        )
        return found

    def all(self) -> list[SaveInfo]:
        """Every slot that can be read, by name."""
        infos = []
        for path in sorted(self.folder.glob("*.sqlite")):
            try:
                infos.append(self.info(path.stem))
            except SaveError:
                continue  # a file that is no save is not a slot
        return infos

    def export(self, slot: str) -> dict[str, Any]:
        """A slot's whole content, as a person would read it. Raises: SaveError."""
        path = self.file(slot)
        about = self.about(slot)
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
                return {"save": about, **_content(database)}
        except (sqlite3.Error, ValueError) as error:
            raise SaveError(f"the save {slot!r} can't be read: {error}") from None

    def file(self, slot: str) -> Path:
        """Where a slot's file is, or would be."""
        return self.folder / f"{slot}.sqlite"

    def _write(self, slot: str, content: bytes) -> None:
        """Make this a slot's file; it is the old one or the whole new one."""
        path = self.file(slot)
        partial = path.with_name(f".{path.name}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            os.replace(partial, path)
        except OSError as error:
            raise SaveError(f"{path}: {error}") from None


def _read(path: Path, query: str) -> Any:
    """One JSON value of a slot."""
    if not path.is_file():
        raise SaveNotFoundError(f"there is no save {path.stem!r}")
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
            row = database.execute(query).fetchone()
            return json.loads(row[0]) if row else {}
    except (sqlite3.Error, ValueError) as error:
        raise SaveError(f"the save {path.stem!r} can't be read: {error}") from None


def _content(database: sqlite3.Connection) -> dict[str, Any]:
    """Settings, conversations, memories and timeline of a store, in plain types."""
    settings = {
        key: json.loads(value)
        for key, value in database.execute("SELECT key, value FROM settings ORDER BY key")
        if key != "save"
    }
    talks: dict[str, list[str]] = {}
    turns = database.execute("SELECT conversation, role, segments, live FROM turns ORDER BY id")
    for conversation, role, segments, live in turns:
        *_, (_, said) = json.loads(segments)
        faded = "" if live else " (summarised)"
        talks.setdefault(conversation, []).append(f"{role}: {said}{faded}")
    memories: dict[str, list[dict[str, Any]]] = {}
    rows = database.execute(
        "SELECT agent, kind, text, now, importance, pinned, forgotten FROM memories ORDER BY id"
    )
    for agent, kind, text, now, importance, pinned, forgotten in rows:
        memory = {"kind": kind, "text": text, "now": now, "importance": importance}
        memory |= {"pinned": bool(pinned), "forgotten": bool(forgotten)}
        memories.setdefault(agent, []).append(memory)
    timeline = [
        {"kind": kind, "text": text, "now": now, "tension": tension}
        for kind, text, now, tension in database.execute(
            "SELECT kind, text, now, tension FROM timeline ORDER BY id"
        )
    ]
    return {
        "settings": settings,
        "conversations": talks,
        "memories": memories,
        "timeline": timeline,
    }
