"""What every screen has: tabs above, a line about the connection, its own body, keys below."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import ClassVar, TypeVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content, Span
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Footer, Input, Static
from textual.worker import Worker

from protocol.errors import ProtocolError, Refusal
from protocol.messages import Body
from tui.session import Session
from tui.text import clean, count, duration, number, words

TABS = (
    ("agents", "Agents", "Agents"),
    ("talk", "Talk", "Talk"),
    ("prompt", "Prompt", "Prompt"),
    ("adapters", "Adapters", "Adapters"),
    ("director", "Director", "Director"),
    ("books", "Books", "Books"),
    ("memory", "Memory & saves", "Memory"),
    ("telemetry", "Telemetry", "Stats"),
    ("log", "Log", "Log"),
)  # (mode, title, short title)
T = TypeVar("T")
WIDE = 100
RETRY_S = 1.0  # before a question that got no answer is asked again


class Tabs(Static):
    """The screens' digits and names; the current one is lit."""

    def __init__(self, current: str) -> None:
        """Light the tab of mode `current`."""
        super().__init__(id="tabs")
        self.current = current

    def on_resize(self) -> None:
        """Use short names where the long ones don't fit."""
        self.update(self._content(short=self.size.width < WIDE))

    def _content(self, *, short: bool) -> Content:
        """All tabs; the light of the current one spills over its edges, and none ever moves."""
        text, spans, lit = " ", list[Span](), Span(0, 0, "bold $background on $primary")
        for digit, (mode, title, brief) in enumerate(TABS, 1):
            start = len(text)
            text += f"{digit} {brief if short else title}"
            spans += [Span(start, start + 1, "bold $primary"), Span(start + 1, len(text), "$muted")]
            if mode == self.current:
                lit = Span(start - 1, len(text) + 1, lit.style)
            text += " " if short else "  "
        return Content(text, [*spans, lit])


class Status(Static):
    """One line: which world, how the connection fares; a banner when it is lost."""

    def __init__(self, session: Session) -> None:
        """Tell of this session."""
        super().__init__(id="status")
        self.session = session

    def draw(self) -> None:
        """Write the line anew; ages count up while the server is away."""
        connection = self.session.store.connection
        lost = connection.state == "lost"
        self.set_class(lost, "-lost")
        if lost:
            ago = duration(round(time.time() - connection.since_s))
            self.update(
                words(
                    f" ⚠ No server for {ago}: what you see is from before. Trying again … "
                    f"({connection.why})",
                    "bold",
                )
            )
        else:
            self.update(self._alive())

    def _alive(self) -> Content:
        store, connection = self.session.store, self.session.store.connection
        if connection.state == "connecting":
            what = connection.why or f"connecting to {self.session.link.endpoint}"
            return words(f" ◌ {what} …", "$warning")
        welcome = connection.welcome
        role = welcome.role if welcome else "player"
        speaking = sum(line.state == "speaking" for line in list(store.lines.values())[-200:])
        sample = store.sample()
        rate = sum(engine.tokens_per_s for engine in sample.engines) if sample else None
        gap = ("  ·  ", "$rule")
        state = "●" if self.session.link.live else "▶ replay"
        parts: list[Content | tuple[str, str]] = [
            (f" {state} ", "$success"), words(store.world or "a world without a title", "bold"),
            gap, words(role + ("" if role == "admin" else " (read-only)"), "$muted"),
            gap, (f"{len(store.agents)} agents", "$muted"),
            gap, (f"{speaking} speaking", "$accent" if speaking else "$muted"),
        ]  # fmt: skip
        if connection.num_gaps:
            parts += [gap, (count(connection.num_gaps, "gap"), "$warning")]
        told = Content.assemble(*parts)
        more = Content.assemble(told, gap, (f"{number(rate)} tok/s", "$muted"))
        return more if more.cell_length <= self.app.size.width else told


class FilterBar(Input):
    """A line to type a filter into; hidden until "/" is pressed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Clear filter", id="filter.close"),
        Binding("enter,down", "leave", "To the list", id="filter.leave"),
    ]

    def __init__(self) -> None:
        """A filter line that is not shown yet."""
        super().__init__(placeholder="filter: words that must appear", id="filter", compact=True)
        self.display = False

    def open(self) -> None:
        """Show it and type there."""
        self.display = True
        self.focus()

    def action_close(self) -> None:
        """Forget the filter and hide."""
        self.value = ""
        self.display = False
        self.screen.focus_next()

    def action_leave(self) -> None:
        """Keep the filter and go to what it filters."""
        self.display = bool(self.value)
        self.screen.focus_next()


class Page(Screen[None]):
    """A screen of the console.

    Subclasses say which parts of the store they draw (`WATCHES`), which request each action
    needs (`NEEDS`, so that keys a role may not use are greyed out), and how they `draw`.
    """

    AUTO_FOCUS = "Table, Pane"
    MODE: ClassVar[str] = ""
    ABOUT: ClassVar[str] = ""
    WATCHES: ClassVar[tuple[str, ...]] = ()
    NEEDS: ClassVar[dict[str, str]] = {}
    POLL_S: ClassVar[float | None] = None
    # Textual declares these on the instance, so they can be no ClassVar.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-low"), (36, "-high")]  # noqa: RUF012

    def __init__(self, session: Session) -> None:
        """Draw this session."""
        super().__init__()
        self.session = session
        self.store = session.store
        self._drawn: tuple[int, ...] = ()
        self._fetching: Worker[None] | None = None
        self._wanted = False  # something was asked for that no fetch has begun to bring
        self.unanswered = False  # the fetch under way asked something that got no answer

    def compose(self) -> ComposeResult:
        """Tabs, status, the page's own widgets, keys."""
        yield Tabs(self.MODE)
        yield Status(self.session)
        yield from self.body()
        yield Footer(compact=True, show_command_palette=self.app.size.width >= WIDE)

    def body(self) -> Iterable[Widget]:
        """The widgets between status and keys."""
        return ()

    def draw(self) -> None:
        """Bring the widgets up to date with the store."""

    async def fetch(self) -> None:
        """Ask the server for what telemetry doesn't tell."""

    # --- keeping up ---------------------------------------------------------------------

    def on_mount(self) -> None:
        """Ask again every so often where a page needs it, but only while it is looked at."""
        if self.POLL_S is not None:
            self.set_interval(self.POLL_S, self.fetch_soon)

    def on_screen_resume(self) -> None:
        """Draw what was missed, and ask for the rest."""
        self._drawn = ()
        self.keep_up()
        self.fetch_soon()

    def fetch_soon(self) -> None:
        """Fetch in the background; after the page's fetch under way, if there is one.

        What is wanted while the page is not looked at, or the server is away, is fetched when
        the page or the server is back.
        """
        self._wanted = True
        if self._reachable and (self._fetching is None or self._fetching.is_finished):
            self._fetching = self.run_worker(self._fetch(), group="fetch")

    @property
    def _reachable(self) -> bool:
        return self.is_current and self.store.connection.state == "connected"

    async def _fetch(self) -> None:
        """Fetch until nothing more is wanted; what got no answer is asked again."""
        while self._wanted and self._reachable:
            self._wanted = self.unanswered = False
            await self.fetch()
            if self.unanswered:
                self._wanted = True
                await asyncio.sleep(RETRY_S)

    def keep_up(self) -> None:
        """Draw if anything watched has changed since the last time."""
        if not self.is_mounted:
            return
        self.query_one(Status).draw()
        self.set_class(self.store.connection.state == "lost", "-stale")
        watched = ("connection", "subject", *self.WATCHES)
        now = tuple(self.store.revisions[part] for part in watched)
        if now == self._drawn:
            return
        if self._drawn and now[0] != self._drawn[0]:
            self.refresh_bindings()
            self.fetch_soon()
        self._drawn = now
        self.draw()

    # --- asking -------------------------------------------------------------------------

    async def request(
        self, kind: str, body: Body, about: str = "", *, quiet: bool = False
    ) -> Body | None:
        """Ask the server; a refusal is shown and gives None.

        What is asked quietly is not asked at all where the role may not, and `unanswered` tells
        whether asking again may help.
        """
        if quiet and not self.store.may(kind):
            return None
        try:
            return await self.session.request(kind, body, about)
        except ProtocolError as error:
            if not quiet:
                self.complain(str(error))
            elif not isinstance(error, Refusal) or error.retryable:
                self.unanswered = True
            return None

    async def ask(self, dialog: ModalScreen[T]) -> T | None:
        """Open a dialog and wait for its answer; None where another was opened meanwhile."""
        if self.app.screen is not self:
            return None  # two would close each other's
        return await self.app.push_screen_wait(dialog)

    def complain(self, sentence: str) -> None:
        """Show what went wrong."""
        self.app.notify(clean(sentence), severity="error", markup=False, timeout=8)

    def tell(self, sentence: str) -> None:
        """Show what has been done."""
        self.app.notify(clean(sentence), markup=False, timeout=4)

    def not_offered(self, kind: str) -> str:
        """Why there is nothing to show of a request's matter; empty if there may be."""
        if self.store.connection.welcome is None:
            return "not connected yet"
        if kind in self.session.missing:
            return f"this server does not offer it ({clean(self.session.missing[kind])})"
        if not self.store.may(kind):
            role = self.store.connection.welcome.role
            return f"a {role} key may not ask for this: it needs the admin role"
        return ""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Grey out the keys of actions that this role or server has no request for."""
        needed = self.NEEDS.get(action)
        if needed is None or self.store.may(needed):
            return True
        return None

    def action_filter(self) -> None:
        """Open the filter line, where a page has one."""
        self.query_one(FilterBar).open()
