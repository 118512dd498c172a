"""Hosts a world: joins the manager to the protocol's server, until told to stop.

This process is the gateway. It loads neither torch nor transformers: models live in the
engines' own processes.
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import logging
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

from protocol.connection import default_path
from protocol.server import Server, ServerConfig
from roles.dialogues.recording import Recorder
from roles.dialogues.rehearsal import Rehearsals
from roles.errors import ServeError, WorldError
from roles.manager import Manager
from roles.store import Store
from roles.world import STARTER, World

log = logging.getLogger("biblioteca.roles")
GAME_FILE = "game.sqlite"
_SPEAKING = ("tiers.director.base", "tiers.npc.base")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeConfig:
    """What to host, where, and where its state is kept.

    Attributes:
        state: folder of the running game and its saves; None is the user's state folder.
        drain_s: how long open requests may take to end when told to stop.
        record: write down there everything that goes through, for `replay`.
    """

    world: str = STARTER
    state: Path | None = None
    connection: Path = field(default_factory=default_path)
    host: str = "127.0.0.1"
    ports: tuple[int, int, int] = (0, 0, 0)
    keys: Path | None = None
    drain_s: float = 5.0
    record: Path | None = None


async def serve(config: ServeConfig) -> None:
    """Host a world until SIGTERM or SIGINT; a second one stops at once.

    Raises:
        WorldError: its files are wrong, or no base is there.
        ServeError: the state folder can't be used.
    """
    world = World.load(config.world)
    problems = world.model_problems()
    missing = [problem for problem in problems if problem.key in _SPEAKING]
    if len(missing) == len(_SPEAKING):  # with one of them there is something to serve
        raise WorldError(missing)
    for problem in problems:
        log.warning("%s", problem)
    manager = Manager(world, open_store(config.state or state_folder(world)))
    recorder = Recorder(manager.house, manager, config.record) if config.record else None
    rehearsals = Rehearsals(manager.house, recorder or manager)
    server = Server(
        rehearsals,
        ServerConfig(
            host=config.host,
            ports=config.ports,
            world=world.spec.title,
            connection=config.connection,
            keys=config.keys,
        ),
    )
    stop = _stop_on_signal()
    try:
        await server.start()
        await manager.start(server.publish, server.notify)
        # What exists by now stays, and the collector needn't walk it while lines are spoken:
        # a full collection took 40 to 90 ms.
        gc.collect()
        gc.freeze()
        log.info("serving %s at %s", world.spec.title, server.connection.work)
        await stop.wait()
        await server.close(drain_s=config.drain_s)
    finally:
        rehearsals.close()
        if recorder is not None:
            recorder.close()
        await manager.close()


def state_folder(world: World) -> Path:
    """Where a world's running game is kept unless told otherwise."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    digest = hashlib.sha256(str(world.root).encode()).hexdigest()[:8]
    return Path(base) / "biblioteca" / f"{world.root.name}-{digest}"


def open_store(folder: Path) -> Store:
    """The running game's file.

    Raises:
        ServeError: the folder can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServeError(f"{folder}: the game's state can't be kept there: {error}") from None
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
