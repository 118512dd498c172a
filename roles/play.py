"""A small game in the terminal: a client like any other, against a server it starts itself."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from protocol import administration as admin
from protocol import messages as wire
from protocol import play as game
from protocol.async_client import AsyncClient
from protocol.errors import Refusal
from roles.errors import ServeError
from roles.launch import launched
from roles.screen import Screen
from roles.script import Step, read_script
from roles.world import World

_LOADING_S = 180.0  # a large base from a slow disk
_PERIOD_S = 0.1
_HELP = """talk NAME · look · ask BOOK question · read BOOK [page] · event text · tick · quit
Anything else is said to whoever you are talking to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayConfig:
    """What to play.

    Attributes:
        script: steps to play before (or, without a terminal, instead of) the player's own.
        connect: play against a server that runs already, found by its connection file.
        seed: of every line; None leaves it to the server.
        begin_s: game time at which the script begins.
    """

    world: str
    script: Path | None = None
    connect: bool = False
    seed: int | None = None
    state: Path | None = None
    begin_s: float = 0.0


async def play(config: PlayConfig, console: Console) -> None:
    """Play a script, then, at a terminal, hand over to the player.

    Raises:
        WorldError: the world or the script is wrong.
        ServeError: the server didn't start.
        ProtocolError: no server answers.
    """
    world = World.load(config.world)
    steps = read_script(config.script, frozenset(world.agents)) if config.script else ()
    steps = tuple(step.later(config.begin_s) for step in steps)

    async with _server(config) as connection, AsyncClient(connection) as client:
        player = Player(client, Screen(console), world, config.seed)
        await player.wait_until_loaded()
        await player.perform(steps)
        if sys.stdin.isatty():
            await player.interact()
        elif not steps:
            await player.read_lines()


@asynccontextmanager
async def _server(config: PlayConfig) -> AsyncIterator[Path | None]:
    """A server of our own; or the one that runs already."""
    if config.connect:
        yield None
        return
    async with launched(config.world, config.state) as connection:
        yield connection


class Player:
    """Plays steps and commands on one connection."""

    def __init__(self, client: AsyncClient, screen: Screen, world: World, seed: int | None) -> None:
        self.client, self.screen, self.world, self.seed = client, screen, world, seed
        self._partner = next(iter(world.npcs))

    async def wait_until_loaded(self) -> None:
        """Wait for the engines; the server answers all the while.

        Raises:
            ServeError: an engine failed, or they take too long.
        """
        began = time.monotonic()
        with self.screen.console.status("") as status:
            while True:
                await self._meet()
                states = {info.tier: info.state for info in self.screen.agents.values()}
                if "starting" not in states.values():
                    break
                loaded = [tier for tier, state in states.items() if state != "starting"]
                status.update(f"waking the models: {', '.join(loaded) or 'none'} ready")
                if time.monotonic() - began > _LOADING_S:
                    raise ServeError(f"the engines are still loading after {_LOADING_S:.0f} s")
                await asyncio.sleep(_PERIOD_S)
        self.screen.title(self.world.spec.title, self.world.spec.premise)
        self.screen.cast()
        self.screen.note(f"ready after {time.monotonic() - began:.1f} s")

    async def perform(self, steps: Sequence[Step]) -> None:
        """Do what a script says.

        Raises:
            ServeError: a line was answered by an error.
        """
        for step in steps:
            await self._step(step)

    async def interact(self) -> None:
        """The player's turn, at a terminal."""
        self.screen.act("Your turn")
        self.screen.note(_HELP)
        while True:
            prompt = f"\n[bold]you → {self.screen.name(self._partner)}:[/] "
            try:
                line = await asyncio.to_thread(self.screen.console.input, prompt)
            except (EOFError, KeyboardInterrupt):
                return
            if not await self.command(line):
                return

    async def read_lines(self) -> None:
        """Commands from a pipe, one a line."""
        while line := await asyncio.to_thread(sys.stdin.readline):
            if not await self.command(line):
                return

    async def command(self, line: str) -> bool:
        """Do one typed line; False ends the game."""
        verb, _, rest = line.strip().removeprefix("/").partition(" ")
        name, _, words = rest.strip().partition(" ")
        try:
            match verb if self._is_command(verb, name, words) else "say":
                case "":
                    pass
                case "quit" | "exit":
                    return False
                case "help" | "?":
                    self.screen.note(_HELP)
                case "look":
                    await self._meet()
                    self.screen.listing()
                case "talk":
                    await self._turn_to(name)
                case "ask":
                    await self._step(Step(ask={name: words}))
                case "read":
                    await self._step(Step(read=name, page=int(words) if words else None))
                case "tick":
                    await self._step(Step(tick=True))
                case "event":
                    await self._step(Step(event="player", text=rest))
                case _:
                    await self._step(Step(say={self._partner: line.strip()}))
        except (Refusal, ValueError) as error:
            self.screen.note(str(error).splitlines()[0], "red")
        return True

    def _is_command(self, verb: str, name: str, words: str) -> bool:
        """Whether a line is meant for the game: "look at this!" and "read to me" are spoken."""
        if verb in ("talk", "ask", "read"):
            return name in self.screen.agents or bool(name and not words)
        return verb == "event" or not name

    async def _turn_to(self, name: str) -> None:
        """Talk to somebody else from now on."""
        if name not in self.world.npcs:
            self.screen.note(f"nobody here is called {name!r}: {', '.join(self.world.npcs)}", "red")
            return
        self._partner = name
        self.screen.narrate(f"{self.screen.name(name)}: {self.world.npcs[name].greeting}")

    async def _meet(self) -> None:
        reply = await self.client.request("agents", admin.AgentsRequest())
        assert isinstance(reply, admin.AgentsReply)
        self.screen.agents = {info.agent: info for info in reply.agents}

    async def _step(self, step: Step) -> None:
        if step.narrate:
            self.screen.narrate(step.narrate)
        elif step.event:
            await self._report(step)
        elif step.tick:
            self.screen.act("The director looks at what has happened")
            tick = wire.TickRequest(now=step.now, seed=self._seed(step))
            await self.screen.follow({"director": self.client.stream("tick", tick)})
        elif step.scene:
            scene = game.SceneRequest(
                scene=step.scene, place=step.place, present=list(step.present)
            )
            await self.client.request("scene", scene)
        elif step.say:
            await self._say(step)
        elif step.ask:
            await self._ask(step)
        elif step.read:
            page = await self.client.request(
                "read", game.ReadRequest(agent=step.read, page=step.page)
            )
            assert isinstance(page, game.ReadReply)
            self.screen.page(page)
        elif step.save:
            await self.client.request("save", game.SaveRequest(slot=step.save))
            self.screen.note(f"saved as {step.save}")
        elif step.restore:
            await self.client.request("restore", game.RestoreRequest(slot=step.restore))
            self.screen.note(f"restored {step.restore}")

    async def _report(self, step: Step) -> None:
        kind = step.event or ""
        known = self.world.spec.events.get(kind)
        text = step.text or (known.text.format_map({"place": step.place}) if known else kind)
        event = game.EventRequest(
            kind=kind,
            text=text,
            importance=known.importance if known else step.importance,
            who=list(step.present),
            now=step.now,
        )
        reply = await self.client.request("event", event)
        assert isinstance(reply, game.EventReply)
        self.screen.happened(kind, text, reply.waiting)

    async def _say(self, step: Step) -> None:
        together = len(step.say) > 1
        names = " and ".join(map(self.screen.name, step.say))
        if together:
            self.screen.act(f"{names} answer at the same time, from one batch")
        streams = {}
        for agent, words in step.say.items():
            self.screen.says(self.world.spec.player, agent, words)
            offers = [
                wire.ActionOffer(name=name, arguments=arguments)
                for name, arguments in step.offer.get(agent, {}).items()
            ]
            body = wire.SayRequest(agent=agent, text=words, actions=offers, seed=self._seed(step))
            streams[agent] = self.client.stream("say", body)
        await self.screen.follow(streams)

    async def _ask(self, step: Step) -> None:
        streams = {}
        for agent, words in step.ask.items():
            self.screen.says(self.world.spec.player, agent, words)
            body = wire.AskRequest(agent=agent, text=words, seed=self._seed(step))
            streams[agent] = self.client.stream("ask", body)
        await self.screen.follow(streams)

    def _seed(self, step: Step) -> int | None:
        return self.seed if step.seed is None else step.seed
