"""Two gateway processes of one game: the first is killed, its client goes on at the second."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from protocol import administration as admin
from protocol import messages as wire
from protocol.async_client import AsyncClient
from protocol.connection import read_connection
from protocol.errors import Code, NoServerError, ProtocolError, Refusal
from roles.manager import Manager
from roles.store import Store
from roles.world import World
from tests.cluster.postgres import Postgres
from tests.roles.test_manager import say

TEXTS = [f"Tell me about spoon number {number}." for number in range(6)]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def patient(house: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world, no line of which falls back on a busy machine."""
    folder = tmp_path_factory.mktemp("patient") / "world"
    shutil.copytree(house, folder)
    file = folder / "world.toml"
    own = file.read_text(encoding="utf-8")
    own = own.replace('backend = "inline"', 'backend = "inline"\ndeadline_ms = 600000')
    file.write_text(own, encoding="utf-8")
    return folder


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def gateway(
    world: Path, folder: Path, url: str, ports: list[int]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that serves the world on the first of these ports, and knows the others."""
    folder.mkdir()
    command = [sys.executable, "-m", "biblioteca", "serve", str(world), "--port", str(ports[0])]
    command += ["--connection", str(folder / "connection.json"), "--state", str(folder)]
    command += ["--store", url, "--game", world.parent.name]
    command += [word for port in ports[1:] for word in ("--other", f"127.0.0.1:{port}")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def until(file: Path, text: str) -> None:
    """Return when a file has it; the test's time limit ends it otherwise."""
    while not file.is_file() or text not in file.read_text(encoding="utf-8"):
        await asyncio.sleep(0.05)


async def ready(client: AsyncClient) -> None:
    while True:
        stats: admin.StatsReply = await client.request("stats", admin.StatsRequest())
        if {engine.state for engine in stats.engines} == {"ready"}:
            return
        await asyncio.sleep(0.05)


async def spoken(client: AsyncClient, text: str) -> str:
    """What Anna answers; asked again while nobody serves, as a game would."""
    body = wire.SayRequest(agent="anna", text=text, seed=len(text))
    while True:
        try:
            reply: wire.SayReply = await client.request("say", body)
        except (NoServerError, Refusal) as error:
            if isinstance(error, Refusal) and error.code != Code.NO_SESSION:
                raise
        else:
            assert not reply.fallback
            return reply.text


async def test_a_conversation_goes_on_at_the_next_gateway(
    patient: Path, database: Postgres, tmp_path: Path
) -> None:
    alone = Manager(World.load(patient), Store())
    await alone.start()
    await alone.wait_ready()
    wanted = [(await say(alone, text, seed=len(text))).text for text in TEXTS]
    await alone.close()
    ports, (one, two) = [free_port(), free_port()], (tmp_path / "one", tmp_path / "two")
    with ExitStack() as running:
        first = running.enter_context(gateway(patient, one, database.url, ports))
        await until(one / "log", "serving")
        running.enter_context(gateway(patient, two, database.url, ports[::-1]))
        await until(two / "log", "waiting: another gateway hosts")
        connection = read_connection(one / "connection.json")
        async with AsyncClient(connection) as client:
            await ready(client)
            words = [await spoken(client, text) for text in TEXTS[:3]]
            body = wire.SayRequest(agent="anna", text="All.", max_tokens=600, seed=1)
            stream = client.stream("say", body.model_copy(update={"ephemeral": True}))
            while not isinstance(await anext(stream), wire.Delta):
                pass
            first.kill()
            began_s = time.monotonic()
            with pytest.raises(ProtocolError):  # it ends, and the game hears of it
                async for _ in stream:
                    pass
            words += [await spoken(client, text) for text in TEXTS[3:4]]
            print(f"the next word after {time.monotonic() - began_s:.2f} s")
            words += [await spoken(client, text) for text in TEXTS[4:]]
        assert "serving" in (two / "log").read_text(encoding="utf-8")
        async with AsyncClient(connection):
            pass  # a new client, that knows the dead one first, comes in as well
    assert words == wanted
