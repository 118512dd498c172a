"""A PostgreSQL server of the tests' own, on a free loopback port."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_OFTEN = "/usr/lib/postgresql/*/bin/initdb"  # Debian keeps the server's programs off the path


class Postgres:
    """The server; one database, whose owner needs no password."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"postgresql://biblioteca@127.0.0.1:{self._port}/postgres"

    def run(self, program: str, *arguments: str) -> None:
        """One of PostgreSQL's programs on our data; it refuses to be run by root."""
        own: dict[str, Any] = {"user": "postgres"} if os.geteuid() == 0 else {}
        command = [str(self._programs / program), "-D", str(self._folder / "data"), *arguments]
        with (self._folder / "log").open("ab") as log:
            subprocess.run(command, check=True, stdout=log, stderr=log, cwd="/", **own)

    def start(self) -> None:
        """Start it; returns when it answers."""
        listen = f"-h 127.0.0.1 -p {self._port} -k {self._folder} -c fsync=off"
        self.run("pg_ctl", "start", "--wait", "-o", listen, "-l", str(self._folder / "server.log"))

    def stop(self) -> None:
        """End it, whoever is connected; what was committed without waiting for the disk stays."""
        self.run("pg_ctl", "stop", "--wait", "-m", "fast")


@contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """A running server; the tests that want one are skipped where none is installed."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install .[postgres]")
    found = shutil.which("initdb") or max(map(str, Path("/").glob(_OFTEN[1:])), default=None)
    if found is None:
        pytest.skip("no PostgreSQL server is installed (initdb was not found)")
    if os.geteuid() == 0:
        folder.chmod(0o777)
    server = Postgres(Path(found).resolve().parent, folder)
    server.run("initdb", "-A", "trust", "-U", "biblioteca", "--no-sync")
    server.start()
    try:
        yield server
    finally:
        server.stop()
