"""Servers in processes of their own; `python -m tests.faults.gateway` has a service of echoes."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from protocol.conformance.probe import Probe, code
from protocol.connection import Connection, read_connection
from protocol.server import Server, ServerConfig
from tests.protocol.fake_service import FakeService

ROOT = Path(__file__).parents[2]


class Process:
    """A server in a process of its own; knows how clean it was, and checks that it is so again.

    Attributes:
        agent: somebody there who can be spoken to.
        path: the connection file.
    """

    agent = "echo"

    def __init__(
        self,
        folder: Path,
        arguments: list[str],
        environment: dict[str, str] | None = None,
        before: tuple[str, ...] = (),
    ) -> None:
        self.path = folder / "connection.json"
        self.log = folder / "log.txt"
        self._arguments = [*before, sys.executable, *arguments]
        self._environment = {**os.environ, **(environment or {})}
        self.start()

    def start(self) -> None:
        """Start it and wait until it can be reached."""
        self.path.unlink(missing_ok=True)
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self._arguments, cwd=ROOT, env=self._environment, stderr=log
            )
        wait_for(lambda: self.path.exists() or self.process.poll() is not None, self._last_words)
        assert self.path.exists(), self._last_words()
        self.connection: Connection = read_connection(self.path)
        self._before = self.figures()

    def _last_words(self) -> str:
        return f"the server never came up: {self.log.read_text()[-2_000:]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(60)

    def kill(self) -> None:
        """As the kernel would when memory runs out."""
        self.process.kill()
        self.process.wait(60)

    def ask(self, t: str, **body: Any) -> dict[str, Any]:
        """One request of a client that comes and goes: its terminal message."""
        with Probe(self.connection, timeout_s=300) as probe:
            probe.hello()
            answer = probe.ask(t, body)
            probe.ask("bye")
            return answer

    def figures(self) -> dict[str, Any]:
        """Counters and gauges."""
        return dict(self.ask("stats")["body"]["gateway"])

    def left_over(self) -> dict[str, int]:
        """What should be nothing once everybody has gone."""
        after = self.figures()
        return {
            "sessions": after["sessions"] - 1,  # the one that asks
            "open_requests": after["open_requests"] - 1,
            "descriptors": max(0, after["descriptors"] - self._before["descriptors"] - 2),
        }

    def check_clean(self, *, timeout_s: float = 120, more_bytes: int = 64 << 20) -> None:
        """Others are served, and nothing is left: no session, request, descriptor, memory."""
        said = self.ask("say", agent=self.agent, text="still here", ephemeral=True)
        assert code(said) == "done", said
        wait_for(
            lambda: not any(self.left_over().values()),
            lambda: f"left over: {self.left_over()}",
            timeout_s,
        )
        grown = self.figures()["memory_bytes"] - self._before["memory_bytes"]
        assert grown < more_bytes, f"grew by {grown >> 20} MiB"


def wait_for(
    condition: Callable[[], object], complaint: Callable[[], str], timeout_s: float = 600
) -> None:
    """Look again and again until the condition holds; fail with the complaint if it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, complaint()
        time.sleep(0.05)


class Gateway(Process):
    """A gateway over a service of echoes.

    Args:
        folder: where the connection file goes.
        ports: fixed ports, to come back at the same place after a kill.
        num_descriptors: the process's limit; 0 leaves it.
        keys: key folder, for CURVE.
    """

    def __init__(
        self,
        folder: Path,
        *,
        ports: tuple[int, int, int] = (0, 0, 0),
        num_descriptors: int = 0,
        keys: Path | None = None,
    ) -> None:
        where = [str(folder / "connection.json"), ",".join(map(str, ports))]
        arguments = ["-m", "tests.faults.gateway", *where, str(num_descriptors), str(keys or "")]
        super().__init__(folder, arguments)


async def serve(path: str, ports: str, num_descriptors: int, keys: str) -> None:
    """Serve until SIGTERM."""
    if num_descriptors:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (num_descriptors, hard))
    work, control, telemetry = map(int, ports.split(","))
    config = ServerConfig(
        world="Faults",
        connection=Path(path),
        ports=(work, control, telemetry),
        keys=Path(keys) if keys else None,
    )
    server = Server(FakeService(), config)
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.close(drain_s=0.5)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
