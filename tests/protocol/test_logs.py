from __future__ import annotations

import asyncio
import json
import logging
import sys

import pytest

from protocol import logs
from protocol.async_client import AsyncClient
from protocol.errors import Refusal
from protocol.messages import SayRequest
from protocol.server import Server
from protocol.telemetry import Logged
from tests.protocol.fake_service import FakeService


def record(text: str, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("biblioteca.wire", level, "", 0, text, (), None)


def test_a_plain_line_stays_one_line_whatever_it_says() -> None:
    line = logs.PlainLines().format(record("x\r\nERROR forged\x1b[2J\u202e\u2028\x9b"))
    assert line == r"WARNING x\r\nERROR forged\x1b[2J\u202e\u2028\x9b"


def test_a_json_line_says_who_when_and_for_which_request() -> None:
    made = record("x\n\x1b[2J")
    made.request, made.fields = "r7", {"ms": 5}
    line = logs.JsonLines().format(made)
    document = json.loads(line)
    assert document.pop("time").endswith("+00:00")
    assert document == {
        "level": "warning",
        "logger": "biblioteca.wire",
        "request": "r7",
        "message": "x\n\x1b[2J",
        "fields": {"ms": 5},
    }
    assert line.isprintable()


def test_a_traceback_belongs_to_its_line() -> None:
    try:
        raise ValueError("a\nb\x1b")
    except ValueError:
        made = record("failed")
        made.exc_info = sys.exc_info()
    plain = logs.PlainLines().format(made).splitlines()
    assert plain[0] == "WARNING failed"
    assert all(line.startswith("    ") and line.isprintable() for line in plain[1:])
    assert "ValueError: a\nb" in json.loads(logs.JsonLines().format(made))["traceback"]


async def test_what_a_service_logs_carries_its_request(
    server: Server, service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[str, str]] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append((logs.of_request(record), record.getMessage()))

    listener = Listener()
    logging.getLogger("biblioteca").addHandler(listener)
    caplog.set_level(logging.DEBUG, "biblioteca")
    try:
        async with AsyncClient(server.connection) as client:
            with pytest.raises(Refusal):
                await client.request("say", SayRequest(agent="broken", text="x"))
            await client.request("say", SayRequest(agent="echo", text="x"))
    finally:
        logging.getLogger("biblioteca").removeHandler(listener)
    first, second = service.closed
    assert [request for request, text in seen if "failed" in text] == [first]
    ended = [(request, text.split(": ")[-1]) for request, text in seen if "ended after" in text]
    assert ended == [(first, "internal"), (second, "done")]


async def test_watchers_see_the_log(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "biblioteca")
    async with AsyncClient(server.connection) as client:
        events = client.watch(["log"])
        waiting = asyncio.ensure_future(anext(events))
        while not server.publisher.is_watched("log"):
            await asyncio.sleep(0.01)
        logging.getLogger("biblioteca.roles").info("the lamp is out")
        observed = await asyncio.wait_for(waiting, 30)
        while not (isinstance(observed.body, Logged) and "lamp" in observed.body.text):
            observed = await asyncio.wait_for(anext(events), 30)
        assert (observed.topic, observed.body.level) == ("log", "info")
        await events.aclose()  # type: ignore[attr-defined]  # an async generator underneath
