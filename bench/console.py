"""What the console costs: its CPU time and what it does to a game's streams.

    python bench/console.py [--agents 200] [--lines 50] [--seconds 15]

A server with a service that needs no model, a game that keeps so many lines a second streaming,
and the console in a terminal of its own (a pty, 160x50), each in its own process. Rounds with
and without the console alternate, so that a noisy machine is noisy for both. A delta carries
the time at which it was made; the game subtracts. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
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

from protocol.administration import AgentInfo, AgentsReply, StatsReply
from protocol.client import AsyncClient
from protocol.errors import Code, Refusal
from protocol.messages import Accepted, AdapterUse, Body, Delta, SayReply, SayRequest, Usage
from protocol.server import Server, ServerConfig
from protocol.service import Peer, Request
from protocol.telemetry import LineDelta, LineEnded, LineStarted

DELTAS = 30  # per line, over one second: the pace of a small model
SIZE = (50, 160)
SCREENS = ("1", "9", "2", "1", "9")  # agents, log, talk: a round without the console before each


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
            agents = [
                AgentInfo(agent=name, name=name.title(), tier="npc", state="ready",
                          adapter=AdapterUse(name=name))
                for name in self.names
            ]  # fmt: skip
            yield AgentsReply(world="bench", agents=agents)
        elif request.type == "stats":
            yield StatsReply()
        else:
            raise Refusal(Code.UNSUPPORTED, f"the bench has no {request.type}")

    async def _speak(self, body: SayRequest) -> AsyncIterator[Body]:
        self.num_lines += 1
        line, whole, unpublished = f"l{self.num_lines}", "", ""
        start = LineStarted(
            line=line, agent=body.agent, tier="npc", speaker="player", text=body.text
        )
        self.publish("line_started", start)
        yield Accepted(line=line, agent=body.agent, tier="npc")
        for i in range(DELTAS):
            await asyncio.sleep(1 / DELTAS)
            text = f"{time.monotonic():.6f} "
            whole, unpublished = whole + text, unpublished + text
            yield Delta(text=text)
            if i % 3 == 2:  # telemetry merges pieces to ten a second per line
                self.publish("line_delta", LineDelta(line=line, agent=body.agent, text=unpublished))
                unpublished = ""
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
        time.sleep(4.0)
        os.write(self._master, keys.encode())
        time.sleep(1.0)

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


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Rounds without and with the console, on two of its screens."""
    with tempfile.TemporaryDirectory() as folder:
        connection = Path(folder) / "connection.json"
        service = Chatter(arguments.agents)
        server = Server(service, ServerConfig(connection=connection))
        await server.start()
        service.publish = server.publish
        rounds = []
        for screen in SCREENS:
            for shown in (None, screen):
                rounds.append(await _round(arguments, connection, shown))
                print(rounds[-1], flush=True)
        await server.close()
    return _summary(arguments, rounds)


async def _round(
    arguments: argparse.Namespace, connection: Path, screen: str | None
) -> dict[str, Any]:
    console = await asyncio.to_thread(ConsoleProcess, connection, screen) if screen else None
    before, began = console.cpu_s() if console else 0.0, time.monotonic()
    game = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--play", str(connection), "--lines", str(arguments.lines),
        "--seconds", str(arguments.seconds), "--agents", str(arguments.agents),
        stdout=subprocess.PIPE,
    )  # fmt: skip
    output, _ = await game.communicate()
    seconds = time.monotonic() - began
    played = json.loads(output)
    ages = sorted(played["ages"])
    result: dict[str, Any] = {
        "screen": screen, "lines_per_s": round(played["lines"] / arguments.seconds, 1),
        "deltas": len(ages), "p50_ms": round(statistics.median(ages), 2),
        "p95_ms": round(ages[int(0.95 * len(ages))], 2),
        "p99_ms": round(ages[int(0.99 * len(ages))], 2),
    }  # fmt: skip
    if console is not None:
        result["cores"] = round((console.cpu_s() - before) / seconds, 3)
        result["terminal_kb_per_s"] = round(console.num_bytes / 1000 / seconds, 1)
        await asyncio.to_thread(console.close)
    return result


def _summary(arguments: argparse.Namespace, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """What the console adds, from pairs of neighbouring rounds, beside what chance adds."""
    without, with_console = rounds[::2], rounds[1::2]

    def compared(key: str) -> dict[str, Any]:
        added = [b[key] - a[key] for a, b in zip(without, with_console, strict=True)]
        alone = [r[key] for r in without]
        return {
            "without": statistics.median(alone),
            "without_range": [min(alone), max(alone)],
            "added": round(statistics.median(added), 2),
            "added_range": [round(min(added), 2), round(max(added), 2)],
        }

    return {
        "bench": "console", "agents": arguments.agents, "lines_per_s": arguments.lines,
        "deltas_per_line": DELTAS, "cores_most": max(r.get("cores", 0.0) for r in rounds),
        "latency": {key: compared(key) for key in ("p50_ms", "p95_ms", "p99_ms")},
        "rounds": rounds,
    }  # fmt: skip


def main() -> None:
    """Measure, or be the game of a measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=200, help="how many are hosted")
    parser.add_argument("--lines", type=int, default=50, help="lines begun per second")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each of ten rounds")
    parser.add_argument("--play", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.play is not None:
        asyncio.run(play(arguments.play, arguments.lines, arguments.seconds, arguments.agents))
    else:
        print(json.dumps(asyncio.run(measure(arguments))))


if __name__ == "__main__":
    main()
