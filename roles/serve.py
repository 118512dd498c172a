"""Hosts a world: joins the manager to the protocol's server, until told to stop.

This process is the gateway. It loads neither torch nor transformers: models live in the
engines' own processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import logging
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from protocol.connection import Address, default_path
from protocol.server import Server, ServerConfig
from roles.dialogues.recording import Recorder
from roles.dialogues.rehearsal import Rehearsals
from roles.errors import ServeError, WorldError
from roles.manager import Manager
from roles.shared import SharedStore
from roles.store import Store
from roles.world import STARTER, World

log = logging.getLogger("biblioteca.roles")
GAME_FILE = "game.sqlite"
_ASK_S = 0.25  # between two looks whether a game that another gateway hosts is free
_CHECK_S = 1.0  # between two looks whether it is still ours
_SPEAKING = ("tiers.director.base", "tiers.npc.base")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """What to host, where, and where its state is kept.

    Attributes:
        state: folder of the running game and its saves; None is the user's state folder.
        drain_s: how long open requests may take to end when told to stop.
        record: write down there everything that goes through, for `replay`.
        store: the URL of a PostgreSQL database that gateways share; "" keeps the game in `state`.
        game: its name there; "" is the world's folder's.
        others: gateways that host the game when this one can't, told to clients.
    """

    world: str = STARTER
    state: Path | None = None
    connection: Path = field(default_factory=default_path)
    host: str = "127.0.0.1"
    ports: tuple[int, int, int] = (0, 0, 0)
    keys: Path | None = None
    drain_s: float = 5.0
    record: Path | None = None
    store: str = ""
    game: str = ""
    others: tuple[Address, ...] = ()


async def serve(config: ServeConfig) -> None:
    """Host a world until SIGTERM or SIGINT; a second one stops at once.

    A shared game is hosted by one gateway at a time: the others load their engines, and wait.

    Raises:
        WorldError: its files are wrong, or no base is there.
        ServeError: the state folder can't be used.
        SharedStoreError: the shared store can't be reached, or was lost with the game.
    """
    world = World.load(config.world)
    problems = world.model_problems()
    missing = [problem for problem in problems if problem.key in _SPEAKING]
    if len(missing) == len(_SPEAKING):  # with one of them there is something to serve
        raise WorldError(missing)
    for problem in problems:
        log.warning("%s", problem)
    folder = config.state or state_folder(world)
    store = open_store(folder, config.store, config.game or world.root.name)
    manager = Manager(world, store)
    stop = _stop_on_signal()
    try:
        await manager.start()
        if not isinstance(store, SharedStore):
            await _host(manager, config, stop)
        elif await _taken(store, stop):
            await manager.house.reopen()
            async with _watching(store, stop):
                await _host(manager, config, stop)
    finally:
        await manager.close()


async def _host(manager: Manager, config: ServeConfig, stop: asyncio.Event) -> None:
    """Answer clients until told to stop."""
    title = manager.house.world.spec.title
    recorder = Recorder(manager.house, manager, config.record) if config.record else None
    rehearsals = Rehearsals(manager.house, recorder or manager)
    server = Server(
        rehearsals,
        ServerConfig(
            host=config.host,
            ports=config.ports,
            world=title,
            connection=config.connection,
            keys=config.keys,
            others=config.others,
        ),
    )
    try:
        await server.start()
        manager.tell(server.publish, server.notify)
        # What exists by now stays, and the collector needn't walk it while lines are spoken:
        # a full collection took 40 to 90 ms.
        gc.collect()
        gc.freeze()
        log.info("serving %s at %s", title, server.connection.work)
        await stop.wait()
        await server.close(drain_s=config.drain_s)
    finally:
        rehearsals.close()
        if recorder is not None:
            recorder.close()


async def _taken(store: SharedStore, stop: asyncio.Event) -> bool:
    """Wait until nobody hosts the game, and take it; False if told to stop before."""
    waited = False
    while not stop.is_set():
        if store.take():
            return True
        if not waited:
            log.info("waiting: another gateway hosts %s", store.game)
        waited = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _ASK_S)
    return False


@contextlib.asynccontextmanager
async def _watching(store: SharedStore, stop: asyncio.Event) -> AsyncIterator[None]:
    """While a shared game is hosted; when it is lost to us, the hosting stops.

    Raises:
        SharedStoreError: it was lost.
    """

    async def watch() -> None:
        try:
            while True:
                await asyncio.sleep(_CHECK_S)
                store.check()
        finally:
            stop.set()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher


def state_folder(world: World) -> Path:
    """Where a world's running game is kept unless told otherwise."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    digest = hashlib.sha256(str(world.root).encode()).hexdigest()[:8]
    return Path(base) / "biblioteca" / f"{world.root.name}-{digest}"


def open_store(folder: Path, url: str = "", game: str = "") -> Store:
    """The running game's file, or its place in the store that gateways share.

    Raises:
        ServeError: the folder can't be written, or psycopg isn't installed.
        SharedStoreError: the shared store can't be reached.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServeError(f"{folder}: the game's state can't be kept there: {error}") from None
    if url:
        return SharedStore(url, game, folder)
    return Store(folder / GAME_FILE)


def _stop_on_signal() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; the second one ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        if stop.is_set():
            os._exit(130)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    return stop
