"""A real server on real sockets with a scripted service behind it, and the console on it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest_asyncio
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import Input

from protocol.server import Server, ServerConfig
from tests.tui.fakes import WORLD, FakeWorld
from tui.app import ConsoleApp
from tui.link import LiveLink
from tui.page import TABS, Page
from tui.session import Session

NARROW, WIDE = (80, 24), (160, 50)
PATIENCE_S = 120.0  # a machine that does much else on the side is slow


@dataclass
class Hosted:
    """A server, what stands behind it, and where its connection file is."""

    world: FakeWorld
    server: Server
    connection: Path
    running: bool = False

    async def start(self) -> None:
        """Serve; again after `stop`, on other ports."""
        config = ServerConfig(world=WORLD, connection=self.connection)
        self.server = Server(self.world, config)
        await self.server.start()
        self.world.publish = self.server.publish
        self.running = True

    async def stop(self) -> None:
        """Go away, as a server that is shut down does."""
        if self.running:
            self.running = False
            await self.server.close()


@pytest_asyncio.fixture
async def hosted(tmp_path: Path) -> AsyncIterator[Hosted]:
    world = FakeWorld()
    there = Hosted(world, Server(world), tmp_path / "connection.json")
    await there.start()
    yield there
    await there.stop()


@dataclass
class Console:
    """A running console."""

    app: ConsoleApp
    pilot: Pilot[None]

    @property
    def session(self) -> Session:
        return self.app.session

    @property
    def page(self) -> Page:
        assert isinstance(self.app.screen, Page)
        return self.app.screen

    @property
    def text(self) -> str:
        """What stands on the screen, as plain rows."""
        height = self.app.size.height
        strips = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text for strip in strips[:height])

    async def until(self, true: Callable[[], Any], what: str = "") -> None:
        """Wait for something to be so, while the console goes on working.

        Raises:
            AssertionError: it was not so in time; shows the screen.
        """
        deadline = time.monotonic() + PATIENCE_S
        while not true():
            assert time.monotonic() < deadline, f"never came true: {what}\n{self.text}"
            await self.pilot.pause(0.05)

    async def see(self, *words: str) -> None:
        """Wait until all these words stand on the screen."""
        await self.until(lambda: all(word in self.text for word in words), f"sees {words}")

    async def go(self, digit: int) -> None:
        """Press a screen's digit and wait until the screen takes keys."""
        await self.pilot.press(f"alt+{digit}")
        mode = TABS[digit - 1][0]

        def there() -> bool:
            screen = self.app.screen
            return isinstance(screen, Page) and mode == screen.MODE and screen.focused is not None

        await self.until(there, f"goes to {mode}")

    async def dialog(self, *, after: Screen[Any] | None = None) -> Screen[Any]:
        """Wait for a dialog that takes keys, other than `after`, and return it."""

        def there() -> bool:
            screen = self.app.screen
            ready = screen.is_mounted and (screen.focused is not None or not screen.focus_chain)
            return not isinstance(screen, Page) and screen is not after and ready

        await self.until(there, "a dialog opens")
        return self.app.screen

    async def answer(self, *texts: str, after: Screen[Any] | None = None) -> None:
        """Answer one dialog after another (and after this one); wait until the last has closed."""
        before = after
        for text in texts:
            before = await self.dialog(after=before)
            await self.type(text)
        await self.until(lambda: self.app.screen is not before, "the dialog closes")

    async def leave_input(self) -> None:
        """Press escape and wait until single keys work."""
        await self.pilot.press("escape")
        await self.until(lambda: not isinstance(self.app.focused, Input), "leaves the input")

    async def type(self, text: str) -> None:
        """Type into what has the focus, then press enter."""
        for character in text:
            await self.pilot.press(
                {" ": "space", ".": "full_stop", ":": "colon"}.get(character, character)
            )
        await self.pilot.press("enter")


@asynccontextmanager
async def console_on(
    connection: Path, size: tuple[int, int] = NARROW, record: Any = None
) -> AsyncIterator[Console]:
    """Run the console headless until the block ends."""
    app = ConsoleApp(Session(LiveLink(connection), record))
    async with app.run_test(size=size) as pilot:
        console = Console(app, pilot)
        await console.until(lambda: console.session.store.agents, "lists agents")
        yield console


MakeConsole = Callable[..., Awaitable[Console]]
