"""The JavaScript and C++ clients with two servers, of which the first is ended or falls silent."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from protocol.connection import Address, write_private
from tests.faults.gateway import ROOT, Gateway, wait_for
from tests.protocol.test_client import free_ports

PROGRAMS = Path(__file__).parent / "clients"
CLIENTS = ROOT / "protocol" / "clients"
HEADERS = "#include <msgpack.hpp>\n#include <zmq.h>\n"


def in_javascript() -> list[str]:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if not (CLIENTS / "js" / "node_modules").is_dir():
        pytest.skip("`npm install` in protocol/clients/js comes first; `make test-clients` does it")
    return ["node", str(PROGRAMS / "lines.js")]


def in_cpp(folder: Path) -> list[str]:
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("no C++ compiler is installed")
    flags = [compiler, "-std=c++17", "-DMSGPACK_NO_BOOST", f"-I{CLIENTS / 'cpp'}"]
    look = [*flags, "-E", "-x", "c++", "-"]
    if subprocess.run(look, input=HEADERS, capture_output=True, text=True).returncode:
        pytest.skip("msgpack.hpp or zmq.h is missing: install libmsgpack-cxx-dev and libzmq3-dev")
    built = folder / "lines"
    build = [*flags, "-Wall", "-Wextra", "-Werror", str(PROGRAMS / "lines.cpp")]
    done = subprocess.run([*build, "-lzmq", "-o", str(built)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [str(built)]


COMPILED = pytest.param("C++", marks=pytest.mark.slow)  # the compiler takes its time


@pytest.fixture(scope="module", params=["JavaScript", COMPILED])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    if request.param == "JavaScript":
        return in_javascript()
    return in_cpp(tmp_path_factory.mktemp("cpp"))


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Gateway, Gateway, Path]]:
    """Two servers in processes of their own, and the connection file that lists both."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    path = tmp_path / "both.json"
    with ExitStack() as running:
        first = running.enter_context(Gateway(tmp_path / "first", ports=free_ports()))
        second = running.enter_context(Gateway(tmp_path / "second"))
        others = [Address(work=second.connection.work)]
        both = first.connection.model_copy(update={"others": others})
        write_private(path, both.model_dump())
        yield first, second, path
        first.kill()  # a stopped process would wait for ever to be ended kindly


class Speaker:
    """A client program that says what it is told, line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def begin(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def shown(self) -> dict[str, Any]:
        """The next thing it prints."""
        assert self._process.stdout is not None
        printed: dict[str, Any] = json.loads(self._process.stdout.readline() or "{}")
        assert printed, f"the client ended with exit code {self._process.wait()}"
        return printed

    def end_of(self, line: str) -> dict[str, Any]:
        """What a line ends in."""
        self.begin(line)
        printed = self.shown()
        return self.shown() if "began" in printed else printed

    def leave(self) -> None:
        """End its input, at which it ends."""
        self._process.communicate(timeout=60)
        assert self._process.returncode == 0


@contextmanager
def speaking(program: list[str], path: Path, timeout_s: float) -> Iterator[Speaker]:
    command = [*program, str(path), str(timeout_s)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Speaker(process)
        finally:
            process.kill()


def test_when_its_server_is_ended_it_goes_on_at_the_next(
    program: list[str], servers: tuple[Gateway, Gateway, Path]
) -> None:
    first, second, path = servers
    with speaking(program, path, timeout_s=60) as client:
        here, there = first.connection.work, second.connection.work
        assert client.end_of("echo at home") == {"text": "at home", "address": here}
        client.begin("slow on and on")
        assert client.shown() == {"began": True}
        first.kill()
        broken = client.shown()
        assert broken["error"] == "no_session"
        assert "send it again" in broken["message"]
        assert client.end_of("echo at the next") == {"text": "at the next", "address": there}
        client.leave()
    with speaking(program, path, timeout_s=60) as late:  # comes when the first is gone already
        assert late.end_of("echo at once") == {"text": "at once", "address": there}
        first.start()
        second.kill()
        late.begin("slow and back")  # with its key it is sent again if it went to the dead one
        assert late.shown() == {"began": True}


def test_what_has_said_nothing_is_sent_again_with_its_key(
    program: list[str], servers: tuple[Gateway, Gateway, Path]
) -> None:
    first, second, path = servers

    def await_line(at: Gateway) -> None:
        wait_for(lambda: at.figures()["open_requests"] == 2, lambda: "the line never came")

    with speaking(program, path, timeout_s=60) as client:
        client.begin("wait for it")
        await_line(first)  # beside the request that looks
        first.kill()
        await_line(second)


@pytest.mark.slow
def test_when_its_server_falls_silent_it_goes_on_at_the_next(
    program: list[str], servers: tuple[Gateway, Gateway, Path]
) -> None:
    first, second, path = servers
    with speaking(program, path, timeout_s=5) as client:
        client.begin("slow on and on")
        assert client.shown() == {"began": True}
        os.kill(first.process.pid, signal.SIGSTOP)
        silent = client.shown()
        assert silent["error"] == "no_server"
        assert f"{first.connection.work} or {second.connection.work}" in silent["message"]
        answer = client.end_of("echo at the next")
        assert answer == {"text": "at the next", "address": second.connection.work}
