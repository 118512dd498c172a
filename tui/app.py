"""The console: its screens and the keys that lead to them, and the beat at which it draws."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.command import Provider
from textual.screen import Screen
from textual.timer import Timer

from tui.adapters import AdaptersPage
from tui.agents import AgentsPage
from tui.blend import Blend
from tui.books import BooksPage
from tui.compare import Compare
from tui.dialogs import Help
from tui.director import DirectorPage
from tui.keys import binding_ids, read_keys
from tui.log import LogPage
from tui.memory import MemoryPage
from tui.page import TABS, FilterBar, Page
from tui.palette import JumpProvider
from tui.pane import Pane
from tui.prompt import PromptPage
from tui.session import Session
from tui.table import Table
from tui.talk import TalkPage
from tui.telemetry import TelemetryPage
from tui.themes import DAYLIGHT, DEFAULT_VARIABLES, LAMPLIGHT

PAGES: tuple[type[Page], ...] = (
    AgentsPage, TalkPage, PromptPage, AdaptersPage, DirectorPage,
    BooksPage, MemoryPage, TelemetryPage, LogPage,
)  # fmt: skip
_GOODBYE_S = 5.0  # after a kill, for the screen to be put back in order
FRAME_S = 0.1  # screens are drawn at most this often
_SHARE = 4  # and, on a machine that is slow at it, only for one part in four of the time,
_LONGEST_S = 3.0  # but not less often than this


class ConsoleApp(App[None]):
    """Shows a session on nine screens."""

    TITLE = "biblioteca console"
    CSS_PATH = "console.tcss"
    COMMANDS: ClassVar[set[type[Provider]]] = App.COMMANDS | {JumpProvider}  # type: ignore[assignment]
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(f"{digit}", f"go('{mode}')", title, show=False, id=f"go.{mode}")
            for digit, (mode, title, _) in enumerate(TABS, 1)
        ),
        *(
            Binding(f"alt+{digit}", f"go('{mode}')", title, show=False, priority=True, system=True)
            for digit, (mode, title, _) in enumerate(TABS, 1)
        ),
        Binding("f1,question_mark", "help", "Help", id="app.help", key_display="F1"),
        Binding("q", "quit", "Quit", id="app.quit"),
        Binding("ctrl+t", "day_and_night", "Day/night", show=False, id="app.theme"),
    ]

    def __init__(
        self, session: Session, *, keys: Path | None = None, theme: str = "lamplight"
    ) -> None:
        """Show a session.

        Args:
            session: what is seen and asked.
            keys: TOML file with other keys.
            theme: "lamplight", "daylight" or any of Textual's.

        Raises:
            KeysError: the file of keys can't be used.
        """
        super().__init__()
        self.session = session
        session.changed = self.redraw_soon
        for page in PAGES:
            self.add_mode(page.MODE, partial(page, session))
        self.register_theme(LAMPLIGHT)
        self.register_theme(DAYLIGHT)
        self.theme = theme
        if keys is not None:
            self.set_keymap(read_keys(keys, known_bindings()))
        # Ends the process where Textual can't: it waits for ever for a terminal that is gone.
        self.hang_up: Callable[[], None] = self.exit
        self._timer: Timer | None = None
        self._due_s = self._next_s = 0.0  # when the next frame is, and may be, drawn

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Colours of ours that Textual's own themes don't name."""
        return DEFAULT_VARIABLES

    def on_mount(self) -> None:
        """Open the first screen and listen to the server."""
        self.switch_mode("agents")
        self.run_worker(self.session.link.run(self.session.see), group="link", name="link")
        self.set_interval(1.0, self._tick)
        if not self.is_headless:
            self._leave_on_signals()

    def _leave_on_signals(self) -> None:
        """A plain kill ends the console in order; so does a closed terminal, without it."""
        loop = asyncio.get_running_loop()
        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGTERM, self._leave)
            loop.add_signal_handler(signal.SIGHUP, self.hang_up)

    def _leave(self) -> None:
        self.exit()
        watchdog = threading.Timer(_GOODBYE_S, self.hang_up)
        watchdog.daemon = True
        watchdog.start()

    # --- the beat -----------------------------------------------------------------------

    def redraw_soon(self) -> None:
        """Draw once, at most ten times a second, however much was seen."""
        if self._timer is None and self.is_running:
            now = time.monotonic()
            self._due_s = max(now + 0.001, self._next_s)
            self._timer = self.set_timer(self._due_s - now, self._redraw)

    def _redraw(self) -> None:
        self._timer = None
        began = time.monotonic()
        if not self.screen_stack:
            return  # the console is closing
        self._draw()
        # A frame that begins late had to wait for the one before to reach the terminal.
        busy_s = time.monotonic() - self._due_s
        self._next_s = began + min(max(FRAME_S, _SHARE * busy_s), _LONGEST_S)

    def _draw(self) -> None:
        if isinstance(self.screen, Page):
            with self.batch_update():
                self.screen.keep_up()
        else:
            self._redraw_behind()

    def _redraw_behind(self) -> None:
        """Keep the page under an open dialog up to date, too."""
        for screen in reversed(self.screen_stack):
            if isinstance(screen, Page):
                screen.keep_up()
                return

    def _tick(self) -> None:
        """Ages count up once a second while the server is away."""
        if self.session.store.connection.state == "lost":
            self.redraw_soon()

    # --- keys ---------------------------------------------------------------------------

    def action_go(self, mode: str) -> None:
        """Go to a screen; a dialog in between is closed."""
        while len(self.screen_stack) > 1:
            self.pop_screen()
        self.switch_mode(mode)

    def action_day_and_night(self) -> None:
        """Change between the light and the dark theme."""
        self.theme = "daylight" if self.current_theme.dark else "lamplight"

    def action_help(self) -> None:
        """Explain the screen and list the keys that work here."""
        page = self.screen
        if not isinstance(page, Page):
            return
        title = next(title for mode, title, _ in TABS if mode == page.MODE)
        active = [a for a in page.active_bindings.values() if a.binding.id]
        active.sort(key=lambda a: (a.node is not page, a.node is self))
        rows: dict[str | None, tuple[str, str, bool]] = {}
        for shown in active:  # several keys of one action share a row
            key, action = self.get_key_display(shown.binding), shown.binding.id
            others = rows[action][0].split(", ") if action in rows else []
            keys = ", ".join(dict.fromkeys([*others, key]))
            rows[action] = (keys, shown.binding.description, shown.enabled)
        rows["alt"] = ("alt+1 … 9", "the same while typing (kitty keyboard protocol)", True)
        self.push_screen(Help(title, page.ABOUT, list(rows.values())))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Textual's own commands, less the ones this console has better ways for."""
        for command in super().get_system_commands(screen):
            if command.title not in {"Keys", "Maximize", "Minimize"}:
                yield command
        yield SystemCommand("Help", "What this screen shows, and its keys", self.action_help)


def known_bindings() -> dict[str, Binding]:
    """Every key that can be given to another key, by its action id."""
    widgets = (Table, Pane, FilterBar, Compare, Blend)
    return binding_ids(
        [ConsoleApp.BINDINGS, *(p.BINDINGS for p in PAGES), *(w.BINDINGS for w in widgets)]
    )
