"""A world and a game of its own for the console to look at, in two child processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType

_PAUSE_S = 3.0  # between two rounds of the demo's conversation
_GOODBYE_S = 5.0


class Demo:
    """Hosts a world, and plays its demo scripts against it over and over.

    Both are the plain commands `biblioteca serve` and `biblioteca play`, started as anybody
    would start them; leaving the context ends them and removes what they wrote.
    """

    def __init__(self, world: str) -> None:
        """Prepare to host `world`, a folder or the name of one that ships."""
        self.world = world
        self._folder = tempfile.TemporaryDirectory(prefix="biblioteca-demo-")
        self.connection = Path(self._folder.name) / "connection.json"
        self._server: subprocess.Popen[bytes] | None = None
        self._game: subprocess.Popen[bytes] | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._play, name="demo", daemon=True)

    def __enter__(self) -> Demo:
        """Start the server; the game begins as soon as it answers."""
        state = str(Path(self._folder.name) / "state")
        self._server = self._run(
            "serve", self.world, "--connection", str(self.connection), "--state", state
        )
        self._thread.start()
        return self

    def _run(self, *arguments: str) -> subprocess.Popen[bytes]:
        log = (Path(self._folder.name) / f"{arguments[0]}.log").open("ab")
        with log:
            return subprocess.Popen(
                [sys.executable, "-m", "biblioteca", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "BIBLIOTECA_CONNECTION": str(self.connection)},
            )

    def why(self) -> str:
        """How the world's start goes, for as long as it doesn't answer."""
        if self._server is None or self._server.poll() is None:
            return f"the world {self.world} is starting"
        log = (Path(self._folder.name) / "serve.log").read_text(encoding="utf-8", errors="replace")
        last = (log.strip().splitlines() or ["it said nothing"])[-1]
        return f"the world could not be started: {last}"

    def _play(self) -> None:
        """Round after round, each of the world's demos in turn, until the console closes."""
        turn = 1
        while not self._over.wait(_PAUSE_S):
            if self.connection.exists():
                self._game = self._run(
                    "play", self.world, "--connect", "--demo", "--round", str(turn)
                )
                turn += self._game.wait() == 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End both, the game first."""
        self._over.set()
        for process in (self._game, self._server):
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(_GOODBYE_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self._thread.join(_GOODBYE_S)
        self._folder.cleanup()
