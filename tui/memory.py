"""What a character remembers, feels and may know; and the slots that everything is saved in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from protocol.administration import LoreRequest, MemoryInfo, MemoryRequest
from protocol.play import RestoreRequest, SaveInfo, SaveRequest, SavesRequest
from tui.chart import bar
from tui.dialogs import Ask, Choose, Confirm
from tui.page import FilterBar, Page
from tui.session import Session
from tui.table import Column, Row, Table
from tui.text import clean, number, size, words

VIEWS = {"memories": "memory", "relations": "memory", "lore": "lore", "saves": "saves"}
_VIEW_KEYS = {"memories": "m", "relations": "r", "lore": "l", "saves": "v"}
_COLUMNS = {
    "memories": [
        Column(title="Game", width=8, right=True, rank=1),
        Column(title="Kind", width=9, rank=2),
        Column(title="Weight", width=6),
        Column(title="Pin", width=3),
        Column(title="What it remembers", width=20, flex=3),
        Column(title="With", width=10, flex=1, rank=3),
    ],
    "relations": [
        Column(title="To whom", width=16, flex=1),
        Column(title="Strength", width=14),
        Column(title="Feeling", width=16, flex=3),
    ],
    "lore": [
        Column(title="Fact", width=14, flex=1, rank=1),
        Column(title="Who may know", width=14, flex=1),
        Column(title="Words", width=24, flex=4),
    ],
    "saves": [
        Column(title="Slot", width=14, flex=1),
        Column(title="Saved (UTC)", width=16),
        Column(title="Game", width=8, right=True, rank=1),
        Column(title="Size", width=9, right=True),
        Column(title="Digest", width=12, rank=4),
        Column(title="Note", width=10, flex=2),
    ],
}


class MemoryPage(Page):
    """Memories, relations, lore and saves, one table at a time."""

    MODE = "memory"
    ABOUT = (
        "What the chosen character remembers (pinned memories are never crowded out), what it "
        "feels for others, which facts its scopes let it know, and the save slots. A restore ends "
        "running lines and forgets what came after the save."
    )
    WATCHES = ("memories", "agents")
    POLL_S = 5.0
    NEEDS: ClassVar[dict[str, str]] = {
        "edit": "memory", "add": "memory", "pin": "memory", "forget": "memory",
        "save": "save", "restore": "restore",
    }  # fmt: skip
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("m", "view('memories')", "Memories", show=False, id="memory.memories"),
        Binding("r", "view('relations')", "Relations", show=False, id="memory.relations"),
        Binding("l", "view('lore')", "Lore", show=False, id="memory.lore"),
        Binding("v", "view('saves')", "Saves", show=False, id="memory.saves"),
        Binding("a", "choose_agent", "Agent", id="memory.agent"),
        Binding("n", "add", "New", id="memory.add"),
        Binding("e", "edit", "Edit", id="memory.edit"),
        Binding("p", "pin", "Pin", id="memory.pin"),
        Binding("x", "forget", "Forget", id="memory.forget"),
        Binding("s", "save", "Save", id="memory.save"),
        Binding("R", "restore", "Restore", id="memory.restore"),
        Binding("slash", "filter", "Filter", id="memory.filter", show=False),
    ]

    def __init__(self, session: Session) -> None:
        """Memories first."""
        super().__init__(session)
        self.view = "memories"

    def body(self) -> Iterable[Widget]:
        """Whose, a table for each view, and all of the words under the cursor."""
        yield Static(id="whose", classes="title")
        yield FilterBar()
        with Horizontal():
            for view, columns in _COLUMNS.items():
                yield Table(columns, id=view)
        yield Static(id="card", classes="card")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Only what makes sense for the table shown."""
        belongs = {"add": "memories", "edit": "memories", "pin": "memories", "forget": "memories",
                   "save": "saves", "restore": "saves"}  # fmt: skip
        if belongs.get(action, self.view) != self.view:
            return False
        return super().check_action(action, parameters)

    def _table(self) -> Table:
        return self.query_one(f"#{self.view}", Table)

    def _character(self) -> str:
        """The chosen character, or the first one."""
        here = self.store.agents.get(self.session.agent)
        if here is not None and here.tier == "npc":
            return here.agent
        return next((key for key, info in self.store.agents.items() if info.tier == "npc"), "")

    async def fetch(self) -> None:
        """What the view shows."""
        kind, agent = VIEWS[self.view], self._character()
        if kind == "saves":
            await self.request("saves", SavesRequest(), quiet=True)
        elif agent and kind == "memory":
            await self.request("memory", MemoryRequest(agent=agent, limit=500), agent, quiet=True)
        elif agent:
            await self.request("lore", LoreRequest(agent=agent, limit=500), agent, quiet=True)

    def draw(self) -> None:
        """The table of the view, its heading and the card."""
        agent = self._character()
        if agent not in self.store.memories and self.view in {"memories", "relations"}:
            self.fetch_soon()
        if agent not in self.store.lore and self.view == "lore":
            self.fetch_soon()
        for view in VIEWS:
            self.query_one(f"#{view}", Table).display = view == self.view
        table = self._table()
        why = self.not_offered(VIEWS[self.view])
        table.empty = why or {"saves": "no slots yet"}.get(self.view, "nothing yet")
        table.show(self._rows(agent))
        self.query_one("#whose", Static).update(self._heading(agent))
        self._draw_card()

    def _heading(self, agent: str) -> Content:
        """Whose it is, and the views with their keys; the current one is lit."""
        parts: list[Content | tuple[str, str] | str] = [
            words(self.store.name_of(agent) or "no character", "bold $primary"), "   ",
        ]  # fmt: skip
        for view, key in _VIEW_KEYS.items():
            here = view == self.view
            parts += [(key, "bold $primary"), (f" {view}   ", "bold" if here else "$muted")]
        return Content.assemble(*parts)

    def _rows(self, agent: str) -> Sequence[Row]:
        known = self.store.memories.get(agent)
        if self.view == "memories":
            return [_memory_row(memory) for memory in known.memories] if known else []
        if self.view == "relations":
            relations = known.relations if known else []
            return [
                Row(key=r.who, order=(r.who, r.strength, r.feeling), search=clean(r.who).lower(),
                    cells=(words(r.who, "bold"), _strength(r.strength), words(r.feeling)))
                for r in relations
            ]  # fmt: skip
        if self.view == "lore":
            lore = self.store.lore.get(agent)
            return [
                Row(key=f.fact, order=(f.fact, ", ".join(f.scopes), f.text),
                    cells=(words(f.fact, "bold"), words(", ".join(f.scopes) or "all"),
                           words(f.text)),
                    search=clean(f"{f.fact} {f.text} {' '.join(f.scopes)}").lower())
                for f in (lore.facts if lore else [])
            ]  # fmt: skip
        return [_save_row(slot) for slot in (self.store.saves.saves if self.store.saves else [])]

    def _draw_card(self) -> None:
        card, table = self.query_one("#card", Static), self._table()
        memory = self._memory()
        text = memory.text if memory and self.view == "memories" else ""
        if self.view == "lore" and (lore := self.store.lore.get(self._character())):
            text = next((f.text for f in lore.facts if f.fact == table.cursor_key), "")
        card.display = bool(text)
        card.update(words(text, lines=True))

    def on_table_highlighted(self) -> None:
        """The card follows the cursor."""
        self._draw_card()

    def on_input_changed(self, event: FilterBar.Changed) -> None:
        """Filter while typing."""
        self._table().filter(event.value)

    # --- keys ---------------------------------------------------------------------------

    def action_view(self, view: str) -> None:
        """Show another table."""
        self.view = view
        self.draw()
        self._table().focus()
        self.refresh_bindings()
        self.fetch_soon()

    def action_choose_agent(self) -> None:
        """Choose whose."""
        self.run_worker(self._choose_agent(), group="act")

    async def _choose_agent(self) -> None:
        options = [
            (key, info.name or key) for key, info in self.store.agents.items() if info.tier == "npc"
        ]
        if agent := await self.ask(Choose("Whose memory?", options, self._character())):
            self.session.look_at(agent)

    def _memory(self) -> MemoryInfo | None:
        known = self.store.memories.get(self._character())
        key = self.query_one("#memories", Table).cursor_key
        return next((m for m in known.memories if m.memory == key), None) if known else None

    async def _change(self, op: str, **fields: object) -> None:
        """Change a memory, then list them anew."""
        body = MemoryRequest.model_validate({"op": op, "agent": self._character(), **fields})
        if await self.request("memory", body) is not None:
            self.fetch_soon()

    def action_add(self) -> None:
        """Plant a memory."""
        self.run_worker(self._write("add", "What shall it remember?", ""), group="act")

    def action_edit(self) -> None:
        """Reword the memory under the cursor."""
        if memory := self._memory():
            work = self._write("edit", "How shall it remember this?", memory.text, memory.memory)
            self.run_worker(work, group="act")

    async def _write(self, op: str, question: str, value: str, memory: str | None = None) -> None:
        if text := await self.ask(Ask(question, value)):
            await self._change(op, text=text, memory=memory)

    def action_pin(self) -> None:
        """Pin the memory under the cursor, or let it go."""
        if memory := self._memory():
            op = "unpin" if memory.pinned else "pin"
            self.run_worker(self._change(op, memory=memory.memory), group="act")

    def action_forget(self) -> None:
        """Forget the memory under the cursor."""
        if memory := self._memory():
            self.run_worker(self._forget(memory), group="act")

    async def _forget(self, memory: MemoryInfo) -> None:
        if await self.ask(Confirm(f"Forget this for good?\n\n{memory.text}")):
            await self._change("forget", memory=memory.memory)

    def action_save(self) -> None:
        """Save everything into a slot."""
        self.run_worker(self._save(), group="act")

    async def _save(self) -> None:
        ask = Ask(
            "Save into which slot?", self._table().cursor_key or "", "small letters, digits, - _"
        )
        if slot := await self.ask(ask):
            try:
                body = SaveRequest(slot=slot, note="from the console")
            except ValueError:
                self.complain(f"{slot!r} is no slot name: use small letters, digits, - and _.")
                return
            if await self.request("save", body) is not None:
                self.tell(f"Saved into {slot}.")
                self.fetch_soon()

    def action_restore(self) -> None:
        """Go back to the slot under the cursor."""
        if self.view == "saves" and (slot := self._table().cursor_key):
            self.run_worker(self._restore(slot), group="act")

    async def _restore(self, slot: str) -> None:
        question = f"Go back to {slot}? Running lines end, and what came after it is forgotten."
        if not await self.ask(Confirm(question)):
            return
        if await self.request("restore", RestoreRequest(slot=slot)) is not None:
            self.store.memories.clear()
            self.store.lore.clear()
            self.tell(f"Restored {slot}.")
            self.fetch_soon()


def _memory_row(memory: MemoryInfo) -> Row:
    people = ", ".join(memory.participants)
    return Row(
        key=memory.memory,
        cells=(number(memory.now, " s"), words(memory.kind, "$muted"),
               bar(memory.importance, 6), Content.styled("◆" if memory.pinned else "", "$primary"),
               words(memory.text), words(people, "$muted")),
        order=(memory.now, memory.kind, memory.importance, memory.pinned, memory.text, people),
        search=clean(f"{memory.kind} {memory.text} {people}").lower(),
    )  # fmt: skip


def _strength(value: float) -> Content:
    """A feeling from -1 to 1 as a bar around its middle."""
    half = 6
    cells = round(min(abs(value), 1.0) * half)
    if value < 0:
        return Content.assemble(("╌" * (half - cells), "$rule"), ("█" * cells, "$error"), "│",
                                ("╌" * half, "$rule"))  # fmt: skip
    return Content.assemble(("╌" * half, "$rule"), "│", ("█" * cells, "$success"),
                            ("╌" * (half - cells), "$rule"))  # fmt: skip


def _save_row(slot: SaveInfo) -> Row:
    return Row(
        key=slot.slot,
        cells=(words(slot.slot, "bold"), words(slot.saved_at[:16].replace("T", " ")),
               number(slot.now, " s"),
               size(slot.size_bytes or None), words(slot.digest[:12], "$muted"),
               words(slot.note)),
        order=(slot.slot, slot.saved_at, slot.now, slot.size_bytes, slot.digest, slot.note),
        search=clean(f"{slot.slot} {slot.note}").lower(),
    )  # fmt: skip
