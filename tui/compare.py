"""Two adapters, or two versions of one, saying the same thing side by side."""

from __future__ import annotations

from contextlib import aclosing
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widgets import Static

from protocol.administration import AgainRequest
from protocol.errors import ProtocolError
from protocol.messages import Delta, LineReply
from tui.dialogs import Dialog
from tui.pane import Block, Pane
from tui.seen import Line
from tui.session import Session
from tui.text import clean, number, words


class Compare(Dialog[None]):
    """Both answers stream at the same time; neither is remembered by anybody."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", "Close", id="compare.close"),
        Binding("s", "again", "Another seed", id="compare.again"),
    ]

    def __init__(self, session: Session, line: Line, adapters: tuple[str, str]) -> None:
        """Compare.

        Args:
            session: of the console.
            line: the line whose very prompt both are given, with the same seed.
            adapters: left and right, as "name@version".
        """
        super().__init__()
        self.session, self.line, self.adapters = session, line, adapters
        self.seed = line.seed or 0

    def compose(self) -> ComposeResult:
        """The question above, two columns below."""
        with Vertical(classes="dialog -tall -broad"):
            yield Static(id="question")
            with Horizontal():
                for side, adapter in zip(("left", "right"), self.adapters, strict=True):
                    with Vertical(classes="half"):
                        yield Static(words(adapter, "bold $primary"), classes="title")
                        yield Pane(id=side, follow=True)
            yield Static(words("s: another seed   esc: close", "$muted"))

    def on_mount(self) -> None:
        """Let both speak."""
        self._speak()

    def _speak(self) -> None:
        question = Content.assemble(
            words(f"{self.line.speaker}: ", "bold $seg-player"), words(self.line.said),
            (f"   seed {self.seed}", "$muted"),
        )  # fmt: skip
        self.query_one("#question", Static).update(question)
        for side, adapter in zip(("left", "right"), self.adapters, strict=True):
            self.run_worker(self._one(side, adapter), group=side, exclusive=True)

    async def _one(self, side: str, adapter: str) -> None:
        """Stream one answer into its column."""
        pane = self.query_one(f"#{side}", Pane)
        name, _, version = adapter.partition("@")
        request = AgainRequest(
            line=self.line.line, seed=self.seed, adapter=name,
            adapter_version=int(version) if version else None,
        )  # fmt: skip
        text, foot = "", Content.styled("speaking …", "$accent")
        try:
            async with aclosing(self.session.link.stream("again", request)) as parts:
                async for part in parts:
                    if isinstance(part, Delta):
                        text += part.text
                    elif isinstance(part, LineReply):
                        text, foot = part.text, _figures(part)
                    pane.show(_blocks(text, foot))
        except ProtocolError as error:
            pane.show(_blocks(text, words(str(error), "$error")))

    def action_again(self) -> None:
        """The same words with the next seed."""
        self.seed += 1
        self._speak()

    def action_close(self) -> None:
        """Back to the conversation; what is still being said is cancelled."""
        self.close()


def _figures(reply: LineReply) -> Content:
    usage = reply.usage
    digest = clean(reply.adapter.digest[:12]) if reply.adapter else ""
    figures = (
        f"first token {number(usage.ttft_ms, ' ms')} · {usage.completion_tokens} tokens at "
        f"{number(usage.tokens_per_s)}/s · {digest}"
    )
    return Content.styled(figures, "$muted")


def _blocks(text: str, foot: Content) -> list[Block]:
    return [
        Block(key="text", content=words(text, lines=True)),
        Block(key="foot", content=foot),
    ]
