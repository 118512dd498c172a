"""What has happened in a world: one SQLite file, written as it happens.

Everything that a save must hold lives here and nowhere else, so a save slot is a copy of this
file. A line is one transaction: kill -9 loses at most the line being spoken. The store of a game
that several gateways may host is in roles/shared.py.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from roles.errors import SaveError, SaveNotFoundError

VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS settings(key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS turns(
    id INTEGER PRIMARY KEY, conversation TEXT NOT NULL, line TEXT NOT NULL,
    role TEXT NOT NULL, segments TEXT NOT NULL, live INTEGER NOT NULL DEFAULT 1);
CREATE INDEX IF NOT EXISTS turns_live ON turns(conversation, live, id);
CREATE TABLE IF NOT EXISTS memories(
    id INTEGER PRIMARY KEY, agent TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL,
    now REAL NOT NULL, importance REAL NOT NULL, participants TEXT NOT NULL, line TEXT NOT NULL,
    pinned INTEGER NOT NULL DEFAULT 0, forgotten INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS memories_agent ON memories(agent, forgotten);
CREATE VIRTUAL TABLE IF NOT EXISTS memory_words USING fts5(
    text, content='memories', content_rowid='id', tokenize='porter unicode61');
CREATE TRIGGER IF NOT EXISTS memory_added AFTER INSERT ON memories BEGIN
    INSERT INTO memory_words(rowid, text) VALUES (new.id, new.text); END;
CREATE TRIGGER IF NOT EXISTS memory_edited AFTER UPDATE OF text ON memories BEGIN
    INSERT INTO memory_words(memory_words, rowid, text) VALUES ('delete', old.id, old.text);
    INSERT INTO memory_words(rowid, text) VALUES (new.id, new.text); END;
CREATE TABLE IF NOT EXISTS vectors(
    memory INTEGER PRIMARY KEY, model TEXT NOT NULL, vector BLOB NOT NULL);
CREATE TRIGGER IF NOT EXISTS vector_stale AFTER UPDATE OF text ON memories BEGIN
    DELETE FROM vectors WHERE memory=new.id; END;
CREATE TABLE IF NOT EXISTS timeline(
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, text TEXT NOT NULL, line TEXT,
    time_s REAL NOT NULL, now REAL NOT NULL, tension REAL, wanted REAL);
"""


class Store:
    """The open file; `settings` are small named values, the tables belong to their nouns.

    Args:
        path: where the file is or will be; None keeps everything in memory.

    Raises:
        SaveError: the file is damaged, or of a newer version than this program's.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self.database = sqlite3.connect(path or ":memory:", isolation_level=None)
        try:
            self.database.execute("PRAGMA journal_mode=WAL")
            self.database.execute("PRAGMA synchronous=NORMAL")
            check_version(self.database, str(path))
            if path is None:
                _empty().backup(self.database)
            else:
                _make_tables(self.database)
        except sqlite3.DatabaseError as error:
            self.database.close()
            raise SaveError(f"{path}: {error}; restore a save or start anew") from None

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing of it; whatever writes, writes in one."""
        if self.database.in_transaction:  # part of a larger one
            yield self.database
            return
        self.database.execute("BEGIN IMMEDIATE")
        try:
            yield self.database
            self.database.execute("COMMIT")
        except BaseException:  # interrupted, too: half of it must not stay; raised again
            if self.database.in_transaction:  # a full disk may have ended it already
                self.database.execute("ROLLBACK")
            raise

    def get(self, key: str, default: Any = None) -> Any:
        """A setting's value."""
        row = self.database.execute("SELECT value FROM settings WHERE key=?", (key,)).fetchone()
        return default if row is None else json.loads(row[0])

    def set(self, key: str, value: Any) -> None:
        """Write a setting; any JSON value."""
        with self.transaction() as database:
            database.execute(
                "INSERT INTO settings VALUES (?, ?) "
                "ON CONFLICT(key) DO UPDATE SET value=excluded.value",
                (key, json.dumps(value)),
            )

    def copy_to(self, path: Path) -> None:
        """Write a snapshot: afterwards the file is the old one or the whole new one.

        Raises:
            SaveError: the disk is full or the folder can't be written.
        """
        partial = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.unlink(missing_ok=True)
            with closing(sqlite3.connect(partial)) as target:
                self.database.backup(target)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        except (OSError, sqlite3.Error) as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise SaveError(f"{path}: {error}; the last save is unharmed") from None

    def copy_from(self, path: Path) -> None:
        """Become what a snapshot holds.

        Raises:
            SaveNotFoundError: there is no such snapshot.
            SaveError: it is damaged or of a newer version; nothing changed.
        """
        with opened(path) as source:
            source.backup(self.database)

    def close(self) -> None:
        """Close the file; what was written stays."""
        self.database.close()


def _make_tables(database: sqlite3.Connection) -> None:
    database.executescript(_SCHEMA)
    database.execute(f"PRAGMA user_version={VERSION}")


@cache
def _empty() -> sqlite3.Connection:
    """A game before it begins; a copy takes a fifth of the time that making tables takes."""
    database = sqlite3.connect(":memory:", check_same_thread=False)
    _make_tables(database)
    return database


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A snapshot's content, checked.

    Raises:
        SaveNotFoundError, SaveError: as for `Store.copy_from`.
    """
    if not path.is_file():
        raise SaveNotFoundError(f"{path}: there is no such save")
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as source:
            check_version(source, str(path))
            verdict = source.execute("PRAGMA integrity_check").fetchone()[0]
            if verdict != "ok":
                raise SaveError(f"{path}: the save is damaged: {verdict}")
            yield source
    except sqlite3.DatabaseError as error:
        raise SaveError(f"{path}: the save can't be read: {error}") from None


def check_version(database: sqlite3.Connection, name: str) -> None:
    """Raises: SaveError for a file written by a newer program."""
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise SaveError(
            f"{name}: was written by a newer biblioteca (format {version}, this one reads up to "
            f"{VERSION}); update biblioteca"
        )
