"""The director's work: what happened, what it decided, how tense things are; and its reins."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import aclosing
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from protocol.administration import DirectorRequest, TimelineItem
from protocol.errors import ProtocolError
from protocol.messages import TickRequest
from protocol.play import EventRequest
from tui.chart import curve
from tui.dialogs import Ask
from tui.page import Page
from tui.table import Column, Row, Table
from tui.text import clean, count, number, words

_KINDS = {
    "event": ("● event", "$seg-events"),
    "tick": ("◇ tick", "$muted"),
    "directive": ("▶ directive", "$tier-director"),
    "wait": ("‥ wait", "$muted"),
}
TOP_TENSION = 10.0


def item_row(key: str, item: TimelineItem) -> Row:
    """A row of the timeline; `key` names the item among all."""
    kind, style = _KINDS.get(item.kind, (clean(item.kind), ""))
    tension = "" if item.tension is None else f"{item.tension:.0f}/{item.wanted or 0:.0f}"
    when = time.strftime("%H:%M:%S", time.localtime(item.time_s)) if item.time_s else "—"
    text_style = "$muted" if item.kind in {"wait", "tick"} else ""
    return Row(
        key=key,
        cells=(when, number(item.now, " s"), Content.styled(kind, style), tension,
               words(item.text, text_style)),
        search=clean(f"{item.kind} {item.text}").lower(),
    )  # fmt: skip


class DirectorPage(Page):
    """Timeline, tension, world state; inject, hold, step."""

    MODE = "director"
    ABOUT = (
        "What the director was told and what it decided, oldest first. The columns are the "
        "tension at each tick, the line over them what the author wanted. You can tell it that "
        "something happened, hold it so that ticks of the game wait, and step it by hand."
    )
    WATCHES = ("director",)
    NEEDS: ClassVar[dict[str, str]] = {"inject": "event", "step": "tick", "hold": "director"}
    POLL_S = 3.0
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "why", "Why?", id="director.why", key_display="⏎"),
        Binding("e", "inject", "Inject event", id="director.inject"),
        Binding("t", "step", "Tick now", id="director.step"),
        Binding("h", "hold", "Hold/release", id="director.hold"),
    ]

    def body(self) -> Iterable[Widget]:
        """Tension above, timeline and state below."""
        yield Static(id="held", classes="title")
        yield Static(id="tension")
        with Horizontal():
            yield Table(
                [
                    Column(title="Time", width=8),
                    Column(title="Game", width=8, right=True, rank=2),
                    Column(title="What", width=11),
                    Column(title="Tens", width=5, rank=1),
                    Column(title="", width=20, flex=1),
                ],
                empty="nothing has happened yet",
                follow=True,
            )
            with Vertical(id="world", classes="side"):
                yield Static(words("world state", "bold"), classes="title")
                with VerticalScroll(can_focus=False):
                    yield Static(id="state")

    async def fetch(self) -> None:
        """Timeline and state from before the console came."""
        await self.request("director", DirectorRequest(), quiet=True)

    def draw(self) -> None:
        """Everything."""
        table = self.query_one(Table)
        table.empty = self.not_offered("director") or "nothing has happened yet"
        table.show(self._rows())
        held = ("HELD: ticks wait for you (t)", "bold $warning") if self.store.held else (
            "running: the game's ticks are answered", "$success")  # fmt: skip
        waiting = self.store.events_waiting
        legend = Content.assemble(
            held,
            f"  {count(waiting, 'event')} waiting" if waiting else "",
            "     tension ",
            ("▇", "$tier-director"),
            " was  ",
            ("━", "bold $accent"),
            " wanted",
        )
        self.query_one("#held", Static).update(legend)
        self._draw_tension()
        self.query_one("#state", Static).update(self._state())

    def _rows(self) -> list[Row]:
        """A row per item; its key stays the same when older items fall out."""
        again: Counter[str] = Counter()
        rows = []
        for item in self.store.timeline:
            name = f"{item.time_s} {item.kind} {item.line or item.text}"
            again[name] += 1
            rows.append(item_row(f"{name} {again[name]}", item))
        return rows

    def on_resize(self) -> None:
        """The curve takes the width there is."""
        self._draw_tension()

    def _draw_tension(self) -> None:
        chart = self.query_one("#tension", Static)
        ticks = [item for item in self.store.timeline if item.tension is not None]
        chart.display = bool(ticks)
        width = max(10, self.size.width - 4)
        wide = max(1, min(6, width // max(1, len(ticks))))
        height = 8 if self.size.height >= 36 else 4
        actual = [item.tension for item in ticks for _ in range(wide)]
        wanted = [item.wanted for item in ticks for _ in range(wide)]
        rows = curve(actual, wanted, min(width, len(actual)), height, TOP_TENSION)
        chart.update(Content("\n").join(rows))

    def _state(self) -> Content:
        state, changes = self.store.director_state, self.store.state_changes
        if not state:
            why = self.not_offered("director") or "the server tells of none"
            return words(why, "$muted")
        rows = []
        for key, value in state.items():
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            parts = [words(f"{key} ", "$muted"), words(shown)]
            if key in changes:
                parts = [words(f"{key} ", "bold $accent"), words(shown, "bold"),
                         words(f" (was {changes[key]})", "$muted")]  # fmt: skip
            rows.append(Content.assemble(*parts))
        return Content("\n").join(rows)

    # --- keys ---------------------------------------------------------------------------

    @on(Table.Chosen)
    def _chosen(self) -> None:
        self.action_why()

    def action_why(self) -> None:
        """Show the prompt behind the decision under the cursor."""
        table = self.query_one(Table)
        items = list(self.store.timeline)
        if not items or table.cursor_index >= len(items):
            return
        line = items[table.cursor_index].line
        if line is None:
            self.tell("Only decisions have a prompt; this is something the director was told.")
            return
        director = next((k for k, a in self.store.agents.items() if a.tier == "director"), "")
        self.session.look_at(director, line)
        self.app.switch_mode("prompt")

    def action_inject(self) -> None:
        """Tell the director that something happened."""
        self.run_worker(self._inject(), group="act")

    async def _inject(self) -> None:
        ask = Ask("What has happened? (kind: one sentence)", hint="theft: The brass key is gone.")
        typed = await self.ask(ask)
        if not typed:
            return
        kind, colon, text = typed.partition(":")
        if not colon:
            kind, text = "console", typed
        body = EventRequest(kind=kind.strip()[:64], text=text.strip() or typed)
        if await self.request("event", body) is not None:
            self.tell("The director knows; it will decide at its next tick.")
            self.fetch_soon()

    def action_step(self) -> None:
        """Let the director decide now."""
        self.run_worker(self._step(), group="act")

    async def _step(self) -> None:
        try:
            async with aclosing(self.session.speak("tick", TickRequest())) as parts:
                async for _ in parts:
                    pass
        except ProtocolError as error:
            self.complain(str(error))
        self.fetch_soon()

    def action_hold(self) -> None:
        """Hold the director, or let it go."""
        self.run_worker(self._hold(), group="act")

    async def _hold(self) -> None:
        op = "release" if self.store.held else "hold"
        if await self.request("director", DirectorRequest.model_validate({"op": op})) is not None:
            self.tell("Held: the game's ticks wait." if op == "hold" else "Released.")
