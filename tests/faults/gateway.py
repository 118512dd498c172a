"""A gateway in a process of its own, with a service of echoes: `python -m tests.faults.gateway`."""

from __future__ import annotations

import asyncio
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

from protocol.conformance.probe import Probe, code
from protocol.connection import Connection, read_connection
from protocol.errors import NoServerError
from protocol.server import Server, ServerConfig
from tests.protocol.fake_service import FakeService

ROOT = Path(__file__).parents[2]


class Gateway:
    """Starts the process, knows how clean it was, and checks that it is so again.

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
        self.path = folder / "connection.json"
        self._arguments = [
            sys.executable, "-m", "tests.faults.gateway", str(self.path),
            ",".join(map(str, ports)), str(num_descriptors), str(keys or ""),
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        """Start it and wait until it can be reached."""
        self.path.unlink(missing_ok=True)
        self.process = subprocess.Popen(self._arguments, cwd=ROOT)
        deadline = time.monotonic() + 30
        while True:
            try:
                self.connection: Connection = read_connection(self.path)
                break
            except NoServerError:
                assert time.monotonic() < deadline, "the gateway never came up"
                time.sleep(0.05)
        self._before = self.figures()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(20)

    def kill(self) -> None:
        """As the kernel would when memory runs out."""
        self.process.kill()
        self.process.wait(10)

    def figures(self) -> dict[str, Any]:
        """Counters and gauges, asked for by a client that comes and goes."""
        with Probe(self.connection) as probe:
            probe.hello()
            gateway = dict(probe.ask("stats")["body"]["gateway"])
            probe.ask("bye")
            return gateway

    def check_clean(self, *, timeout_s: float = 20, more_bytes: int = 64 << 20) -> None:
        """Others are served, and nothing is left: no session, request, descriptor, memory."""
        with Probe(self.connection) as probe:
            probe.hello()
            said = probe.ask("say", {"agent": "echo", "text": "still here"})
            assert code(said) == "done"
            probe.ask("bye")
        deadline = time.monotonic() + timeout_s
        while True:
            after = self.figures()
            left = {
                "sessions": after["sessions"] - 1,  # the one that asks
                "open_requests": after["open_requests"] - 1,
                "descriptors": max(0, after["descriptors"] - self._before["descriptors"] - 2),
            }
            if not any(left.values()) or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        assert not any(left.values()), f"left over: {left}"
        grown = after["memory_bytes"] - self._before["memory_bytes"]
        assert grown < more_bytes, f"grew by {grown >> 20} MiB"


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
