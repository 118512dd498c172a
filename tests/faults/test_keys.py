"""Wrong, absent and revoked keys; forged roles; somebody else's routing id."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import zmq

from protocol.client import Client
from protocol.codec import PROTOCOL
from protocol.conformance.probe import Probe, code
from protocol.connection import Connection
from protocol.errors import KeyRefusedError, NoServerError, Refusal
from protocol.keys import KeyStore, new_pair
from protocol.wire import ClientConfig, dial
from tests.faults.gateway import Gateway

QUICK = ClientConfig(timeout_s=30)


class Guarded(Gateway):
    """A gateway with keys, and its key folder."""

    def __init__(self, folder: Path) -> None:
        self.store = KeyStore.init(folder / "keys")
        super().__init__(folder, keys=folder / "keys")

    def known(self, name: str, role: str) -> Connection:
        pair = new_pair()
        self.store.add(name, role, pair.public)  # type: ignore[arg-type]  # one of three words
        return self.connection.model_copy(update={"client_key": pair})


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    with Guarded(tmp_path) as gateway:
        yield gateway


def test_strangers_and_keyless_clients_stay_out(guarded: Guarded) -> None:
    for pair in (new_pair(), None):
        with pytest.raises(KeyRefusedError):
            Client(guarded.connection.model_copy(update={"client_key": pair}), QUICK)
    with pytest.raises(KeyRefusedError):
        Client(Connection(work=guarded.connection.work), QUICK)
    other_server = guarded.connection.model_copy(update={"server_key": new_pair().public})
    with pytest.raises(KeyRefusedError):
        Client(other_server, QUICK)
    guarded.check_clean()


def test_a_player_may_play_only_whatever_it_claims(guarded: Guarded) -> None:
    anna = guarded.known("anna", "player")
    with Probe(anna) as probe:
        assert probe.hello(role="admin", user="owner")["role"] == "player"
        assert code(probe.ask("say", {"agent": "echo", "text": "hi"})) == "done"
        for t, body in (
            ("keys", {"op": "list"}),
            ("stats", {}),
            ("inspect", {}),
            ("lines", {}),
            ("snapshot", {}),
            ("save", {"slot": "x"}),
            ("tick", {}),
        ):
            assert code(probe.ask(t, body)) == "forbidden"
        probe.ask("bye")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with dial(context, zmq.SUB, anna.telemetry, anna) as watcher:
        watcher.subscribe("")
        assert not watcher.poll(1_500)  # stats come once a second to those who may see them
    context.term()
    guarded.check_clean()


def test_a_revoked_key_is_out_at_once(guarded: Guarded) -> None:
    with Client(guarded.known("anna", "game"), QUICK) as anna:
        call = anna.start("say", agent="wait", text="x")
        anna.request("agents")
        guarded.store.revoke("anna")  # in the folder, as `biblioteca keys revoke` does
        deadline = time.monotonic() + 60
        while not call.ended and time.monotonic() < deadline:
            anna.poll()
            time.sleep(0.01)
        assert isinstance(call.error, Refusal)
        with pytest.raises((Refusal, KeyRefusedError, NoServerError)):
            anna.request("agents")
    guarded.check_clean()


def test_another_clients_routing_id_and_session_are_no_use(guarded: Guarded) -> None:
    anna, eve = guarded.known("anna", "game"), guarded.known("eve", "player")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def dial_as(connection: Connection) -> zmq.Socket[bytes]:
        assert connection.client_key is not None
        assert connection.server_key is not None
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.ROUTING_ID, b"the-same-id")
        socket.setsockopt(zmq.CURVE_SERVERKEY, connection.server_key.encode())
        socket.setsockopt(zmq.CURVE_PUBLICKEY, connection.client_key.public.encode())
        socket.setsockopt(zmq.CURVE_SECRETKEY, connection.client_key.secret.encode())
        socket.connect(connection.work)
        return socket

    def ask(socket: zmq.Socket[bytes], t: str, **body: object) -> dict[str, object]:
        frame = msgpack.packb({"t": t, "id": str(time.monotonic_ns()), "body": body})
        socket.send_multipart([PROTOCOL, frame])
        assert socket.poll(60_000)
        return dict(msgpack.unpackb(socket.recv_multipart()[1]))

    first = dial_as(anna)
    welcome = ask(first, "hello", resume_ms=30_000)["body"]
    assert isinstance(welcome, dict)
    first.close(0)
    time.sleep(0.5)
    with dial_as(eve) as thief:  # the id is free now, the session waits for its owner
        assert code(ask(thief, "agents")) == "no_session"
        answer = ask(thief, "hello", session=welcome["session"], token=welcome["token"])
        assert code(answer) == "forbidden"
    context.destroy(0)
    guarded.check_clean()
