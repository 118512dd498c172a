"""Mixing adapters: a slider each, and the mixture's voice at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing, suppress
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.timer import Timer
from textual.widgets import Input, Static

from protocol.administration import AdaptersRequest
from protocol.errors import ProtocolError
from protocol.messages import Delta, LineReply, SayRequest
from tui.chart import bar
from tui.dialogs import Ask, Dialog
from tui.pane import Block, Pane
from tui.session import Session
from tui.table import Column, Row, Table
from tui.text import clean, words

_STEP = 0.1
_REST_S = 0.4  # a slider that rests so long is heard
TRIAL = "console-blend"  # name of the mixture being listened to


class Blend(Dialog[None]):
    """Sliders over adapters; the mixture says what is typed below, and again as it changes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Close", id="blend.close"),
        Binding("left,minus", "slide(-1)", "Less", id="blend.less"),
        Binding("right,plus", "slide(1)", "More", id="blend.more"),
        Binding("ctrl+s", "keep", "Keep as …", id="blend.keep", priority=True),
    ]

    def __init__(self, session: Session, names: Sequence[str]) -> None:
        """Mix these adapters; the first starts at full weight."""
        super().__init__()
        self.session = session
        self.shares = {name: (1.0 if name == names[0] else 0.0) for name in names}
        self._text = ""
        self._timer: Timer | None = None
        self._made = False

    def compose(self) -> ComposeResult:
        """Sliders, a line to say, the answer."""
        with Vertical(classes="dialog -tall"):
            yield Static(words("Blend adapters and hear the result", "bold"))
            yield Table(
                [Column(title="Adapter", width=18, flex=1), Column(title="Share", width=40)]
            )
            yield Input(placeholder="say something to hear the blend", compact=True)
            yield Pane(id="heard", follow=True)
            keys = "↑↓ ←→: shares   tab: say   ctrl+s: keep as a new adapter   esc: close"
            yield Static(words(keys, "$muted"))

    def on_mount(self) -> None:
        """Start at the sliders."""
        self._draw()
        self.query_one(Table).focus()

    def _draw(self) -> None:
        rows = [
            Row(
                key=name,
                cells=(words(name), Content.assemble(bar(share, 30), f" {share:4.0%}")),
            )
            for name, share in self.shares.items()
        ]
        self.query_one(Table).show(rows)

    def action_slide(self, steps: int) -> None:
        """Give the adapter under the cursor more or less."""
        name = self.query_one(Table).cursor_key or ""
        share = self.shares.get(name, 0.0) + steps * _STEP
        self.shares[name] = round(min(max(share, 0.0), 1.0), 2)
        self._draw()
        if self._timer is not None:
            self._timer.stop()
        self._timer = self.set_timer(_REST_S, self._hear_again)

    def _weights(self) -> dict[str, float]:
        return {name: share for name, share in self.shares.items() if share > 0}

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Make the blend and let it speak."""
        self._text = event.value.strip()
        self._hear_again()

    def _hear_again(self) -> None:
        """Let the blend as it is now say what was typed, if anything was."""
        if self._text:
            self.run_worker(self._hear(self._text), group="hear", exclusive=True)

    async def _hear(self, text: str) -> None:
        agent, weights = self._speaker(), self._weights()
        if not agent or not weights:
            self._say(words("Give at least one adapter a share.", "$warning"))
            return
        self._say(words("blending …", "$muted"))
        try:
            self._made = True
            blend = AdaptersRequest(op="blend", name=TRIAL, weights=weights)
            await self.session.request("adapters", blend, "blend")
            await self._speak(
                SayRequest(agent=agent, text=text, adapter=TRIAL, ephemeral=True, seed=0)
            )
        except ProtocolError as error:
            self._say(words(str(error), "$error"))

    async def _speak(self, body: SayRequest) -> None:
        text = ""
        async with aclosing(self.session.link.stream("say", body)) as parts:
            async for part in parts:
                if isinstance(part, Delta):
                    text += part.text
                elif isinstance(part, LineReply):
                    text = part.text
                self._say(words(text, lines=True))

    def _say(self, content: Content) -> None:
        self.query_one("#heard", Pane).show([Block(key="heard", content=content)])

    def _speaker(self) -> str:
        """Who speaks: the character chosen elsewhere, else the first."""
        agents = self.session.store.agents
        here = agents.get(self.session.agent)
        if here is not None and here.tier == "npc":
            return here.agent
        return next((key for key, info in agents.items() if info.tier == "npc"), "")

    def action_keep(self) -> None:
        """Keep the blend under a name of its own."""
        self.run_worker(self._keep(), group="keep")

    async def _keep(self) -> None:
        question = "Name of the new adapter (small letters, digits, - and _):"
        if name := await self.app.push_screen_wait(Ask(question)):
            try:
                body = AdaptersRequest(op="blend", name=name, weights=self._weights())
                await self.session.request("adapters", body, "blend")
            except (ProtocolError, ValueError) as error:
                self._say(words(str(error), "$error"))
                return
            self._say(words(f"Kept as {clean(name)}; swap it in from the list.", "$success"))

    def action_close(self) -> None:
        """Back to the list; the mixture that was listened to makes room."""
        if self._made:
            self.app.run_worker(self._unload(), group="act")
        self.close()

    async def _unload(self) -> None:
        with suppress(ProtocolError):  # it never came to be, or the server is gone: nothing lost
            body = AdaptersRequest(op="unload", name=TRIAL)
            await self.session.request("adapters", body, "unload")
            await self.session.request("adapters", AdaptersRequest(), "list")
