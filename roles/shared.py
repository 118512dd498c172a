"""The store of a game that several gateways may host, one at a time: its rows lie in PostgreSQL.

The game is played on SQLite in memory, as every game is, so queries, what comes to mind and saves
are the same; the rows that a transaction changed reach PostgreSQL before it counts as done. The
host holds a lock of its PostgreSQL session and writes through that same session: a gateway that
has lost the lock can't write any more, and the next one finds all that was told to a client.

    biblioteca.settings, turns, memories, ...   the tables of roles/store.py, with a column `game`
    biblioteca.games                            the version of each game's rows
    biblioteca.saves                            slots: each is the file that a save is elsewhere
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from protocol.play import SaveInfo
from roles.errors import SaveError, ServeError, SharedStoreError
from roles.saves import Saves
from roles.store import VERSION, Store, opened

log = logging.getLogger("biblioteca.roles")
_KEYS = {"settings": "key", "turns": "id", "memories": "id", "vectors": "memory", "timeline": "id"}
_TYPES = {"TEXT": "TEXT", "INTEGER": "BIGINT", "REAL": "DOUBLE PRECISION", "BLOB": "BYTEA"}
# A host whose machine is gone is noticed within about 8 s, by either side.
_ALIVE = {"tcp_user_timeout": 8000, "keepalives_idle": 2, "keepalives_interval": 2}
_SESSION = """
SET tcp_keepalives_idle = 2; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3;
SET synchronous_commit = off; -- like SQLite's NORMAL: a power cut there loses the last moment
SET client_min_messages = warning;
"""
_TABLES = """
SELECT pg_advisory_xact_lock(hashtext('biblioteca')); -- two gateways may start at once
CREATE SCHEMA IF NOT EXISTS biblioteca;
CREATE TABLE IF NOT EXISTS biblioteca.games(game TEXT PRIMARY KEY, version BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS biblioteca.saves(
    game TEXT, slot TEXT, digest TEXT NOT NULL, content BYTEA NOT NULL, PRIMARY KEY(game, slot));
"""


class SharedStore(Store):
    """A game in PostgreSQL; empty, and nobody's, until `take`.

    Args:
        url: of the database, as PostgreSQL's own programs take it.
        game: its name there.
        folder: where this gateway keeps copies of saves, and feedback.

    Raises:
        ServeError: psycopg isn't installed.
        SharedStoreError: no such database answers, or its tables can't be made.
    """

    def __init__(self, url: str, game: str, folder: Path) -> None:
        super().__init__()
        self.path = folder / "game.sqlite"  # never written: others look for its folder
        self.game, self._url = game, url
        self._columns = {table: self._describe(table) for table in _KEYS}
        self._note_changes()
        self._server = self._connect()

    def take(self) -> bool:
        """Become the game's host unless somebody is, and open what it has become.

        Raises:
            SaveError: a newer program has written it.
        """
        waited = self._server.closed
        try:
            if waited:
                self._server = self._connect()
            if not self._ask("SELECT pg_try_advisory_lock(%s)", _number(self.game))[0]:
                return False
            self._open()
        except SharedStoreError as error:
            if not waited:
                log.warning("%s; it is asked again", error)
            return False
        return True

    def check(self) -> None:
        """Raises: SharedStoreError if the database, and with it the game, is lost."""
        self._ask("SELECT 1")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing of it, here and there.

        Raises:
            SharedStoreError: it couldn't be kept there.
        """
        within = self.database.in_transaction
        with super().transaction() as database:
            yield database
            if not within:
                self._send_changes()

    def copy_from(self, path: Path) -> None:
        """Become what a snapshot holds, here and there.

        Raises:
            SaveNotFoundError, SaveError: as for a `Store`.
            SharedStoreError: it couldn't be kept there; nothing changed.
        """
        with opened(path) as source, self._sending() as cursor:
            for table, columns in self._columns.items():
                cursor.execute(f"DELETE FROM biblioteca.{table} WHERE game=%s", (self.game,))
                rows = source.execute(f"SELECT {', '.join(columns)} FROM {table}")
                self._send(cursor, table, rows)
            source.backup(self.database)

    def close(self) -> None:
        """Let the game go, to whoever waits for it."""
        self._server.close()
        super().close()

    # --- saves -----------------------------------------------------------------------------

    def send_save(self, slot: str, content: bytes) -> None:
        """Keep a save's file there."""
        digest = hashlib.sha256(content).hexdigest()
        with self._sending() as cursor:
            cursor.execute(
                "INSERT INTO biblioteca.saves VALUES (%s, %s, %s, %s) ON CONFLICT (game, slot) "
                "DO UPDATE SET digest=excluded.digest, content=excluded.content",
                (self.game, slot, digest, content),
            )

    def saves(self) -> dict[str, str]:
        """Digests of the saves there, by slot."""
        with self._sending() as cursor:
            cursor.execute("SELECT slot, digest FROM biblioteca.saves WHERE game=%s", (self.game,))
            return dict(cursor.fetchall())

    def fetch_save(self, slot: str) -> bytes:
        """A save's file."""
        query = "SELECT content FROM biblioteca.saves WHERE game=%s AND slot=%s"
        return bytes(self._ask(query, self.game, slot)[0])

    # --- rows ------------------------------------------------------------------------------

    def _describe(self, table: str) -> dict[str, str]:
        """A table's columns: PostgreSQL's type by name."""
        rows = self.database.execute(f"PRAGMA table_info({table})")
        return {row[1]: _TYPES[row[2]] for row in rows}

    def _note_changes(self) -> None:
        """Have SQLite write down which rows a transaction has touched."""
        self.database.execute("CREATE TEMP TABLE changed(of, row)")
        for table, key in _KEYS.items():
            for event, side in (("INSERT", "new"), ("UPDATE", "new"), ("DELETE", "old")):
                self.database.execute(
                    f"CREATE TEMP TRIGGER {table}_{event} AFTER {event} ON main.{table} BEGIN "
                    f"INSERT INTO changed VALUES ('{table}', {side}.{key}); END"
                )

    def _send_changes(self) -> None:
        changed = dict.fromkeys(of for (of,) in self.database.execute("SELECT of FROM changed"))
        if not changed:
            return
        with self._sending() as cursor, self._server.pipeline():
            for table in changed:
                key, touched = _KEYS[table], f"(SELECT row FROM changed WHERE of='{table}')"
                gone = self.database.execute(
                    f"SELECT row FROM {touched} AS one WHERE NOT EXISTS "
                    f"(SELECT 1 FROM {table} WHERE {key}=one.row)"
                ).fetchall()
                if gone:
                    cursor.executemany(
                        f"DELETE FROM biblioteca.{table} WHERE game=%s AND {key}=%s",
                        [(self.game, row) for (row,) in gone],
                    )
                columns = ", ".join(self._columns[table])
                here = self.database.execute(
                    f"SELECT {columns} FROM {table} WHERE {key} IN {touched} ORDER BY {key}"
                )
                self._send(cursor, table, here)
        self.database.execute("DELETE FROM changed")

    def _send(self, cursor: Any, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Write rows of a table, over those that are there."""
        sent = [(self.game, *map(_storable, row)) for row in rows]
        if not sent:
            return
        columns, key = self._columns[table], _KEYS[table]
        news = ", ".join(f"{column}=excluded.{column}" for column in columns if column != key)
        cursor.executemany(
            f"INSERT INTO biblioteca.{table}(game, {', '.join(columns)}) "
            f"VALUES (%s{', %s' * len(columns)}) ON CONFLICT (game, {key}) DO UPDATE SET {news}",
            sent,
        )

    def _open(self) -> None:
        """Fill the tables here with the game's rows."""
        version = self._ask(
            "SELECT COALESCE(MAX(version), 0) FROM biblioteca.games WHERE game=%s", self.game
        )[0]
        if version > VERSION:
            raise SaveError(
                f"{self.game} was written by a newer biblioteca (format {version}, this one reads "
                f"up to {VERSION}); update biblioteca"
            )
        with super().transaction() as database, self._sending() as cursor:
            cursor.execute(
                "INSERT INTO biblioteca.games VALUES (%s, %s) "
                "ON CONFLICT (game) DO UPDATE SET version=excluded.version",
                (self.game, VERSION),
            )
            for table, columns in self._columns.items():
                cursor.execute(
                    f"SELECT {', '.join(columns)} FROM biblioteca.{table} WHERE game=%s "
                    f"ORDER BY {_KEYS[table]}",
                    (self.game,),
                )
                marks = ", ".join("?" * len(columns))
                database.executemany(f"INSERT INTO {table} VALUES ({marks})", cursor)
            database.execute("DELETE FROM changed")

    # --- the connection --------------------------------------------------------------------

    def _connect(self) -> Any:
        try:
            import psycopg
        except ImportError:
            raise ServeError(
                'psycopg is not installed: pip install "biblioteca[postgres]"'
            ) from None
        with _told():
            server = psycopg.connect(self._url, autocommit=True, connect_timeout=5, **_ALIVE)
            server.execute(_SESSION)
            with server.transaction():
                server.execute(_TABLES)
                for table, columns in self._columns.items():
                    told = ", ".join(f"{name} {kind}" for name, kind in columns.items())
                    server.execute(
                        f"CREATE TABLE IF NOT EXISTS biblioteca.{table}("
                        f"game TEXT, {told}, PRIMARY KEY(game, {_KEYS[table]}))"
                    )
        return server

    def _ask(self, query: str, *values: Any) -> tuple[Any, ...]:
        """The one row that answers a query."""
        with _told():
            row: tuple[Any, ...] = self._server.execute(query, values).fetchone()
            return row

    @contextmanager
    def _sending(self) -> Iterator[Any]:
        """A transaction there; a cursor to fill it."""
        with _told(), self._server.transaction(), self._server.cursor() as cursor:
            yield cursor


class SharedSaves(Saves):
    """The slots of a shared game: files in the database, copies of them in a folder here."""

    def __init__(self, store: SharedStore) -> None:
        assert store.path is not None
        super().__init__(store.path.parent / "slots")
        self._store = store
        there = store.saves()
        for slot, digest in there.items():
            path = self.folder / f"{slot}.sqlite"
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                self._write(slot, store.fetch_save(slot))
        for path in self.folder.glob("*.sqlite"):
            if path.stem not in there:
                path.unlink()

    def save(self, store: Store, slot: str, about: dict[str, Any]) -> SaveInfo:
        """Write a slot, here and there. Raises: SaveError, SharedStoreError."""
        info = super().save(store, slot, about)
        self._store.send_save(slot, self.file(slot).read_bytes())
        return info

    def put(self, slot: str, file: Path) -> SaveInfo:
        """Take a save's file in, here and there. Raises: SaveError, SharedStoreError."""
        info = super().put(slot, file)
        self._store.send_save(slot, self.file(slot).read_bytes())
        return info


def saves_of(store: Store) -> Saves:
    """The slots of a running game. Raises: SaveError if it is kept in memory only."""
    if isinstance(store, SharedStore):
        return SharedSaves(store)
    if store.path is None:
        raise SaveError("this game is kept in memory only; serve it with a state folder")
    return Saves(store.path.parent / "saves")


@contextmanager
def _told() -> Iterator[None]:
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        why = str(error).strip().splitlines() or [type(error).__name__]
        raise SharedStoreError(f"the shared store can't be used: {why[0]}") from error


def _number(game: str) -> int:
    """The key of a game's lock."""
    digest = hashlib.sha256(f"biblioteca game {game}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


def _storable(value: Any) -> Any:
    """A value as PostgreSQL takes it: its text can't hold the character NUL."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value
