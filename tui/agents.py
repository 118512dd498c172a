"""Everybody who is hosted, how they fare, and the way to each one's words and prompt."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from protocol.administration import AgentInfo, AgentsRequest, LinesRequest
from protocol.messages import AdapterUse
from protocol.play import FocusRequest
from tui.dialogs import Choose
from tui.page import FilterBar, Page
from tui.session import Session
from tui.table import Column, Row, Table
from tui.text import clean, count, number, words

_TIERS = {"director": "director", "npc": "character", "book": "book"}
_STATES = {
    "starting": ("◌", "$warning"),
    "ready": ("●", "$success"),
    "restarting": ("◌", "$warning"),
    "failed": ("✖", "$error"),
    "closed": ("○", "$muted"),
}
_FOCUS = ("spotlight", "near", "far", "offstage")


def tier_name(tier: str, style: str = "") -> Content:
    """A tier in its colour, by the name people use."""
    return Content.styled(_TIERS.get(tier, clean(tier)), style or f"$tier-{tier}")


def adapter_name(adapter: AdapterUse | None) -> str:
    """An adapter and its version, such as "ottavia v3"."""
    return f"{clean(adapter.name)} v{adapter.version}" if adapter else "—"


def agent_row(info: AgentInfo, speaking: str) -> Row:
    """A row of the table; `speaking` is the line being spoken at this moment, if any."""
    mark, colour = _STATES.get(info.state, ("?", "$warning"))
    state = f"{mark} {'speaking' if info.running else info.state}"
    last = words(speaking, "$accent") if speaking else words(info.last_text)
    if info.last_error and not speaking:
        last = Content.assemble(words(info.last_error, "$error"), "  ", last)
    queue = f"{info.running}+{info.waiting}" if info.running or info.waiting else ""
    share = None if info.cached_share is None else info.cached_share * 100
    cells = (
        words(info.name or info.agent, "bold"),
        tier_name(info.tier),
        Content.styled(state, colour),
        adapter_name(info.adapter),
        info.focus or "—",
        number(info.tokens_per_s),
        number(info.ttft_ms),
        queue,
        number(share, "%"),
        last,
    )
    order = (
        info.name or info.agent, info.tier, info.state, adapter_name(info.adapter),
        _FOCUS.index(info.focus) if info.focus else None, info.tokens_per_s, info.ttft_ms,
        info.running + info.waiting, info.cached_share, info.last_text,
    )  # fmt: skip
    search = " ".join(
        (info.agent, info.name, info.about, _TIERS.get(info.tier, ""), info.state,
         adapter_name(info.adapter), info.focus or "", info.last_error)
    )  # fmt: skip
    return Row(key=info.agent, cells=cells, order=order, search=clean(search).lower())


class AgentsPage(Page):
    """Who is hosted: one row each."""

    MODE = "agents"
    ABOUT = (
        "Every director, character and book the server hosts. TTFT is the time from a request to "
        "its first token, tok/s the speed of the last line, queue running+waiting lines, cache "
        "the share of prompt tokens that needed no work. Enter shows why an agent said its last "
        "line: the very prompt its model saw."
    )
    WATCHES = ("agents", "lines")
    NEEDS: ClassVar[dict[str, str]] = {"focus_level": "focus"}
    POLL_S = 2.0
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "why", "Why?", id="agents.why", key_display="⏎"),
        Binding("t", "talk", "Talk", id="agents.talk"),
        Binding("l", "log", "Log", id="agents.log"),
        Binding("f", "focus_level", "Focus", id="agents.focus"),
        Binding("slash", "filter", "Filter", id="agents.filter"),
    ]

    def __init__(self, session: Session) -> None:
        """No history has been asked for."""
        super().__init__(session)
        self._history_of = ""
        self._rows: dict[str, tuple[AgentInfo, str, Row]] = {}

    def body(self) -> Iterable[Widget]:
        """Filter, table, and a card about the agent under the cursor."""
        yield FilterBar()
        yield Table(
            [
                Column(title="Agent", width=14, flex=1),
                Column(title="Tier", width=9, rank=5),
                Column(title="State", width=10),
                Column(title="Adapter", width=11, flex=1, rank=3),
                Column(title="Focus", width=9, rank=8),
                Column(title="tok/s", width=6, right=True, rank=2),
                Column(title="TTFT ms", width=8, right=True, rank=1),
                Column(title="Queue", width=5, right=True, rank=6),
                Column(title="Cache", width=5, right=True, rank=7),
                Column(title="Last line", width=14, flex=5),
            ],
            empty="nobody is hosted yet",
        )
        yield Static(id="card", classes="card")

    async def fetch(self) -> None:
        """Everybody's state; once also the lines spoken before the console came."""
        await self.request("agents", AgentsRequest(), quiet=True)
        welcome = self.store.connection.welcome
        if welcome is not None and welcome.session != self._history_of:
            await self.request("lines", LinesRequest(limit=200), quiet=True)
            if not self.unanswered:
                self._history_of = welcome.session

    def draw(self) -> None:
        """Rows, and the card."""
        speaking = {
            line.agent: line.text or "…"
            for line in list(self.store.lines.values())[-200:]
            if line.state == "speaking"
        }
        rows = [self._row(info, speaking.get(key, "")) for key, info in self.store.agents.items()]
        table = self.query_one(Table)
        first = table.cursor_key is None
        table.show(rows)
        if first and (here := self.session.choose_agent()):
            table.move_to(here)
        self._draw_card()

    def _row(self, info: AgentInfo, speaking: str) -> Row:
        """The agent's row, made anew only if something in it has changed."""
        known = self._rows.get(info.agent)
        if known is None or known[0] is not info or known[1] != speaking:
            known = self._rows[info.agent] = (info, speaking, agent_row(info, speaking))
        return known[2]

    def on_screen_resume(self) -> None:
        """Come back with the cursor on the agent that other screens spoke of."""
        # Textual calls the base class's handler by itself.
        self.query_one(Table).move_to(self.session.agent)

    def _draw_card(self) -> None:
        card = self.query_one("#card", Static)
        info = self.store.agents.get(self.query_one(Table).cursor_key or "")
        card.display = info is not None
        if info is None:
            return
        line = self.store.last_line(info.agent)
        said = f"{line.speaker}: {line.said}" if line and line.said else ""
        digest = info.adapter.digest[:12] if info.adapter else ""
        head = Content.assemble(
            words(info.name or info.agent, "bold $primary"), "  ", words(info.about, "$muted"),
            "   ", (f"{adapter_name(info.adapter)} {clean(digest)}", "$muted"),
            "   ", (count(info.lines, "line"), "$muted"),
        )  # fmt: skip
        rows = [head]
        if said:
            rows.append(words(said, "$seg-player"))
        rows.append(words((line.text if line else info.last_text) or "has not spoken yet"))
        if info.last_error:
            rows.append(words(info.last_error, "$error"))
        card.update(Content("\n").join(rows))

    @on(Table.Highlighted)
    def _highlighted(self, event: Table.Highlighted) -> None:
        self.session.agent, self.session.line = event.key, ""
        self._draw_card()

    @on(Table.Chosen)
    def _chosen(self) -> None:
        self.action_why()

    def on_input_changed(self, event: FilterBar.Changed) -> None:
        """Filter while typing."""
        self.query_one(Table).filter(event.value)

    def _here(self) -> AgentInfo | None:
        return self.store.agents.get(self.query_one(Table).cursor_key or "")

    def action_why(self) -> None:
        """Show the prompt behind the last line."""
        if info := self._here():
            line = self.store.last_line(info.agent)
            self.session.look_at(info.agent, line.line if line else info.last_line or "")
            self.app.switch_mode("prompt")

    def action_talk(self) -> None:
        """Talk to the agent under the cursor."""
        if info := self._here():
            self.session.look_at(info.agent)
            self.app.switch_mode("talk")

    def action_log(self) -> None:
        """Show only this agent's rows of the log."""
        if info := self._here():
            self.session.look_at(info.agent)
            self.session.log_filter = info.agent
            self.app.switch_mode("log")

    def action_focus_level(self) -> None:
        """Choose how much the agent under the cursor matters now."""
        if info := self._here():
            self.run_worker(self._set_focus(info), group="act")

    async def _set_focus(self, info: AgentInfo) -> None:
        about = {
            "spotlight": "speaks first, with its whole context",
            "near": "speaks from its adapter",
            "far": "a short budget",
            "offstage": "only the director knows what it does",
        }
        options = [(level, about[level]) for level in _FOCUS]
        question = f"How much does {info.name or info.agent} matter?"
        level = await self.ask(Choose(question, options, info.focus or ""))
        if level is not None:
            body = FocusRequest.model_validate({"agent": info.agent, "level": level})
            await self.request("focus", body)
            self.fetch_soon()
