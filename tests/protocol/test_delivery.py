from __future__ import annotations

from protocol.server import Server
from tests.protocol.fake_service import FakeService
from tests.protocol.raw import Raw
from tests.protocol.test_server import collect


async def test_a_lost_client_resumes_where_it_was(server: Server) -> None:
    first = Raw(server.connection)
    await first.hello(resume_ms=60_000)
    text = " ".join(f"w{n}" for n in range(200))
    target = await first.send("say", {"agent": "echo", "text": text})
    got = [await first.receive() for _ in range(10)]
    session, token = first.session, first.token
    first.close()
    async with Raw(server.connection) as second:
        welcome = await second.hello(session=session, token=token)
        assert welcome["body"]["resumed"] is True
        await second.send("resume", {"target": target, "seq": 9}, id="again")
        assert (await second.receive())["re"] == "again"
        rest = await collect(second, target)
    # What was said while nobody listened may come merged, but nothing is missing or skipped.
    assert [m["seq"] for m in rest] == list(range(9, 9 + len(rest)))
    words = "".join(m["body"]["text"] for m in [*got[1:], *rest[:-1]])
    assert words == text == rest[-1]["body"]["text"]


async def test_a_session_is_joined_only_with_its_token(server: Server) -> None:
    async with Raw(server.connection) as owner, Raw(server.connection) as thief:
        await owner.hello()
        error = await thief.ask("hello", {"session": owner.session, "token": "guess"})
        assert error["body"]["code"] == "forbidden"
        assert (await owner.ask("ping"))["t"] == "pong"


async def test_the_same_idem_key_runs_once(server: Server, service: FakeService) -> None:
    body = {"agent": "echo", "text": "only once"}
    async with Raw(server.connection) as client, Raw(server.connection) as restarted:
        await client.hello()
        first = await collect(client, await client.send("say", body, idem="k1"))
        await restarted.hello()
        again = await collect(restarted, await restarted.send("say", body, idem="k1"))
        assert [m["body"] for m in again] == [m["body"] for m in first]
        assert service.num_handled == 1
        other = await client.ask("say", {"agent": "echo", "text": "else"}, idem="k1")
        assert other["body"]["code"] == "conflict"


async def test_a_running_request_moves_to_the_newer_id(
    server: Server, service: FakeService
) -> None:
    async with Raw(server.connection) as client:
        await client.hello()
        body = {"agent": "wait", "text": "x"}
        await client.send("say", body, id="old", idem="k")
        await client.receive()
        await client.send("say", body, id="new", idem="k")
        messages = [await client.receive() for _ in range(2)]
        assert [(m["t"], m["re"]) for m in messages] == [("error", "old"), ("accepted", "new")]
        assert service.num_handled == 1


async def test_a_repeated_id_is_refused_without_ending_the_first(server: Server) -> None:
    async with Raw(server.connection) as client:
        await client.hello()
        await client.send("say", {"agent": "wait", "text": "x"}, id="same")
        await client.receive()
        await client.send("say", {"agent": "wait", "text": "x"}, id="same")
        error = await client.receive()
        assert (error["body"]["code"], error.get("re")) == ("duplicate", None)
        assert (await client.ask("ping"))["body"]["open_requests"] == 1


async def test_without_credit_text_waits_and_comes_as_one(server: Server) -> None:
    async with Raw(server.connection) as client:
        await client.hello(credit=2)
        messages = await collect(
            client, await client.send("say", {"agent": "echo", "text": "a b c d e f"})
        )
        deltas = [m["body"]["text"] for m in messages if m["t"] == "delta"]
        assert deltas == ["a", " b", " c d e f"]
        assert [m["seq"] for m in messages[1:]] == [0, 1, 2, 3]


async def test_a_slow_reader_loses_no_text_and_stops_no_one(
    server: Server, service: FakeService
) -> None:
    async with (
        Raw(server.connection, RCVHWM=4, RCVBUF=4096) as slow,
        Raw(server.connection) as quick,
    ):
        await slow.hello()
        await quick.hello()
        text = " ".join("x" * 500 for _ in range(15))  # one line; many of them fill the pipe
        ids = [await slow.send("say", {"agent": "echo", "text": text}) for _ in range(30)]
        for _ in range(50):
            assert (await quick.ask("say", {"agent": "echo", "text": "hi"}))["t"] == "done"
        texts: dict[str, str] = {}
        ends: dict[str, str] = {}
        seqs: dict[str, list[int]] = {}
        while len(ends) < len(ids):
            message = await slow.receive()
            if message["t"] == "delta":
                texts[message["re"]] = texts.get(message["re"], "") + message["body"]["text"]
            if "seq" in message:
                seqs.setdefault(message["re"], []).append(message["seq"])
            if message["t"] == "done":
                ends[message["re"]] = message["body"]["text"]
        assert texts == ends
        assert all(numbers == list(range(len(numbers))) for numbers in seqs.values())


async def test_too_many_requests_at_once_are_told_to_wait(server: Server) -> None:
    async with Raw(server.connection) as client:
        await client.hello()
        for _ in range(32):
            await client.send("say", {"agent": "wait", "text": "x"})
        error = await client.ask("say", {"agent": "wait", "text": "x"})
        assert error["body"]["code"] == "busy"
        assert error["body"]["retryable"] is True
        assert error["body"]["retry_ms"] > 0
