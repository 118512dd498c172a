from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from roles.store import Store


def kept(path: Path, key: str) -> object:
    """What somebody else finds in the file."""
    store = Store(path)
    value = store.get(key)
    store.close()
    return value


def test_after_a_full_disk_lines_are_kept_again(tmp_path: Path) -> None:
    path = tmp_path / "game.sqlite"
    store = Store(path)
    store.set("before", 1)
    (pages,) = store.database.execute("PRAGMA page_count").fetchone()
    store.database.execute(f"PRAGMA max_page_count={pages}")

    def write_too_much() -> None:
        with store.transaction():
            store.set("part of it", 1)
            store.set("large", "x" * 100_000)

    with pytest.raises(sqlite3.OperationalError, match="full"):
        write_too_much()
    store.database.execute("PRAGMA max_page_count=1000000")
    with store.transaction():
        store.set("after", 2)
    assert [kept(path, key) for key in ("before", "part of it", "after")] == [1, None, 2]
    store.close()


def test_a_commit_that_fails_leaves_no_transaction_open(tmp_path: Path) -> None:
    path = tmp_path / "game.sqlite"
    store, other = Store(path), Store(path)
    store.database.execute("PRAGMA foreign_keys=ON")
    store.database.execute("CREATE TABLE parent(id INTEGER PRIMARY KEY)")
    store.database.execute(
        "CREATE TABLE child(id INTEGER REFERENCES parent(id) DEFERRABLE INITIALLY DEFERRED)"
    )
    with pytest.raises(sqlite3.IntegrityError), store.transaction() as database:
        database.execute("INSERT INTO child VALUES (1)")  # noticed by the commit alone
    with store.transaction():
        store.set("after", 2)
    assert other.get("after") == 2
    store.close()
    other.close()
