"""What the console costs: its CPU time and what it does to a game's streams.

    python bench/console.py [--agents 200] [--lines 50] [--seconds 5]

A server with a service that needs no model, a game that keeps so many lines a second streaming,
and the console in a terminal of its own (a pty, 160x50), each in its own process. Rounds of three
kinds alternate: without the console, with it, and with a dumb process that uses as much processor
time as the console has just used, in as many bursts, but is connected to nothing. The difference
of the last two is what being watched costs a game; that of the first and the last is what any
other program beside it costs. A delta carries the time at which it was due, so that a server too
busy to make it in time is seen, too; the game subtracts. What the server's event loop does without
a pause is measured in processor time as well, which other programs hardly change: no delta can
wait longer for a watcher than such a piece takes. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import gc
import json
import os
import pty
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

from protocol.administration import AgentInfo, AgentsReply, AgentsRequest, StatsReply
from protocol.client import AsyncClient
from protocol.errors import Code, Refusal
from protocol.messages import Accepted, AdapterUse, Body, Delta, SayReply, SayRequest, Usage
from protocol.server import Server, ServerConfig
from protocol.service import Peer, Request
from protocol.telemetry import LineDelta, LineEnded, LineStarted

DELTAS = 30  # per line, over one second: the pace of a small model
SIZE = (50, 160)
SCREENS = ("1", "9", "2", "1", "9", "2", "1", "9")  # agents, log, talk
REDRAWS_PER_S = 10


class Pieces:
    """How long, in processor time, this thread's event loop is at one callback after another."""

    def __init__(self) -> None:
        self.seconds = list[float]()
        run = asyncio.Handle._run
        thread = threading.get_ident()

        def timed(handle: asyncio.Handle) -> None:
            began = time.thread_time()
            run(handle)
            if threading.get_ident() == thread:  # the control socket has a loop of its own
                self.seconds.append(time.thread_time() - began)

        asyncio.Handle._run = timed  # type: ignore[assignment, method-assign]

    def take(self) -> dict[str, float]:
        """Figures of the pieces since the last time, in milliseconds."""
        pieces, self.seconds = sorted([0.0, *self.seconds]), []
        return {
            "busy_ms": round(1000 * sum(pieces)),
            "over_1_ms": sum(piece > 0.001 for piece in pieces),
            "longest_ms": round(1000 * pieces[-1], 2),
        }


class Chatter:
    """Agents that say the time, piece by piece."""

    def __init__(self, num_agents: int) -> None:
        self.names = [f"agent{i:03}" for i in range(num_agents)]
        self.publish: Any = None
        self.num_lines = 0

    async def handle(self, peer: Peer, request: Request) -> AsyncIterator[Body]:
        """Answer what a game and a console ask."""
        if request.type == "say":
            async for part in self._speak(cast(SayRequest, request.body)):
                yield part
        elif request.type == "agents":
            asked = cast(AgentsRequest, request.body)
            first = self.names.index(asked.after) + 1 if asked.after else 0
            agents = [
                AgentInfo(agent=name, name=name.title(), tier="npc", state="ready",
                          adapter=AdapterUse(name=name))
                for name in self.names[first:][: asked.limit]
            ]  # fmt: skip
            yield AgentsReply(world="bench", agents=agents)
        elif request.type == "stats":
            yield StatsReply()
        else:
            raise Refusal(Code.UNSUPPORTED, f"the bench has no {request.type}")

    async def _speak(self, body: SayRequest) -> AsyncIterator[Body]:
        self.num_lines += 1
        line, whole = f"l{self.num_lines}", ""
        start = LineStarted(
            line=line, agent=body.agent, tier="npc", speaker="player", text=body.text
        )
        self.publish("line_started", start)
        yield Accepted(line=line, agent=body.agent, tier="npc")
        due = time.monotonic()
        for _ in range(DELTAS):
            due += 1 / DELTAS
            await asyncio.sleep(due - time.monotonic())
            text = f"{due:.6f} "
            whole += text
            self.publish("line_delta", LineDelta(line=line, agent=body.agent, text=text))
            yield Delta(text=text)
        usage = Usage(prompt_tokens=200, cached_tokens=150, completion_tokens=DELTAS,
                      ttft_ms=33.0, tokens_per_s=float(DELTAS))  # fmt: skip
        reply = SayReply(line=line, agent=body.agent, tier="npc", text=whole, usage=usage)
        ended = {**reply.model_dump(), "speaker": "player", "said": body.text}
        self.publish("line_ended", LineEnded.model_validate(ended))
        yield reply


async def play(connection: Path, lines_per_s: int, seconds: float, num_agents: int) -> None:
    """The game: print every delta's age in milliseconds as one JSON list."""
    ages: list[float] = []
    chance = random.Random(0)

    async def one(client: AsyncClient) -> None:
        request = SayRequest(agent=f"agent{chance.randrange(num_agents):03}", text="And then?")
        async with aclosing(cast(Any, client.stream("say", request))) as parts:
            async for part in parts:
                if isinstance(part, Delta):
                    now = time.monotonic()
                    ages.extend(1000 * (now - float(sent)) for sent in part.text.split())

    async with contextlib.AsyncExitStack() as stack:
        # One session may have 32 requests open; a game with more characters opens more.
        clients = [await stack.enter_async_context(AsyncClient(connection)) for _ in range(8)]
        began, tasks = time.monotonic(), list[asyncio.Task[None]]()
        for i in range(round(seconds * lines_per_s)):
            await asyncio.sleep(max(0.0, began + i / lines_per_s - time.monotonic()))
            tasks.append(asyncio.create_task(one(clients[i % len(clients)])))
        await asyncio.gather(*tasks)
    print(json.dumps({"ages": ages, "lines": len(tasks)}))


class ConsoleProcess:
    """The real command in a real terminal; its output is read and thrown away."""

    def __init__(self, connection: Path, keys: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
        command = [sys.executable, "-m", "biblioteca", "console", "--connect", str(connection)]
        environment = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self._process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)
        self.num_bytes = 0
        threading.Thread(target=self._drain, daemon=True).start()
        time.sleep(3.0)
        os.write(self._master, keys.encode())
        time.sleep(0.5)

    def _drain(self) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone when the process is
            while data := os.read(self._master, 65_536):
                self.num_bytes += len(data)

    def cpu_s(self) -> float:
        """Processor time used so far, in seconds."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)
        os.close(self._master)


class Burner:
    """A process that uses a share of a core in bursts, as the console does, and is nobody."""

    def __init__(self, share: float) -> None:
        self._process = subprocess.Popen([sys.executable, __file__, "--burn", str(share)])

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(10)


def burn(share: float) -> None:
    """Use so much of a core for ever, at the console's priority."""
    os.nice(10)
    while True:
        end = time.monotonic() + 1 / REDRAWS_PER_S
        busy_until = time.process_time() + share / REDRAWS_PER_S
        while time.process_time() < busy_until:
            pass
        time.sleep(max(0.0, end - time.monotonic()))


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Rounds without the console, with it on some screen, and with its like."""
    with tempfile.TemporaryDirectory() as folder:
        connection = Path(folder) / "connection.json"
        service = Chatter(arguments.agents)
        server = Server(service, ServerConfig(connection=connection))
        await server.start()
        service.publish = server.publish
        gc.collect()
        gc.freeze()  # as `biblioteca serve` does
        pieces = Pieces()
        rounds = list[dict[str, Any]]()
        for screen in SCREENS:
            rounds.append(await _round(arguments, connection, pieces, "alone"))
            console = await asyncio.to_thread(ConsoleProcess, connection, screen)
            before, began = console.cpu_s(), time.monotonic()
            rounds.append(await _round(arguments, connection, pieces, "console"))
            cores = (console.cpu_s() - before) / (time.monotonic() - began)
            rounds[-1] |= {"screen": screen, "cores": round(cores, 3)}
            await asyncio.to_thread(console.close)
            burner = Burner(cores)
            rounds.append(await _round(arguments, connection, pieces, "burner"))
            burner.close()
            for shown in rounds[-3:]:
                print(shown, flush=True)
        await server.close()
    return _summary(arguments, rounds)


async def _round(
    arguments: argparse.Namespace, connection: Path, pieces: Pieces, beside: str
) -> dict[str, Any]:
    """One game, and the ages of its deltas."""
    game = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--play", str(connection), "--lines", str(arguments.lines),
        "--seconds", str(arguments.seconds), "--agents", str(arguments.agents),
        stdout=subprocess.PIPE,
    )  # fmt: skip
    await asyncio.sleep(0)
    pieces.take()  # to start a process takes a while, and is no business of the server's
    output, _ = await game.communicate()
    played = json.loads(output)
    ages = sorted(played["ages"])
    return {
        "beside": beside, "lines_per_s": round(played["lines"] / arguments.seconds, 1),
        "deltas": len(ages), "p50_ms": round(statistics.median(ages), 2),
        "p95_ms": round(ages[int(0.95 * len(ages))], 2),
        "p99_ms": round(ages[int(0.99 * len(ages))], 2), "loop": pieces.take(),
    }  # fmt: skip


def _summary(arguments: argparse.Namespace, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of each kind of round, and the differences within triples of neighbours."""
    alone, console, burner = rounds[::3], rounds[1::3], rounds[2::3]

    def compared(key: str) -> dict[str, Any]:
        def added(many: list[dict[str, Any]], few: list[dict[str, Any]]) -> dict[str, float]:
            all_added = [a[key] - b[key] for a, b in zip(many, few, strict=True)]
            return {
                "median": round(statistics.median(all_added), 2),
                "least": round(min(all_added), 2),
                "most": round(max(all_added), 2),
            }

        return {
            "alone": statistics.median(r[key] for r in alone),
            "by_another_program": added(burner, alone),
            "by_the_console": added(console, alone),
            "by_being_watched": added(console, burner),
        }

    return {
        "bench": "console", "agents": arguments.agents, "lines_per_s": arguments.lines,
        "deltas_per_line": DELTAS, "cores_most": max(r["cores"] for r in console),
        "loop": {
            kind: {key: statistics.median(r["loop"][key] for r in some) for key in some[0]["loop"]}
            for kind, some in (("alone", alone), ("console", console), ("burner", burner))
        },
        "latency": {key: compared(key) for key in ("p50_ms", "p95_ms", "p99_ms")},
        "rounds": rounds,
    }  # fmt: skip


def main() -> None:
    """Measure, or be the game of a measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=200, help="how many are hosted")
    parser.add_argument("--lines", type=int, default=50, help="lines begun per second")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each of 24 rounds")
    parser.add_argument("--play", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--burn", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.burn is not None:
        burn(arguments.burn)
    elif arguments.play is not None:
        asyncio.run(play(arguments.play, arguments.lines, arguments.seconds, arguments.agents))
    else:
        print(json.dumps(asyncio.run(measure(arguments))))


if __name__ == "__main__":
    main()
