"""Scripted servers that drive a client through what SPEC.md asks of clients.

The client under test is a program, called as `PROGRAM CONNECTION_FILE SCENARIO`. It says one line
to the agent "echo" ("Good evening.") and prints one JSON object on its last line: `text` (the
line as shown to a player), `pieces` (how many it came in), `seed` of the reply; or, where the
scenario ends in an error, `error` (its code, or "no_server", "key_refused", "version").
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import zmq

from protocol.codec import PROTOCOL, decode
from protocol.conformance.probe import Failed, Message, expect
from protocol.connection import Connection, write_private
from protocol.errors import FrameError

SCENARIOS: dict[str, tuple[Callable[[Stage], None], Message]] = {}
_WORDS = ("Good", " evening", ",", " traveller.")
_LINE = "".join(_WORDS)
_LOOK_S = 0.1  # how often a waiting stage asks whether its client still runs
_LAST_WORDS_S = 0.5  # for what a client sent just before it ended


class Stage:
    """A ROUTER that plays a server, step by step; checks what the client sends.

    Attributes:
        client_ended: set once nothing more can come, so that nobody waits for it.
    """

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 500)
        port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self.connection = Connection(work=f"tcp://127.0.0.1:{port}", world="A stage")
        self._client = b""
        self._ids: set[str] = set()
        self.client_ended = threading.Event()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        self._context.term()

    def receive(self, wanted: str, timeout_s: float = 60) -> Message:
        """The next message of this type; pings before it are answered, control stays away.

        Raises:
            Failed: it doesn't come, or isn't as section 2 says.
        """
        while True:
            self._await(wanted, timeout_s)
            self._client, *frames = self._socket.recv_multipart()
            try:
                envelope = decode(frames)
            except FrameError as error:
                raise Failed(f"the client sent a bad frame: {error}") from error
            expect(envelope.id is not None, f"a {envelope.t!r} request without an id")
            expect(envelope.id not in self._ids, f"the id {envelope.id!r} was used twice")
            self._ids.add(envelope.id or "")
            if envelope.t == "ping" and wanted != "ping":
                self.send("pong", {}, re=envelope.id)
                continue
            expect(envelope.t == wanted, f"{envelope.t!r} came where {wanted!r} was due")
            return {"id": envelope.id, "body": envelope.body}

    def _await(self, wanted: str, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while True:
            ended = self.client_ended.is_set()  # asked first: its last message may just have come
            if self._socket.poll(round((_LAST_WORDS_S if ended else _LOOK_S) * 1000)):
                return
            expect(not ended, f"the client ended before it sent {wanted!r}")
            expect(time.monotonic() < deadline_s, f"the client sent no {wanted!r}")

    def send(self, t: str, body: Message, **fields: Any) -> None:
        """Send a message to the client that spoke last."""
        frame = msgpack.packb({"t": t, "body": body, **fields})
        self._socket.send_multipart([self._client, PROTOCOL, frame])

    def welcome(self) -> Message:
        """Take the hello and open a session; returns the hello."""
        hello = self.receive("hello")
        expect(1 in hello["body"].get("versions", [1]), "hello doesn't offer version 1")
        self._ids.clear()  # a new session begins
        body = {"version": 1, "spec": "1.0", "session": "stage", "token": "t", "role": "game"}
        self.send("welcome", body, re=hello["id"])
        return hello

    def say(self) -> Message:
        """Take the say request."""
        request = self.receive("say")
        expect(request["body"].get("agent") == "echo", "say names another agent")
        expect(request["body"].get("text") == "Good evening.", "say has another text")
        return request

    def speak(self, re: str, *, accepted: bool = True, **reply: Any) -> None:
        """Answer a say request in the ordinary way."""
        if accepted:
            self.send("accepted", {"line": "L1", "agent": "echo", "tier": "npc"}, re=re)
        for seq, word in enumerate(_WORDS):
            self.send("delta", {"text": word}, re=re, seq=seq)
        self.done(re, len(_WORDS), **reply)

    def done(self, re: str, seq: int, **reply: Any) -> None:
        """End a line."""
        body = {"line": "L1", "agent": "echo", "tier": "npc", "text": _LINE, "seed": 7, **reply}
        self.send("done", body, re=re, seq=seq)


def scenario(**outcome: Any) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
    """Register a scenario under its function's name, with what the client must print."""

    def register(function: Callable[[Stage], None]) -> Callable[[Stage], None]:
        SCENARIOS[function.__name__] = (function, outcome)
        return function

    return register


@scenario(text=_LINE, pieces=4, seed=7)
def plain(stage: Stage) -> None:
    """A line in the ordinary way."""
    stage.welcome()
    stage.speak(stage.say()["id"])


@scenario(text=_LINE, pieces=4, seed=7)
def unaccepted(stage: Stage) -> None:
    """`accepted` may be left out (section 4)."""
    stage.welcome()
    stage.speak(stage.say()["id"], accepted=False)


@scenario(text=_LINE, pieces=4, seed=7)
def newer_server(stage: Stage) -> None:
    """Unknown fields, types and notices are ignored (sections 2 and 10)."""
    stage.welcome()
    request = stage.say()
    stage.send("notice", {"kind": "engine", "message": "npc is restarting", "colour": 1})
    stage.send("weather", {"rain": True})
    stage.send("gesture", {"name": "wave"}, re=request["id"])
    stage.speak(request["id"], mood_colour="green", nested={"a": [1, None]})


@scenario(text=_LINE, pieces=4, seed=7)
def others_messages(stage: Stage) -> None:
    """Messages of other requests may come between, and after the end (section 4)."""
    stage.welcome()
    request = stage.say()
    stage.send("delta", {"text": "not yours"}, re="nobody", seq=0)
    stage.speak(request["id"])
    stage.send("delta", {"text": "too late"}, re=request["id"], seq=5)


@scenario(text=_LINE, pieces=0, seed=7)
def no_pieces(stage: Stage) -> None:
    """A stream may have no delta at all (section 4)."""
    stage.welcome()
    stage.done(stage.say()["id"], 0)


@scenario(text="I was lost in thought.", pieces=1, seed=7)
def fallback(stage: Stage) -> None:
    """A fallback line replaces what was shown (section 4)."""
    stage.welcome()
    request = stage.say()
    stage.send("delta", {"text": "Goo"}, re=request["id"], seq=0)
    stage.done(request["id"], 1, text="I was lost in thought.", fallback=True, cause="expired")


@scenario(error="busy")
def refused(stage: Stage) -> None:
    """An error ends a request, also one without `seq` (section 4)."""
    stage.welcome()
    body = {"code": "busy", "message": "too many", "retryable": True, "retry_ms": 10_000}
    stage.send("error", body, re=stage.say()["id"])


@scenario(error="failed")
def broken_off(stage: Stage) -> None:
    """An error may come in the middle of a stream (section 4)."""
    stage.welcome()
    request = stage.say()
    stage.send("delta", {"text": "Goo"}, re=request["id"], seq=0)
    stage.send("error", {"code": "failed", "message": "engine"}, re=request["id"], seq=1)


@scenario(error="bad_frame")
def gap(stage: Stage) -> None:
    """A number left out is a fault of the server's, never passed over (section 4)."""
    stage.welcome()
    request = stage.say()
    stage.send("delta", {"text": "Good"}, re=request["id"], seq=0)
    stage.send("delta", {"text": " traveller."}, re=request["id"], seq=2)


@scenario(text=_LINE, pieces=4, seed=7)
def session_lost(stage: Stage) -> None:
    """`no_session` may come at any moment: hello again, then send again (section 3)."""
    stage.welcome()
    request = stage.say()
    body = {"code": "no_session", "message": "say hello first", "retryable": True}
    stage.send("error", body, re=request["id"])
    stage.welcome()
    stage.speak(stage.say()["id"])


@scenario(error="version")
def other_version(stage: Stage) -> None:
    """No version in common is told in words (section 3)."""
    hello = stage.receive("hello")
    stage.send("error", {"code": "bad_version", "message": "speaks [2]"}, re=hello["id"])


@scenario(error="no_server")
def nobody_home(stage: Stage) -> None:
    """A server that never answers is told in words (section 3)."""
    stage.receive("hello")


@scenario(error="key_refused")
def foreign_key(stage: Stage) -> None:
    """A server whose key is another is told in words (section 9)."""


def _connection_for(name: str, stage: Stage) -> Connection:
    if name != "foreign_key":
        return stage.connection
    public, secret = zmq.curve_keypair()
    client = {"public": public.decode(), "secret": secret.decode()}
    expected, _ = zmq.curve_keypair()
    return Connection.model_validate(
        {**stage.connection.model_dump(), "server_key": expected.decode(), "client_key": client}
    )


def play(program: list[str], name: str, timeout_s: float = 120) -> None:
    """Run one scenario against a client program.

    Raises:
        Failed: the client doesn't do what SPEC.md says.
    """
    script, outcome = SCENARIOS[name]
    stage = Stage()
    faults: list[Failed] = []

    def act() -> None:
        try:
            script(stage)
        except Failed as error:
            faults.append(error)

    thread = threading.Thread(target=act, name=f"scenario {name}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "connection.json"
        write_private(path, _connection_for(name, stage).model_dump())
        thread.start()
        try:
            done = subprocess.run(
                [*program, str(path), name], capture_output=True, text=True, timeout=timeout_s
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{name}: the client never ended") from error
        except OSError as error:
            raise Failed(f"{name}: {program[0]!r} can't be run: {error.strerror}") from error
        finally:
            stage.client_ended.set()
            thread.join(timeout_s)
            stage.close()
    shown = f"printed {done.stdout[-500:]!r} {done.stderr[-500:]!r}, exit code {done.returncode}"
    if faults:
        raise Failed(f"{name}: {faults[0]}; it {shown}")
    lines = done.stdout.strip().splitlines()
    try:
        printed = json.loads(lines[-1])
    except (IndexError, ValueError):
        raise Failed(f"{name}: {shown}") from None
    expect(printed == outcome, f"{name}: the client shows {printed}, due was {outcome}")


def run(program: list[str]) -> Iterator[tuple[str, str | None]]:
    """Every scenario's name and promise, and what is wrong (None where nothing is)."""
    for name, (script, _) in SCENARIOS.items():
        promise = f"{name}: {script.__doc__}"
        try:
            play(program, name)
        except Failed as error:
            yield promise, str(error)
        else:
            yield promise, None
