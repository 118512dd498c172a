"""The shelf: a book's pages, and its answers with the passages they rest on."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Input, Static

from protocol.administration import AdaptersRequest, AgentInfo
from protocol.errors import ProtocolError
from protocol.messages import AskRequest, LineReply
from protocol.play import ReadRequest
from tui.page import Page
from tui.pane import Block, Pane
from tui.table import Column, Row, Table
from tui.talk import NUM_ALTERNATIVES, line_content
from tui.text import clean, size, words

_READER = "console"


class BooksPage(Page):
    """Shelf at the left, the open book at the right, a line to ask below."""

    MODE = "books"
    ABOUT = (
        "The books this world hosts, each a small model distilled from its text. Left and right "
        "turn pages; a question is answered from the book alone, with the passages the answer "
        "rests on, or not at all where the book does not say."
    )
    WATCHES = ("agents", "adapters", "books", "lines")
    POLL_S = 5.0
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "turn(-1)", "Page back", id="books.back", key_display="←"),
        Binding("right", "turn(1)", "Page on", id="books.on", key_display="→"),
        Binding("a", "ask", "Ask", id="books.ask"),
        Binding("enter", "why", "Why?", id="books.why", key_display="⏎"),
        Binding("escape", "leave", "To the shelf", id="books.leave"),
    ]

    def body(self) -> Iterable[Widget]:
        """Shelf, page, question."""
        with Horizontal():
            yield Table(
                [
                    Column(title="Book", width=16, flex=1),
                    Column(title="Model", width=9),
                    Column(title="Size", width=9, right=True, rank=1),
                ],
                empty="this world has no books",
                id="shelf",
            )
            with Vertical(id="book"):
                yield Static(id="spine", classes="title")
                yield Pane(id="page")
                yield Pane(id="answers", follow=True)
                yield Input(placeholder="ask this book, then enter", id="question", compact=True)

    def on_mount(self) -> None:
        """Start at the shelf."""
        self.query_one(Table).focus()

    async def fetch(self) -> None:
        """Residency of the students, and the open book's page."""
        if self.store.may("adapters"):
            await self.request("adapters", AdaptersRequest(), "list", quiet=True)
        book = self._book()
        if book and book not in self.store.pages:
            body = ReadRequest(agent=book, page=1, reader=_READER)
            await self.request("read", body, book, quiet=True)

    def _book(self) -> str:
        return self.query_one(Table).cursor_key or ""

    def draw(self) -> None:
        """Shelf, page and answers."""
        books = [info for info in self.store.agents.values() if info.tier == "book"]
        self.query_one(Table).show([self._row(info) for info in books])
        self._draw_book()

    def _row(self, info: AgentInfo) -> Row:
        student = self.store.adapters.get(info.adapter.name if info.adapter else info.agent)
        if student is None:
            where = Content.styled("—", "$muted")
        else:
            where = Content.styled(*(("● loaded", "$success") if student.resident
                                     else ("○ on disk", "$muted")))  # fmt: skip
        held = size(student.size_bytes or None) if student else "—"
        return Row(key=info.agent, cells=(words(info.name or info.agent, "bold"), where, held))

    def _draw_book(self) -> None:
        book = self._book()
        info, page = self.store.agents.get(book), self.store.pages.get(book)
        title = Content.assemble(
            words(info.name if info else "no book", "bold $tier-book"), "  ",
            (f"page {page.page} of {page.pages}  " if page else "", "$muted"),
            words(info.about if info else "", "$muted"),
        )  # fmt: skip
        self.query_one("#spine", Static).update(title)
        text = page.text if page else self._no_page(book)
        self.query_one("#page", Pane).show([Block(key="page", content=words(text, lines=True))])
        answers = self.query_one("#answers", Pane)
        lines = self.store.lines_of(book)[-20:]
        answers.display = bool(lines)
        name = self.store.name_of(book)
        answers.show([
            Block(key=line.line, content=line_content(line, name), selectable=True)
            for line in lines
        ])  # fmt: skip

    def _no_page(self, book: str) -> str:
        if not book:
            return ""
        return f"No page: {why}." if (why := self.not_offered("read")) else "Opening …"

    @on(Table.Highlighted, "#shelf")
    def _highlighted(self) -> None:
        self._draw_book()
        self.fetch_soon()

    def action_turn(self, pages: int) -> None:
        """Turn the page."""
        page = self.store.pages.get(self._book())
        wanted = (page.page if page else 0) + pages
        if page is None or 1 <= wanted <= page.pages:
            self.run_worker(self._read(max(1, wanted)), group="read", exclusive=True)

    async def _read(self, page: int) -> None:
        book = self._book()
        body = ReadRequest(agent=book, page=page, reader=_READER)
        if await self.request("read", body, book) is not None:
            self.query_one("#page", Pane).scroll_to(y=0, animate=False)

    def action_ask(self) -> None:
        """Go to the line to type a question."""
        self.query_one("#question", Input).focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Escape has no use at the shelf."""
        if action == "leave" and isinstance(self.focused, Table):
            return False
        return super().check_action(action, parameters)

    def action_leave(self) -> None:
        """Back to the shelf."""
        self.query_one(Table).focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Ask the book."""
        if (text := event.value.strip()) and (book := self._book()):
            event.input.value = ""
            self.run_worker(self._ask(book, text), group="ask")

    async def _ask(self, book: str, text: str) -> None:
        body = AskRequest(agent=book, text=text, speaker=_READER, top_logprobs=NUM_ALTERNATIVES)
        try:
            async with aclosing(self.session.speak("ask", body)) as parts:
                async for part in parts:
                    line = self.store.lines.get(getattr(part, "line", ""))
                    if line is not None and not line.said:
                        line.speaker, line.said = _READER, text
                    if isinstance(part, LineReply):
                        self.session.look_at(book, part.line)
        except ProtocolError as error:
            self.complain(clean(str(error)))

    @on(Pane.Chosen, "#answers")
    def _chosen(self) -> None:
        self.action_why()

    def action_why(self) -> None:
        """Show the prompt behind the answer under the cursor."""
        key = self.query_one("#answers", Pane).cursor_key
        if key in self.store.lines:
            self.session.look_at(self._book(), key or "")
            self.app.switch_mode("prompt")
