"""The library of adapters: who uses which, what is loaded, and how to change it at run time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from protocol.administration import AdapterInfo, AdaptersRequest
from protocol.errors import ProtocolError
from tui.agents import tier_name
from tui.blend import TRIAL, Blend
from tui.dialogs import Ask, Choose, Confirm
from tui.page import FilterBar, Page
from tui.table import Column, Row, Table
from tui.text import clean, number, size, words

_WORK = {"num", "parameters", "params", "rows", "seconds", "tokens"}  # not quality

# What is asked before an operation that can't be undone by the same key.
_QUESTIONS = {
    "unload": "Unload {name}? Lines being spoken through it end first.",
    "promote": "Promote {name} v{version} for {agents}? New lines will come from it.",
    "rollback": "Roll {agents} back to the version before {name} v{version}?",
}


def adapter_row(info: AdapterInfo, trouble: str) -> Row:
    """A row of the table; `trouble` is what went wrong last."""
    resident = ("● loaded", "$success") if info.resident else ("○ on disk", "$muted")
    wrong = trouble or info.error
    notes = words(wrong, "$error") if wrong else _metrics(info, limit=3)
    versions = f"v{info.version}" + (f" of {len(info.versions)}" if len(info.versions) > 1 else "")
    cells = (
        words(info.name, "bold"),
        versions,
        tier_name(info.tier),
        words(", ".join(info.agents) or "nobody"),
        Content.styled(*resident),
        Content.styled("◆ pinned" if info.pinned else "", "$primary"),
        str(info.running or ""),
        str(info.rank or "—"),
        size(info.size_bytes or None),
        notes,
    )
    order = (
        info.name, info.version, info.tier, ", ".join(info.agents), not info.resident,
        not info.pinned, info.running, info.rank, info.size_bytes, wrong,
    )  # fmt: skip
    search = clean(f"{info.name} {' '.join(info.agents)} {info.tier} {wrong}").lower()
    return Row(key=info.name, cells=cells, order=order, search=search)


def _metrics(info: AdapterInfo, limit: int | None = None) -> Content:
    """Figures from its report, such as "perplexity 9.31": how good first, then how much work."""
    parts: list[Content | str] = []
    figures = sorted(
        info.metrics.items(), key=lambda item: not _WORK.isdisjoint(item[0].split("_"))
    )
    for key, value in figures[:limit]:
        parts += [words(key.replace("_", " ") + " ", "$muted"), words(_figure(value)), "  "]
    return Content.assemble(*parts) if parts else words("no report", "$muted")


def _figure(value: object) -> str:
    """A number of a report, or whatever stands in its place."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return number(value) if isinstance(value, int) or abs(value) >= 1000 else f"{value:.3g}"


class AdaptersPage(Page):
    """Load, swap, blend, pin, promote, roll back."""

    MODE = "adapters"
    ABOUT = (
        "Every adapter and student the server knows. Swap gives an agent another voice from its "
        "next line on; the line being spoken keeps its own. Blend mixes several with sliders and "
        "lets you hear the result. What fails leaves everything as it was and says why in the row."
    )
    WATCHES = ("adapters", "agents")
    NEEDS: ClassVar[dict[str, str]] = dict.fromkeys(
        ("swap", "load", "load_named", "unload", "pin", "promote", "rollback", "blend"), "adapters"
    )
    POLL_S = 5.0
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("s,enter", "swap", "Swap", id="adapters.swap"),
        Binding("l", "load", "Load", id="adapters.load"),
        Binding("n", "load_named", "Load other", show=False, id="adapters.load_named"),
        Binding("u", "unload", "Unload", id="adapters.unload"),
        Binding("p", "pin", "Pin", id="adapters.pin"),
        Binding("m", "blend", "Blend", id="adapters.blend"),
        Binding("P", "promote", "Promote", id="adapters.promote"),
        Binding("R", "rollback", "Roll back", id="adapters.rollback"),
        Binding("slash", "filter", "Filter", show=False, id="adapters.filter"),
    ]

    def body(self) -> Iterable[Widget]:
        """Filter, table, and a card about the adapter under the cursor."""
        yield FilterBar()
        yield Table(
            [
                Column(title="Adapter", width=16, flex=1),
                Column(title="Version", width=8),
                Column(title="Tier", width=9, rank=6),
                Column(title="Used by", width=12, flex=1, rank=1),
                Column(title="Where", width=9),
                Column(title="Pin", width=8, rank=3),
                Column(title="Run", width=3, right=True, rank=7),
                Column(title="Rank", width=4, right=True, rank=5),
                Column(title="Size", width=9, right=True, rank=4),
                Column(title="Report or trouble", width=14, flex=3),
            ],
            empty="no adapters",
        )
        yield Static(id="card", classes="card")

    async def fetch(self) -> None:
        """The library."""
        await self.request("adapters", AdaptersRequest(), "list", quiet=True)

    def draw(self) -> None:
        """Rows and the card."""
        table = self.query_one(Table)
        table.empty = self.not_offered("adapters") or "this world has no adapters"
        table.show(
            [
                adapter_row(info, self.store.troubles.get(name, ""))
                for name, info in self.store.adapters.items()
            ]
        )
        self._draw_card()

    def _draw_card(self) -> None:
        card, info = self.query_one("#card", Static), self._here()
        card.display = info is not None
        if info is None:
            return
        versions = ", ".join(f"v{v}" for v in info.versions) or f"v{info.version}"
        rows = [
            Content.assemble(
                words(info.name, "bold $primary"), f"  {versions}  ",
                words(info.digest[:24], "$muted"),
            ),
            _metrics(info),
        ]  # fmt: skip
        if wrong := self.store.troubles.get(info.name) or info.error:
            rows.append(words(wrong, "$error"))
        card.update(Content("\n").join(rows))

    @on(Table.Highlighted)
    def _highlighted(self) -> None:
        self._draw_card()

    @on(Table.Chosen)
    def _chosen(self) -> None:
        if self.check_action("swap", ()):
            self.action_swap()

    def on_input_changed(self, event: FilterBar.Changed) -> None:
        """Filter while typing."""
        self.query_one(Table).filter(event.value)

    def _here(self) -> AdapterInfo | None:
        return self.store.adapters.get(self.query_one(Table).cursor_key or "")

    # --- operations ---------------------------------------------------------------------

    def _act(self, op: str, info: AdapterInfo | None, **fields: object) -> None:
        """Carry out an operation in the background."""
        if info is not None:
            self.run_worker(self._carry_out(op, info, fields), group="act")

    async def _carry_out(self, op: str, info: AdapterInfo, fields: dict[str, object]) -> None:
        agents = ", ".join(info.agents) or "nobody"
        if question := _QUESTIONS.get(op):
            text = question.format(name=info.name, version=info.version, agents=agents)
            if not await self.ask(Confirm(text)):
                return
        if op in {"promote", "rollback"} and (agent := await self._user_of(info)):
            fields = {**fields, "agent": agent}
        body = AdaptersRequest.model_validate({"op": op, "name": info.name, **fields})
        await self._send(body, info.name)

    async def _send(self, body: AdaptersRequest, name: str) -> None:
        """Ask, and put what goes wrong into the adapter's row."""
        try:
            await self.session.request("adapters", body, body.op)
        except ProtocolError as error:
            self.session.note("trouble", f"{name}\n{body.op} failed: {error}")
            self.complain(f"{body.op} {name}: {error}")
            return
        self.session.note("trouble", name)
        self.tell(f"{body.op} {name}: done")
        self.fetch_soon()

    async def _user_of(self, info: AdapterInfo) -> str | None:
        """Whose adapter is meant: the only user, or the one chosen."""
        if len(info.agents) == 1:
            return info.agents[0]
        options = [(key, agent.name) for key, agent in self.store.agents.items()]
        return await self.ask(Choose(f"{info.name}: for whom?", options))

    def action_swap(self) -> None:
        """Give an agent this adapter."""
        if info := self._here():
            self.run_worker(self._swap(info), group="act")

    async def _swap(self, info: AdapterInfo) -> None:
        options = [
            (key, f"{agent.name}, now {agent.adapter.name if agent.adapter else 'without'}")
            for key, agent in self.store.agents.items()
            if agent.tier == info.tier
        ]
        here = self.session.agent
        agent = await self.ask(Choose(f"Who shall speak through {info.name}?", options, here))
        if agent is None:
            return
        version: int | None = None
        if len(info.versions) > 1:
            choices = [(str(v), "in use" if v == info.version else "") for v in info.versions]
            chosen = await self.ask(Choose("Which version?", choices, str(info.version)))
            if chosen is None:
                return
            version = int(chosen)
        body = AdaptersRequest(op="swap", name=info.name, agent=agent, version=version)
        await self._send(body, info.name)

    def action_load(self) -> None:
        """Load it into its engine."""
        self._act("load", self._here())

    def action_load_named(self) -> None:
        """Load one that is not in the list, by its folder's name."""
        self.run_worker(self._load_named(), group="act")

    async def _load_named(self) -> None:
        ask = Ask("Load which adapter?", hint="name of a folder in the world's models/adapters")
        if name := await self.ask(ask):
            try:
                body = AdaptersRequest(op="load", name=name)
            except ValueError:
                self.complain(f"{name!r} is no adapter's name: use small letters, digits, - and _.")
                return
            await self._send(body, name)

    def action_unload(self) -> None:
        """Take it out of its engine."""
        self._act("unload", self._here())

    def action_pin(self) -> None:
        """Keep it loaded, or no longer."""
        if info := self._here():
            self._act("unpin" if info.pinned else "pin", info)

    def action_promote(self) -> None:
        """Make this version the agent's own."""
        if info := self._here():
            self._act("promote", info, version=info.version)

    def action_rollback(self) -> None:
        """Go back to the version before."""
        self._act("rollback", self._here())

    def action_blend(self) -> None:
        """Mix adapters and hear the result."""
        names = [
            name
            for name, info in self.store.adapters.items()
            if info.tier == "npc" and not info.error and name != TRIAL
        ]
        if len(names) < 2:
            self.complain("A blend needs at least two adapters of characters.")
            return
        here = self._here()
        first = here.name if here and here.name in names else names[0]
        self.app.push_screen(Blend(self.session, [first, *(n for n in names if n != first)]))
