"""`biblioteca serve` of a small world of tiny models, as a player runs it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from protocol.client import Client
from protocol.conformance.probe import Probe, code
from tests.faults.gateway import ROOT, Process, wait_for
from tests.roles.worlds_for_tests import write_world

LINE: dict[str, Any] = {"text": "Tell me all.", "max_tokens": 300}


class House(Process):
    """The small world, served: the gateway and the characters' engine are real processes.

    Its director's model is missing, which leaves the rest to be served, sooner.

    Args:
        folder: where world, state, log and connection file go.
        models: a folder of tiny models; copied, so that a test may damage them.
        before: a command that runs the server, such as one that takes rights away.
        environment: more of it.
        options: more of `serve`'s.
    """

    agent = "anna"

    def __init__(
        self,
        folder: Path,
        models: Path,
        *,
        before: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        self.world, self.state = write_world(folder / "house"), folder / "state"
        file = self.world / "world.toml"
        text = file.read_text(encoding="utf-8").replace('backend = "inline"\n', "")
        file.write_text(text.replace("models/director-base", "models/none"), encoding="utf-8")
        shutil.copytree(models, self.world / "models")
        self.adapters = self.world / "models" / "adapters"
        self.fault = folder / "fault"
        command = ["-m", "biblioteca", "serve", str(self.world), "--state", str(self.state)]
        command += ["--connection", str(folder / "connection.json"), "--log-format", "json"]
        command += options
        inject = {
            "PYTHONPATH": f"{ROOT / 'tests' / 'faults' / 'inject'}:{ROOT}",
            "BIBLIOTECA_FAULT": str(self.fault),
        }
        super().__init__(folder, command, {**inject, **(environment or {})}, before)

    def start(self) -> None:
        """Start it, and wait until its characters can speak."""
        super().start()
        self.wait_ready()
        self._before = self.figures()

    def engine(self) -> dict[str, Any]:
        """The characters' engine, as `stats` tells."""
        engines = self.ask("stats")["body"]["engines"]
        return next(dict(engine) for engine in engines if engine["tier"] == "npc")

    def wait_ready(self, restarts: int = 0) -> None:
        """Wait until the engine is ready, after that many restarts."""

        def is_ready() -> bool:
            engine = self.engine()
            return engine["state"] == "ready" and int(engine["restarts"]) >= restarts

        wait_for(is_ready, lambda: f"the engine is {self.engine()}")
        wait_for(lambda: not self.reply("Are you there?").get("fallback"), lambda: "nobody speaks")

    def reply(self, text: str = "Hello?", agent: str = "anna", **fields: Any) -> dict[str, Any]:
        """The reply to a line that leaves no trace; the same words every time."""
        body = {"agent": agent, "text": text, "seed": 4, "ephemeral": True, **fields}
        answer = self.ask("say", **body)
        assert code(answer) == "done", answer
        return dict(answer["body"])

    def words(self, agent: str = "anna") -> str:
        """What a character says to the same question; another adapter says something else."""
        reply = self.reply("Who are you?", agent, conversation="words", max_tokens=24)
        assert not reply["fallback"], reply
        return str(reply["text"])

    def left_over(self) -> dict[str, int]:
        """What should be nothing once everybody has gone, in the engine too."""
        engine = self.engine()
        running = {name: engine[name] for name in ("waiting", "running", "kv_slots_used")}
        adapters = self.ask("adapters")["body"]["adapters"]
        return {
            **super().left_over(),
            **running,
            "rows on adapters": sum(adapter["running"] for adapter in adapters),
        }


def speaking(house: House, agent: str = "anna", **fields: Any) -> tuple[Probe, str]:
    """A client to whom a line is being spoken, and the line's request id."""
    probe = Probe(house.connection, timeout_s=300)
    probe.hello()
    target = probe.send("say", {"agent": agent, **LINE, **fields})
    while probe.receive()["t"] != "delta":
        pass
    return probe, target


def poll_until(client: Client, condition: Callable[[], object]) -> None:
    """Move a client on until the condition holds."""

    def polled() -> object:
        client.poll()
        return condition()

    wait_for(polled, lambda: "what was waited for never came")
