"""The store that gateways share, on a real PostgreSQL of the tests' own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocol import play
from roles.errors import SaveError, SharedStoreError
from roles.manager import Manager
from roles.memory import MemoryBook
from roles.saves import Saves
from roles.shared import SharedStore, saves_of
from roles.store import Store
from roles.world import World
from tests.cluster.postgres import Postgres
from tests.roles.test_manager import ask, say

TABLES = ("settings", "turns", "memories", "vectors", "timeline")
Open = Callable[[str], SharedStore]


@pytest.fixture
def opened(database: Postgres, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Makes gateways' stores of one game, each with a folder of its own."""
    stores: list[SharedStore] = []

    def make(gateway: str) -> SharedStore:
        stores.append(SharedStore(database.url, request.node.name, tmp_path / gateway))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def taken(store: SharedStore) -> SharedStore:
    """The store once the game is ours; a server takes a moment to see that a host is gone."""
    while not store.take():
        time.sleep(0.02)
    return store


def content(store: Store) -> dict[str, list[str]]:
    rows = {table: store.database.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}
    return {table: sorted(map(repr, found)) for table, found in rows.items()}


async def hosted(world: Path, store: Store) -> Manager:
    manager = Manager(World.load(world), store)
    manager.house.deadline_ms = 600_000  # no line falls back on a busy machine
    await manager.start()
    await manager.wait_ready()
    return manager


async def evening(manager: Manager, part: int) -> list[str]:
    """Lines, an event and what else is written, with the world's own seeds."""
    texts = [f"My name is Bodorfen, of house {part}.", "Where is the lamp oil kept?"]
    lines = [
        (await say(manager, text, agent=who)).text for who in ("anna", "ben") for text in texts
    ]
    event = play.EventRequest(kind="lamp_out", text=f"Dark, {part}.", who=["anna"], now=60.0 * part)
    await ask(manager, "event", event)
    mind = manager.house.play.memories
    mind.keep_vectors("m", {mind.all("anna")[0].id: mind.all("anna")[0].text}, [b"\x00\x01"])
    mind.edit("anna", mind.all("anna")[0].id, "Something else entirely.")
    assert all(lines)
    return lines


async def test_another_gateway_goes_on_with_the_same_words(house: Path, opened: Open) -> None:
    alone = await hosted(house, Store())
    words = [await evening(alone, part) for part in (1, 2)]
    first = await hosted(house, taken(opened("first")))
    assert await evening(first, 1) == words[0]
    left = content(first.house.store)
    await first.close()
    store = taken(opened("second"))
    assert content(store) == left
    second = await hosted(house, store)
    assert await evening(second, 2) == words[1]
    recalled = [
        [one.text for one in each.house.play.memories.recall("anna", "lamp oil", now=99, limit=9)]
        for each in (alone, second)
    ]
    assert recalled[0] == recalled[1]
    await alone.close()
    await second.close()


def test_one_gateway_hosts_a_game_at_a_time(opened: Open, database: Postgres) -> None:
    first, second = taken(opened("first")), opened("second")
    other = taken(SharedStore(database.url, "another game", Path()))
    first.set("lines", 7)
    assert not second.take()
    first.close()
    assert taken(second).get("lines") == 7
    assert other.get("lines") is None
    other.close()


def test_a_save_made_on_either_loads_on_the_other(opened: Open, tmp_path: Path) -> None:
    shared, plain = taken(opened("first")), Store(tmp_path / "plain" / "game.sqlite")
    for store, name in ((shared, "shared"), (plain, "plain")):
        MemoryBook(store).add("anna", f"I was in the {name} one.", kind="note", now=1.0)
        saves_of(store).save(store, name, {"note": name})
    told = {store: content(store) for store in (shared, plain)}
    saves_of(shared).put("plain", saves_of(plain).file("plain"))
    saves_of(plain).put("shared", saves_of(shared).file("shared"))
    saves_of(shared).restore(shared, "plain")
    saves_of(plain).restore(plain, "shared")
    assert content(shared) == told[plain]
    assert content(plain) == told[shared]
    plain.close()
    shared.close()
    second = taken(opened("second"))
    assert content(second) == told[plain]
    assert [(info.slot, info.note) for info in saves_of(second).all()] == [
        ("plain", "plain"),
        ("shared", "shared"),
    ]
    with pytest.raises(SaveError, match="no such save"):
        saves_of(second).put("none", tmp_path / "none")
    assert isinstance(saves_of(plain), Saves)


def test_a_host_that_lost_the_database_keeps_nothing_more(opened: Open, database: Postgres) -> None:
    first, second = taken(opened("first")), opened("second")
    first.set("lines", 1)
    database.stop()
    database.start()
    assert taken(second).get("lines") == 1  # it joins again by itself
    with pytest.raises(SharedStoreError, match="can't be used"):
        first.set("lines", 2)
    assert first.get("lines") == 1
    with pytest.raises(SharedStoreError):
        first.check()
    second.set("lines", 3)
    second.check()


def test_half_a_transaction_is_kept_nowhere(opened: Open) -> None:
    first = taken(opened("first"))

    def break_off() -> None:
        with first.transaction():
            first.set("one", 1)
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        break_off()
    first.set("two", "with \0 in it")
    MemoryBook(first).add("anna", "A \0 from a model.", kind="note", now=0.0)
    first.close()
    second = taken(opened("second"))
    assert [second.get("one"), second.get("two")] == [None, "with \0 in it"]
    assert [memory.text for memory in MemoryBook(second).all("anna")] == ["A \ufffd from a model."]


def test_a_game_of_a_newer_program_is_left_alone(opened: Open) -> None:
    first = taken(opened("first"))
    with first._sending() as cursor:
        cursor.execute("UPDATE biblioteca.games SET version=99 WHERE game=%s", (first.game,))
    first.close()
    with pytest.raises(SaveError, match="newer biblioteca"):
        taken(opened("second"))


def test_a_database_that_is_not_there_is_told_in_a_sentence(database: Postgres) -> None:
    with pytest.raises(SharedStoreError, match="can't be used"):
        SharedStore("postgresql://nobody@127.0.0.1:1/none", "game", Path())
