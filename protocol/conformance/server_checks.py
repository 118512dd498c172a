"""What any server must do, section by section of SPEC.md, over whatever carries frames."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgpack

from protocol.codec import PROTOCOL
from protocol.conformance.probe import Failed, OverZeroMQ, Probe, Transport, code, expect
from protocol.connection import Connection

_LATE_S = 5.0  # SPEC.md says 0.1; a busy machine is not the server's fault
_VECTORS = Path(__file__).parent.parent / "schema" / "vectors.json"
CHECKS: dict[str, Callable[[Site], None]] = {}  # by section and promise


@dataclass(frozen=True, slots=True)
class Site:
    """The server under test: the ways to its sockets, and an agent that can be spoken to."""

    open: Callable[[str], Transport]  # by channel, "work" or "control"
    agent: str

    def probe(self, channel: str = "work") -> Probe:
        """A probe without a session."""
        return Probe(self.open(channel))

    def say(self, text: str = "Good evening.", **fields: object) -> dict[str, object]:
        """A say request's body."""
        return {"agent": self.agent, "text": text, "seed": 1, "max_tokens": 32, **fields}


def check(section: str) -> Callable[[Callable[[Site], None]], Callable[[Site], None]]:
    """Register a check under its section of SPEC.md and its docstring's promise."""

    def register(function: Callable[[Site], None]) -> Callable[[Site], None]:
        CHECKS[f"{section} {function.__doc__}"] = function
        return function

    return register


@check("2")
def bad_frames(site: Site) -> None:
    """Golden bad frames are refused, and the server serves on."""
    invalid = json.loads(_VECTORS.read_text(encoding="utf-8"))["invalid"]
    with site.probe() as probe:
        probe.hello()
        for vector in invalid:
            probe.send_frames(PROTOCOL, bytes.fromhex(vector["msgpack"]))
            answer = probe.receive()
            expect(code(answer) == "bad_frame", f"{vector['why']} was answered by {answer}")
        expect(code(probe.ask("ping")) == "pong", "no pong after bad frames")


@check("2")
def unknown_fields(site: Site) -> None:
    """Unknown fields are ignored, nil is absent."""
    with site.probe() as probe:
        probe.hello(colour="green")
        frame = {"t": "ping", "id": "u1", "body": {"x": [1, {"y": None}]}, "z": 5, "ttl_ms": None}
        probe.send_frames(PROTOCOL, msgpack.packb(frame))
        expect(code(probe.receive()) == "pong", "unknown fields were not ignored")


@check("2")
def frame_count(site: Site) -> None:
    """A message has two frames."""
    with site.probe() as probe:
        probe.hello()
        for frames in ((PROTOCOL,), (PROTOCOL, msgpack.packb({"t": "ping", "id": "1"}), b"x")):
            probe.send_frames(*frames)
            expect(code(probe.receive()) == "bad_frame", f"{len(frames)} frames were not refused")


@check("3")
def hello_first(site: Site) -> None:
    """Nothing is served before hello."""
    with site.probe() as probe:
        expect(code(probe.ask("agents")) == "no_session", "agents was served without a session")


@check("3")
def welcome(site: Site) -> None:
    """The welcome tells session, token, role, requests and limits."""
    with site.probe() as probe:
        fields = probe.hello()
        for name in ("session", "token", "role", "version"):
            expect(fields.get(name), f"the welcome has no {name}")
        expect("ping" in fields.get("requests", []), "ping is missing in welcome.requests")


@check("3")
def versions(site: Site) -> None:
    """No common version is answered with bad_version."""
    with site.probe() as probe:
        expect(code(probe.ask("hello", {"versions": [99]})) == "bad_version", "version 99 passed")
        probe.send_frames(b"NPC/99", msgpack.packb({"t": "hello", "id": "1"}))
        expect(code(probe.receive()) == "bad_version", "NPC/99 was not refused")


@check("3")
def token(site: Site) -> None:
    """A session is joined with its token only."""
    with site.probe() as owner, site.probe() as thief:
        session = owner.hello()["session"]
        answer = thief.ask("hello", {"session": session, "token": "wrong"})
        expect(code(answer) == "forbidden", "a wrong token was accepted")


@check("3")
def control(site: Site) -> None:
    """Control joins the session and answers a ping."""
    with site.probe() as work, site.probe("control") as side:
        fields = work.hello()
        joined = side.hello(session=fields["session"], token=fields["token"])
        expect(joined.get("resumed"), "control got another session")
        expect(code(side.ask("ping")) == "pong", "no pong on control")


@check("3")
def bye(site: Site) -> None:
    """Bye ends open requests, then the session."""
    with site.probe() as probe:
        probe.hello()
        target = probe.send("say", site.say(max_tokens=96))
        bye, ends = probe.send("bye"), list[str]()
        while bye not in ends:
            message = probe.receive()
            if message["t"] in ("done", "error"):
                ends.append(str(message.get("re")))
        expect(ends == [target, bye], f"the ends came in the order {ends}")
        expect(code(probe.ask("agents")) == "no_session", "the session outlived its bye")


@check("4")
def stream(site: Site) -> None:
    """A stream is accepted, numbered from 0, and ended once."""
    with site.probe() as probe:
        probe.hello()
        messages = probe.finish(probe.send("say", site.say()))
        types = [message["t"] for message in messages]
        expect(types[-1] == "done", f"the line ended with {messages[-1]}")
        expect(types.count("accepted") <= 1, "accepted came twice")
        expect("accepted" not in types[1:], "accepted was not first")
        numbered = [m["seq"] for m in messages if m["t"] != "accepted"]
        expect(numbered == list(range(len(numbered))), f"the numbers are {numbered}")
        reply = messages[-1]["body"]
        words = "".join(m["body"]["text"] for m in messages if m["t"] == "delta")
        expect(reply.get("fallback") or words == reply["text"], "deltas and text differ")
        expect(code(probe.ask("ping")) == "pong", "something followed the terminal message")


@check("4")
def bad_requests(site: Site) -> None:
    """Unknown types and wrong fields get one clear error."""
    with site.probe() as probe:
        probe.hello()
        expect(code(probe.ask("juggle")) == "unknown_type", "an unknown type passed")
        for body, field in (
            ({"agent": site.agent}, "text"),
            (site.say(text=""), "text"),
            (site.say(text="x" * 100_000), "text"),
            (site.say(temperature=-1), "temperature"),
            ({**site.say(), "agent": "../../etc"}, "agent"),
        ):
            answer = probe.ask("say", body)
            expect(code(answer) == "bad_request", f"a wrong {field} was answered by {answer}")
            expect(answer["body"].get("field") == field, f"the error doesn't name {field}")
        answer = probe.ask("say", {**site.say(), "agent": "nobody-of-that-name"})
        expect(code(answer) == "unknown_agent", "an unknown agent was not named so")


@check("4")
def duplicate(site: Site) -> None:
    """An id is used once."""
    with site.probe() as probe:
        probe.hello()
        probe.finish(probe.send("say", site.say(), id="same"))
        probe.send("say", site.say(), id="same")
        answer = probe.receive()
        expect(code(answer) == "duplicate", "an id was accepted twice")
        expect(answer.get("re") is None, "duplicate looks like the end of the first request")


@check("5.1")
def deadline(site: Site) -> None:
    """A deadline is kept."""
    with site.probe() as probe:
        probe.hello()
        probe.ask("ping")
        before = time.monotonic()
        answer = probe.ask("say", site.say(), ttl_ms=1)
        late_s = time.monotonic() - before
        expect(late_s < _LATE_S, f"1 ms was answered after {late_s:.2f} s")
        expect(code(answer) in ("expired", "done"), f"1 ms was answered by {answer}")


@check("5.2")
def idempotency(site: Site) -> None:
    """The same idem key runs once, another request under it is refused."""
    key = f"conform-{id(site):x}"
    with site.probe() as probe, site.probe() as again:
        probe.hello()
        again.hello()
        first = probe.ask("say", site.say(), idem=key)
        second = again.ask("say", site.say(), idem=key)
        expect(first["body"] == second["body"], "the stored answer differs")
        other = probe.ask("say", site.say("Something else."), idem=key)
        expect(code(other) == "conflict", "the key stood for two requests")


@check("5.3")
def cancel(site: Site) -> None:
    """Cancel is harmless twice and ends the target once."""
    with site.probe() as probe:
        probe.hello()
        target = probe.send("say", site.say(max_tokens=96))
        for number in range(2):
            probe.send("cancel", {"target": target}, id=f"k{number}")
        ends: dict[str, list[str]] = {}
        while sum(map(len, ends.values())) < 3:
            message = probe.receive()
            if message["t"] in ("done", "error"):
                ends.setdefault(message["re"], []).append(code(message))
        expect(ends[target] in (["cancelled"], ["done"]), f"the target ended with {ends[target]}")
        expect(code(probe.ask("ping")) == "pong", "something followed the end")


@check("5.4")
def resume(site: Site) -> None:
    """A lost client resumes without loss."""
    lost = site.probe()
    fields = lost.hello(resume_ms=20_000)
    target = lost.send("say", site.say())
    lost.receive()
    lost.close()
    with site.probe() as probe:
        back = probe.hello(session=fields["session"], token=fields["token"])
        expect(back.get("resumed"), "the session was not resumed")
        expect(code(probe.ask("resume", {"target": target}, id="again")) == "done", "no resume")
        messages = probe.finish(target)
        numbered = [m["seq"] for m in messages if m["t"] != "accepted"]
        expect(numbered == list(range(len(numbered))), f"the numbers are {numbered}")
        words = "".join(m["body"]["text"] for m in messages if m["t"] == "delta")
        reply = messages[-1]["body"]
        expect(reply.get("fallback") or words == reply["text"], "text was lost")
        answer = probe.ask("resume", {"target": "never-sent"})
        expect(code(answer) == "not_found", "an unknown request was resumed")


@check("5.5")
def credit(site: Site) -> None:
    """Without credit text is held back, merged, and never lost."""
    with site.probe() as probe:
        probe.hello(credit=1)
        messages = probe.finish(probe.send("say", site.say()))
        deltas = [m["body"]["text"] for m in messages if m["t"] == "delta"]
        expect(len(deltas) <= 2, f"{len(deltas)} deltas came on a credit of 1")
        reply = messages[-1]["body"]
        expect(reply.get("fallback") or "".join(deltas) == reply["text"], "text was lost")


@check("9")
def names(site: Site) -> None:
    """Names are never paths."""
    with site.probe() as probe:
        probe.hello()
        for name in ("../x", "a/b", "", "a\x00b", "A b", "x" * 65):
            answer = probe.ask("save", {"slot": name})
            expect(code(answer) in ("bad_request", "forbidden"), f"the slot {name!r} was accepted")


def find_agent(connection: Connection) -> str:
    """A character to speak to.

    Raises:
        Failed: the server hosts none.
    """
    with Probe(connection) as probe:
        probe.hello()
        agents = probe.ask("agents")["body"].get("agents", [])
    for info in agents:
        if info["tier"] == "npc":
            return str(info["agent"])
    raise Failed("the server hosts no character to speak to")


def run(connection: Connection, agent: str | None = None) -> Iterator[tuple[str, str | None]]:
    """Every check's name, and what is wrong (None where nothing is)."""
    site = Site(partial(OverZeroMQ, connection), agent or find_agent(connection))
    for name, function in CHECKS.items():
        try:
            function(site)
        except Failed as error:
            yield name, str(error)
        else:
            yield name, None
