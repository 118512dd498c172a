from __future__ import annotations

import contextlib
import queue
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from protocol.codec import PROTOCOL
from protocol.conformance.probe import Failed, OverZeroMQ
from protocol.conformance.scripted_server import SCENARIOS, play
from protocol.conformance.server_checks import CHECKS, Site
from protocol.session import ServerSession
from tests.protocol.test_client import Hosted


class InMemory:
    """A transport without sockets: frames go to a dispatcher on the hosting loop."""

    def __init__(self, host: Hosted) -> None:
        self.user, self.full = "local", False
        self.session: ServerSession | None = None
        self._loop, self._dispatcher = host.loop, host.server.dispatcher
        self._received: queue.Queue[list[bytes]] = queue.Queue()

    def send(self, frames: Sequence[bytes] | bytes) -> None:
        """From the client: frames; from the server, which shares this object: the envelope."""
        if isinstance(frames, bytes):
            self._received.put([PROTOCOL, frames])
        else:
            self._loop.call_soon_threadsafe(self._dispatcher.take, self, list(frames))

    def receive(self, timeout_s: float) -> list[bytes] | None:
        with contextlib.suppress(queue.Empty):
            return self._received.get(timeout=timeout_s)
        return None

    def attach(self, session: ServerSession) -> None:
        self.session = session

    def detach(self) -> None:
        self.session = None

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._lose)

    def _lose(self) -> None:
        if self.session is not None:
            self._dispatcher.lost(self, self.session)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    folder: Path = tmp_path_factory.mktemp("conformance")
    hosted = Hosted(folder)
    yield hosted
    hosted.stop()


@pytest.mark.parametrize("name", CHECKS)
def test_our_server_follows_the_spec(host: Hosted, name: str) -> None:
    CHECKS[name](Site(partial(OverZeroMQ, host.server.connection), "echo"))


@pytest.mark.parametrize("name", CHECKS)
def test_it_does_without_zeromq_too(host: Hosted, name: str) -> None:
    CHECKS[name](Site(lambda channel: InMemory(host), "echo"))


@pytest.mark.parametrize("name", SCENARIOS)
def test_our_client_follows_the_spec(name: str) -> None:
    play([sys.executable, "-m", "protocol.conformance.python_client"], name)


GREETS_AND_LEAVES = """
import sys
from pathlib import Path
from protocol.conformance.probe import Probe
from protocol.connection import read_connection
Probe(read_connection(Path(sys.argv[1]))).hello()
sys.exit("no more to say")
"""


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("", r"plain: the client ended before it sent 'hello'; it printed '' '', exit code 0"),
        (GREETS_AND_LEAVES, r"ended before it sent 'say'; .*no more to say.*, exit code 1"),
    ],
)
def test_a_client_that_ends_early_is_told_at_once(program: str, sentence: str) -> None:
    with pytest.raises(Failed, match=sentence):
        play([sys.executable, "-c", program], "plain")


def test_a_client_that_cannot_be_run_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"client' can't be run: No such file"):
        play([str(tmp_path / "client")], "plain")
