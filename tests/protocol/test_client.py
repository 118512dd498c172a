from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from protocol import messages as m
from protocol import wire
from protocol.administration import AgentsRequest
from protocol.async_client import AsyncClient
from protocol.client import Client, connect
from protocol.connection import Address, Connection, KeyPair
from protocol.errors import KeyRefusedError, NoServerError, OrderError, Refusal
from protocol.keys import KeyStore, new_pair
from protocol.operation import KeysRequest
from protocol.server import Server, ServerConfig
from protocol.telemetry import Logged
from protocol.wire import ClientConfig
from tests.protocol.fake_service import FakeService


class Hosted:
    """A server on a thread of its own, for blocking clients."""

    def __init__(self, folder: Path, ports: tuple[int, int, int] = (0, 0, 0)) -> None:
        self.path = folder / "connection.json"
        self.loop = asyncio.new_event_loop()
        self.service = FakeService()
        config = ServerConfig(world="A test", connection=self.path, ports=ports)
        self.server = Server(self.service, config)
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self.server.start(), self.loop).result(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.close(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def hosted(tmp_path: Path) -> Iterator[Hosted]:
    host = Hosted(tmp_path)
    yield host
    host.stop()


def free_ports() -> tuple[int, int, int]:
    sockets = [socket.socket() for _ in range(3)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    first, second, third = (each.getsockname()[1] for each in sockets)
    for each in sockets:
        each.close()
    return first, second, third


def test_a_line_is_spoken_piece_by_piece(hosted: Hosted) -> None:
    with connect(hosted.path) as client:
        assert client.welcome.world == "A test"
        assert list(client.say("echo", "one two")) == ["one", " two"]
        assert client.request("agents").agents[0].agent == "echo"


def test_polling_never_blocks_and_two_lines_run_at_once(hosted: Hosted) -> None:
    with connect(hosted.path) as client:
        calls = [client.start("say", agent="slow", text="x") for _ in range(2)]
        silent = client.start("say", agent="wait", text="x")
        num_polls = 0
        while num_polls < 1_000 or min(len(call.text) for call in calls) < 50:
            client.poll()
            num_polls += 1
        assert not silent.ended  # a poll that waited for it would have waited for ever
        client.cancel(calls[0])
        while not calls[0].ended:
            client.poll()
        assert isinstance(calls[0].error, Refusal)
        assert calls[0].error.code == "cancelled"
        assert not calls[1].ended


def test_leaving_a_stream_early_cancels_it(hosted: Hosted) -> None:
    with connect(hosted.path) as client:
        for _ in client.say("slow", "x"):
            break
        client.request("agents")
        deadline = time.monotonic() + 60
        while hosted.service.num_running and time.monotonic() < deadline:
            client.poll()
        assert hosted.service.num_running == 0


def test_errors_of_requests_are_raised_with_code_and_field(hosted: Hosted) -> None:
    with connect(hosted.path) as client:
        with pytest.raises(Refusal) as caught:
            list(client.say("nobody", "hi"))
        assert (caught.value.code, caught.value.field) == ("unknown_agent", "agent")
        assert caught.value.exit_code == 2
        with pytest.raises(Refusal) as caught:
            client.start("say", agent="echo", text="")
        assert (caught.value.code, caught.value.field) == ("bad_request", "text")
        with pytest.raises(OrderError):
            client.start("say", AgentsRequest())


def test_a_misspelt_field_is_refused_before_it_is_sent(hosted: Hosted) -> None:
    with connect(hosted.path) as client:
        with pytest.raises(Refusal, match="say has no field 'temprature'; did you mean 'temper"):
            client.request("say", agent="pim", text="Hi.", temprature=0.2)
        with pytest.raises(Refusal, match="feedback has no field 'x'; it has line, "):
            client.request("feedback", x=1)


def test_no_connection_file_says_how_to_start_a_server(tmp_path: Path) -> None:
    with pytest.raises(NoServerError, match="biblioteca serve"):
        connect(tmp_path / "none.json")


def test_a_damaged_connection_file_is_named(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"work": 5}', "\udcff"):
        path = tmp_path / "c.json"
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(NoServerError, match=r"c\.json"):
            connect(path)


def test_a_dead_server_is_reported_in_words() -> None:
    port = free_ports()[0]
    with pytest.raises(NoServerError, match="is the server running"):
        Client(Connection(work=f"tcp://127.0.0.1:{port}"), ClientConfig(timeout_s=0.5))


def test_a_server_that_falls_silent_ends_the_open_calls(tmp_path: Path) -> None:
    host = Hosted(tmp_path)
    config = ClientConfig(timeout_s=2.0, heartbeat_s=0.2)
    with connect(host.path, config) as client:
        stream = client.say("slow", "x")
        next(stream)
        host.stop()
        with pytest.raises((NoServerError, Refusal)):
            list(stream)
        with pytest.raises(NoServerError, match="has not answered"):
            client.request("agents")


def test_a_restarted_server_is_greeted_anew(tmp_path: Path) -> None:
    ports = free_ports()
    host = Hosted(tmp_path, ports)
    with connect(host.path) as client:
        before = client.welcome.session
        assert client.request("agents")
        host.stop()
        host = Hosted(tmp_path, ports)
        assert "".join(client.say("echo", "still here")) == "still here"
        assert client.welcome.session != before
    host.stop()


def listed(*hosts: Hosted, first: str = "") -> Connection:
    """A connection to the first of some servers, with the others as its list."""
    own, *others = [host.server.connection for host in hosts]
    if first:
        return Connection(work=first, control=first, telemetry=first, others=[own, *others])
    return own.model_copy(update={"others": others})


def test_a_connection_file_lists_other_servers_only_where_there_are_some(hosted: Hosted) -> None:
    assert "others" not in json.loads(hosted.path.read_text())
    both = Connection.model_validate_json(listed(hosted, hosted).model_dump_json())
    assert [other.work for other in both.others] == [hosted.server.connection.work]


def test_the_next_address_is_tried_where_nobody_answers(hosted: Hosted) -> None:
    connection = listed(hosted, first=f"tcp://127.0.0.1:{free_ports()[0]}")
    with Client(connection) as client:
        assert "".join(client.say("echo", "here instead")) == "here instead"


@pytest.fixture
def let_turn(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Clients stay at their first address until this is called: a busy machine connects late,
    and they would turn away before a test begins."""
    usual = wire._TURN_S
    monkeypatch.setattr(wire, "_TURN_S", 60.0)
    return lambda: monkeypatch.setattr(wire, "_TURN_S", usual)


def test_at_an_address_without_control_all_but_control_goes_on(
    tmp_path: Path, let_turn: Callable[[], None]
) -> None:
    ports = free_ports()
    first, second = Hosted(tmp_path / "1", ports), Hosted(tmp_path / "2")
    bare = Address(work=second.server.connection.work)
    connection = first.server.connection.model_copy(update={"others": [bare]})
    with Client(connection) as client, client._wire.subscribe(["log"]):
        client.request("stats")
        until(client, lambda: client._wire.calls.control_open)
        let_turn()
        first.stop()
        until(client, lambda: not client._wire.connected)
        waits = client.start("stats")  # for the control socket
        assert "".join(client.say("echo", "at the next")) == "at the next"
        spoken = client.start("say", agent="slow", text="on and on")
        until(client, lambda: len(spoken.text) > 0)
        client.cancel(spoken)
        for call, code in ((spoken, "cancelled"), (waits, "unsupported")):
            with pytest.raises(Refusal) as caught:
                list(client.parts(call))
            assert caught.value.code == code
        with pytest.raises(Refusal, match=f"{bare.work} has no control address, where 'stats'"):
            client.request("stats")
        with pytest.raises(Refusal, match=f"{bare.work} has no telemetry address"):
            client._wire.subscribe(["log"])
        first = Hosted(tmp_path / "1", ports)
        second.stop()
        until(client, lambda: client._wire.calls.control_open)
        client.request("stats")
    first.stop()


def until(client: Client, condition: Callable[[], bool]) -> None:
    """Poll, frame by frame, until it holds."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        client.poll()
        time.sleep(0.01)


@pytest.fixture
def dying() -> Iterator[str]:
    """A server's address: it takes a connection, hears hello, and is gone."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")

    def die() -> None:
        with router:
            router.poll(60_000)

    thread = threading.Thread(target=die)
    thread.start()
    yield f"tcp://127.0.0.1:{port}"
    thread.join()
    context.term()


def test_hello_is_repeated_where_the_server_that_got_it_has_died(
    hosted: Hosted, dying: str
) -> None:
    with Client(listed(hosted, first=dying), ClientConfig(timeout_s=30)) as client:
        assert "".join(client.say("echo", "here instead")) == "here instead"


async def test_the_asyncio_client_repeats_hello_too(server: Server, dying: str) -> None:
    connection = Connection(work=dying, others=[server.connection])
    async with AsyncClient(connection, ClientConfig(timeout_s=30)) as client:
        body = m.SayRequest(agent="echo", text="here instead")
        assert (await client.request("say", body)).text == "here instead"


def test_when_a_server_is_gone_its_client_goes_on_at_the_next_and_back(
    tmp_path: Path, let_turn: Callable[[], None]
) -> None:
    ports = free_ports()
    first, second = Hosted(tmp_path / "1", ports), Hosted(tmp_path / "2")
    with Client(listed(first, second)) as client:
        stream = client.say("slow", "on and on")
        next(stream)
        let_turn()
        first.stop()
        with pytest.raises((NoServerError, Refusal)):
            list(stream)
        assert "".join(client.say("echo", "at the next")) == "at the next"
        assert second.service.num_handled == 1
        first = Hosted(tmp_path / "1", ports)
        second.stop()
        # It may leave before the client knows that the second is gone: only with a key is it
        # sent again then.
        call = client.start("event", idem="k", kind="knock", text="Back.")
        assert [part.model_dump() for part in client.parts(call)] == [{"waiting": 1}]
        assert first.service.num_handled == 1
    first.stop()


async def test_a_watcher_is_taken_along_to_the_next_server(
    tmp_path: Path, let_turn: Callable[[], None]
) -> None:
    first, second = await asyncio.to_thread(two_servers, tmp_path)
    seen: list[str] = []
    async with AsyncClient(listed(first, second)) as client:

        async def watch() -> None:
            async for observation in client.watch(["log"]):
                seen.append(getattr(observation.body, "text", ""))

        watching = asyncio.create_task(watch())
        await until_heard(first, "of the first", seen)
        let_turn()
        await asyncio.to_thread(first.stop)
        body = m.SayRequest(agent="echo", text="at the next")
        assert (await client.request("say", body, idem="k")).text == "at the next"
        await until_heard(second, "of the second", seen)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    await asyncio.to_thread(second.stop)


def two_servers(folder: Path) -> tuple[Hosted, Hosted]:
    return Hosted(folder / "1"), Hosted(folder / "2")


async def until_heard(host: Hosted, text: str, seen: list[str]) -> None:
    """Publish until it is seen: a subscription takes a moment to arrive."""
    while text not in seen:
        event = Logged(level="info", text=text)
        host.loop.call_soon_threadsafe(host.server.publish, "log", event)
        await asyncio.sleep(0.05)


def test_credit_makes_fewer_and_longer_pieces(hosted: Hosted) -> None:
    with connect(hosted.path, ClientConfig(credit=1)) as client:
        assert list(client.say("echo", "a b c d")) == ["a", " b c d"]
        client.grant(10)
        assert list(client.say("echo", "a b c d")) == ["a", " b", " c", " d"]


async def test_async_client_streams_cancels_and_asks(server: Server, service: FakeService) -> None:
    async with AsyncClient(server.connection) as client:
        parts = [p async for p in client.stream("say", m.SayRequest(agent="echo", text="a b"))]
        assert [type(p).__name__ for p in parts] == ["Accepted", "Delta", "Delta", "SayReply"]
        stream = client.stream("say", m.SayRequest(agent="wait", text="x"))
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]  # an async generator
        async with asyncio.timeout(60):
            while service.num_running:
                await asyncio.sleep(0.01)
        assert (await client.request("agents", AgentsRequest())).agents
        with pytest.raises(Refusal, match="without keys"):
            await client.request("keys", KeysRequest())
        assert client.alive


async def test_many_requests_at_once_all_end_well(server: Server) -> None:
    async with AsyncClient(server.connection) as client:

        async def speak(number: int) -> str:
            body = m.SayRequest(agent="echo", text=f"line {number} of many")
            return str((await client.request("say", body)).text)

        texts = await asyncio.gather(*(speak(number) for number in range(30)))
    assert texts == [f"line {number} of many" for number in range(30)]


async def test_a_watcher_sees_the_past_the_present_and_a_gap(server: Server) -> None:
    server.publish("log", Logged(level="info", text="1"))
    seen: list[tuple[str, bool]] = []
    async with AsyncClient(server.connection) as client:

        async def watch() -> None:
            async for observation in client.watch(["log"]):
                assert isinstance(observation.body, Logged)
                seen.append((observation.body.text, observation.replayed))
                if len(seen) == 4:
                    return

        task = asyncio.create_task(watch())
        async with asyncio.timeout(60):
            while not server.publisher.is_watched("log") or not seen:
                await asyncio.sleep(0.01)
            server.publish("log", Logged(level="info", text="2"))
            while len(seen) < 2:
                await asyncio.sleep(0.01)
            watched, server.publisher._subscribed = server.publisher._subscribed, set()
            server.publish("log", Logged(level="info", text="3"))  # nobody gets this one
            server.publisher._subscribed = watched
            server.publish("log", Logged(level="info", text="4"))
            await task
    assert seen == [("1", True), ("2", False), ("3", True), ("4", True)]


async def test_keys_decide_who_may_come_in_and_do_what(
    service: FakeService, tmp_path: Path
) -> None:
    store = KeyStore.init(tmp_path / "keys")
    config = ServerConfig(keys=tmp_path / "keys", connection=tmp_path / "connection.json")
    server = Server(service, config)
    await server.start()
    player, stranger = new_pair(), new_pair()
    store.add("anna", "player", player.public)
    try:
        await check_roles(server, player, stranger)
    finally:
        await server.close()


async def check_roles(server: Server, player: KeyPair, stranger: KeyPair) -> None:
    quick = ClientConfig(timeout_s=30.0)
    known = server.connection.model_copy(update={"client_key": player})
    async with AsyncClient(known, quick) as anna, AsyncClient(server.connection) as owner:
        assert (anna.welcome.role, owner.welcome.role) == ("player", "admin")
        said = await anna.request("say", m.SayRequest(agent="echo", text="hi"))
        assert said.text == "hi"
        for t, body in (("keys", KeysRequest()), ("tick", m.TickRequest())):
            with pytest.raises(Refusal) as caught:
                await anna.request(t, body)
            assert caught.value.code == "forbidden"
        listed = await owner.request("keys", KeysRequest())
        assert {key.name for key in listed.keys} == {"owner", "anna"}
        await owner.request("keys", KeysRequest(op="revoke", name="anna"))
        with pytest.raises((Refusal, KeyRefusedError, NoServerError)):
            await anna.request("agents", AgentsRequest())
    for pair in (player, stranger, None):
        with pytest.raises(KeyRefusedError, match="key"):
            await AsyncClient(
                server.connection.model_copy(update={"client_key": pair}), quick
            ).open()
    wrong_server = server.connection.model_copy(update={"server_key": new_pair().public})
    with pytest.raises(KeyRefusedError, match="server's key"):
        await AsyncClient(wrong_server, quick).open()
    with pytest.raises(KeyRefusedError, match="without keys"):
        await AsyncClient(Connection(work=server.connection.work), quick).open()
