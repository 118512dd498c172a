"""Why did she say that: what the model saw, what it weighed, and what it cost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from protocol.administration import InspectReply, InspectRequest
from tui.agents import adapter_name
from tui.page import WIDE, Page
from tui.pane import Block, Pane
from tui.prompt_views import (
    diff_blocks,
    facts,
    ids_blocks,
    logit_blocks,
    text_blocks,
    without_model,
)
from tui.session import Session
from tui.text import words

VIEWS = {
    "text": "what the model saw, coloured by where it came from",
    "ids": "the same, token by token",
    "diff": "against the prompt of the line before",
    "logits": "what it weighed at each token it spoke",
}


class PromptPage(Page):
    """The prompt of one line, whole."""

    MODE = "prompt"
    ABOUT = (
        "For the line chosen on any other screen: exactly what its model was shown, coloured by "
        "segment (persona, direction, lore, memory, history, player), as text or token ids; what "
        "changed against the line before; and the alternatives at each token it spoke. The bar "
        "shows how much of the context the prompt takes, the waterfall where the time went."
    )
    WATCHES = ("inspections", "lines")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "view('text')", "Text", id="prompt.text"),
        Binding("i", "view('ids')", "Token ids", id="prompt.ids"),
        Binding("d", "view('diff')", "Diff", id="prompt.diff"),
        Binding("l", "view('logits')", "Logits", id="prompt.logits"),
        Binding("left", "turn(-1)", "Older", id="prompt.older", key_display="←"),
        Binding("right", "turn(1)", "Newer", id="prompt.newer", key_display="→"),
        Binding("a", "talk", "Talk", id="prompt.talk"),
    ]

    def __init__(self, session: Session) -> None:
        """Text first."""
        super().__init__(session)
        self.view = "text"
        self._refused: dict[str, str] = {}
        self._newest = ("", "")  # an agent, and its newest line when this screen was opened

    def body(self) -> Iterable[Widget]:
        """Which line, the prompt, the facts about it."""
        yield Static(id="which", classes="title")
        with Horizontal(id="both"):
            yield Pane(id="shown")
            with VerticalScroll(id="facts", can_focus=False):
                yield Static(id="figures")

    # --- which line ---------------------------------------------------------------------

    @property
    def line_id(self) -> str:
        """The line looked at: the chosen one, or the agent's newest when the screen was opened.

        What is being read stays where it is, whatever the agent says meanwhile.
        """
        if self.session.line:
            return self.session.line
        if self._newest[0] != self.session.agent or not self._newest[1]:
            self._newest = (self.session.agent, self._find_newest())
        return self._newest[1]

    def on_screen_resume(self) -> None:
        """Begin with the newest line again."""
        self._newest = ("", "")
        super().on_screen_resume()

    def _find_newest(self) -> str:
        spoken = [ln.line for ln in self.store.lines_of(self.session.agent) if ln.state == "spoken"]
        if spoken:
            return spoken[-1]
        info = self.store.agents.get(self.session.agent)
        return (info.last_line or "") if info else ""

    def _neighbour(self, step: int) -> str:
        """The line before or after, of the same agent."""
        ids = [line.line for line in self.store.lines_of(self.session.agent)]
        if self.line_id not in ids:
            return ""
        index = ids.index(self.line_id) + step
        return ids[index] if 0 <= index < len(ids) else ""

    async def fetch(self) -> None:
        """This line's prompt, and for a diff the one before it."""
        wanted = [self.line_id]
        if self.view == "diff":
            wanted.append(self._neighbour(-1))
        for line in wanted:
            known = self.store.lines.get(line)
            if known is not None and known.state == "speaking":
                continue
            if line and line not in self.store.inspections and line not in self._refused:
                await self._inspect(line)

    async def _inspect(self, line: str) -> None:
        body = InspectRequest(line=line)
        if await self.request("inspect", body, line, quiet=True) is None and not self.unanswered:
            why = self.session.missing.get("inspect", "the server no longer has it")
            self._refused[line] = why
            self.draw()

    def draw(self) -> None:
        """Everything about the line."""
        line = self.line_id
        known = self.store.inspections.get(line)
        self._draw_heading(line)
        pane, figures = self.query_one("#shown", Pane), self.query_one("#figures", Static)
        self.query_one("#facts").display = known is not None
        if known is None:
            pane.show([Block(key="none", content=words(self._why_nothing(line), "$muted"))])
            self.fetch_soon()
            return
        pane.show(self._blocks(known))
        wide = self.size.width >= WIDE
        figures.update(facts(known, 44 if wide else max(40, self.size.width - 4), brief=not wide))

    def _draw_heading(self, line: str) -> None:
        known = self.store.lines.get(line)
        said = f"{known.speaker}: {known.said}" if known and known.said else ""
        heading = Content.assemble(
            words(self.store.name_of(self.session.agent) or "no line chosen", "bold $primary"),
            "  ", (f"{self.view} ", "$accent"),
            words(f"{VIEWS[self.view]}   " if self.size.width >= WIDE else "  ", "$muted"),
            words(said, "$seg-player"),
        )  # fmt: skip
        self.query_one("#which", Static).update(heading)

    def _why_nothing(self, line: str) -> str:
        if not line:
            return (
                "No line chosen: press enter on one in Agents (1), Talk (2) or Log (9), "
                "or let somebody speak first."
            )
        if why := self.not_offered("inspect"):
            return f"The prompt can't be shown: {why}."
        if line in self._refused:
            return f"The prompt of line {line} can't be shown: {self._refused[line]}."
        state = self.store.lines.get(line)
        if state is not None and state.state == "speaking":
            return "This line is still being spoken; its prompt comes when it ends."
        return "Asking the server …"

    def _blocks(self, known: InspectReply) -> list[Block]:
        name = self.store.name_of(known.agent)
        if not known.segments and not known.token_ids:
            return without_model(known, name)
        if self.view == "ids":
            return ids_blocks(known)
        if self.view == "logits":
            return logit_blocks(known)
        if self.view == "diff":
            before = self._neighbour(-1)
            return diff_blocks(known, self.store.inspections.get(before), before)
        return text_blocks(known, name, adapter_name(known.adapter))

    # --- keys ---------------------------------------------------------------------------

    def action_view(self, view: str) -> None:
        """Look at the line another way."""
        self.view = view
        self.draw()
        self.query_one("#shown", Pane).action_edge(-1)
        self.fetch_soon()

    def action_turn(self, step: int) -> None:
        """Go to the agent's line before or after."""
        if line := self._neighbour(step):
            self.session.look_at(line=line)
            self.fetch_soon()

    def action_talk(self) -> None:
        """Talk to whoever said it."""
        self.app.switch_mode("talk")
