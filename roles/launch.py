"""Starts a server of one's own, in a process of its own, and ends it again."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from roles.errors import ServeError

_PERIOD_S = 0.1


@asynccontextmanager
async def launched(world: str, state: Path | None = None) -> AsyncIterator[Path]:
    """A server of a world; yields its connection file. It answers while engines still load.

    Args:
        state: folder of the game; None takes one that goes away with the server.

    Raises:
        ServeError: the server ended before it listened; the message is its own.
    """
    with tempfile.TemporaryDirectory(prefix="biblioteca-") as folder:
        connection = Path(folder) / "connection.json"
        command = [sys.executable, "-m", "biblioteca", "serve", world]
        command += ["--connection", str(connection)]
        command += ["--state", str(state or Path(folder) / "state")]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        errors: list[bytes] = []
        assert process.stderr is not None
        listening = asyncio.create_task(_collect(process.stderr, errors))
        try:
            while not connection.is_file():
                if process.returncode is not None:
                    await listening
                    raise ServeError(_last_line(errors))
                await asyncio.sleep(_PERIOD_S)
            yield connection
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
            await listening


async def _collect(stream: asyncio.StreamReader, lines: list[bytes]) -> None:
    """Keep the server's last words, for when it fails."""
    while line := await stream.readline():
        lines.append(line)
        del lines[:-20]


def _last_line(errors: Sequence[bytes]) -> str:
    last = errors[-1].decode(errors="replace").strip() if errors else "the server said nothing"
    return last.removeprefix("biblioteca: ")
