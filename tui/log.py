"""Everything that happened, newest below; from any row to the prompt behind it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from tui.page import FilterBar, Page
from tui.seen import LogRow
from tui.session import Session
from tui.table import Column, Row, Table
from tui.text import clean, words

_LEVELS = {
    "debug": "$muted",
    "info": "$muted",
    "said": "$seg-player",
    "line": "$foreground",
    "warning": "$warning",
    "error": "bold $error",
}
QUIET = ("debug", "info", "said", "line")  # left out when only troubles are shown


class LogPage(Page):
    """The log, filtered."""

    MODE = "log"
    ABOUT = (
        "What was said to whom and what came of it, with the server's own log between. Filter by "
        "any words: an agent, a request's or a line's id. Enter on a line shows its prompt. While "
        "the cursor is on the last row the log follows; move up and it stands still."
    )
    WATCHES = ("log", "agents")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "why", "Why?", id="log.why", key_display="⏎"),
        Binding("slash", "filter", "Filter", id="log.filter"),
        Binding("a", "only_agent", "This agent", id="log.agent"),
        Binding("e", "only_troubles", "Troubles", id="log.troubles"),
        Binding("x", "all", "All", id="log.all"),
    ]

    def __init__(self, session: Session) -> None:
        """Everything."""
        super().__init__(session)
        self.troubles = False
        self._rows: dict[int, Row] = {}

    def body(self) -> Iterable[Widget]:
        """Filter, rows, and the whole text of the row under the cursor."""
        yield FilterBar()
        yield Table(
            [
                Column(title="Time", width=8),
                Column(title="", width=7),
                Column(title="Agent", width=14),
                Column(title="Line", width=10, rank=2),
                Column(title="", width=20, flex=1),
            ],
            empty="nothing has happened yet",
            follow=True,
        )
        yield Static(id="card", classes="card")

    def draw(self) -> None:
        """Rows, made once each."""
        if self.session.log_filter:
            bar = self.query_one(FilterBar)
            bar.value, bar.display = self.session.log_filter, True
            self.session.log_filter = ""
        rows = []
        known: dict[int, Row] = {}
        for entry in self.store.log:
            row = self._rows.get(entry.number) or log_row(entry, self.store.name_of(entry.agent))
            known[entry.number] = row
            if not (self.troubles and entry.level in QUIET):
                rows.append(row)
        self._rows = known
        self.query_one(Table).show(rows)
        self._draw_card()

    def _entry(self) -> LogRow | None:
        key = self.query_one(Table).cursor_key
        return next((row for row in reversed(self.store.log) if str(row.number) == key), None)

    def _draw_card(self) -> None:
        card, entry = self.query_one("#card", Static), self._entry()
        card.display = entry is not None
        if entry is None:
            return
        ids = "  ".join(
            f"{label} {clean(value)}"
            for label, value in (("line", entry.line), ("request", entry.request))
            if value
        )
        card.update(
            Content.assemble(words(entry.text, lines=True), "\n", (ids, "$muted"))
            if ids
            else words(entry.text, lines=True)
        )

    @on(Table.Highlighted)
    def _highlighted(self) -> None:
        self._draw_card()

    @on(Table.Chosen)
    def _chosen(self) -> None:
        self.action_why()

    def on_input_changed(self, event: FilterBar.Changed) -> None:
        """Filter while typing."""
        self.query_one(Table).filter(event.value)

    def action_why(self) -> None:
        """Show the prompt behind the row under the cursor."""
        entry = self._entry()
        if entry is None or not entry.line:
            self.tell("Only lines have a prompt.")
            return
        self.session.look_at(entry.agent, entry.line)
        self.app.switch_mode("prompt")

    def action_only_agent(self) -> None:
        """Only rows of this row's agent."""
        if (entry := self._entry()) and entry.agent:
            bar = self.query_one(FilterBar)
            bar.value, bar.display = entry.agent, True

    def action_only_troubles(self) -> None:
        """Only warnings and errors, or everything again."""
        self.troubles = not self.troubles
        self.draw()

    def action_all(self) -> None:
        """Forget all filters."""
        self.troubles = False
        bar = self.query_one(FilterBar)
        bar.value, bar.display = "", False
        self.draw()


def log_row(entry: LogRow, name: str) -> Row:
    """A row of the table."""
    style = _LEVELS.get(entry.level, "")
    when = time.strftime("%H:%M:%S", time.localtime(entry.time_s))
    return Row(
        key=str(entry.number),
        cells=(when, Content.styled(clean(entry.level), style), words(name, "bold"),
               words(entry.line, "$muted"), words(entry.text, style)),
        search=clean(
            f"{entry.level} {entry.agent} {name} {entry.line} {entry.request} {entry.text}"
        ).lower(),
    )  # fmt: skip
