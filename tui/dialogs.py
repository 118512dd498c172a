"""Small questions over a screen: yes or no, a line of text, one of many, help."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypeVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from tui.pane import Block, Pane
from tui.table import Column, Row, Table
from tui.text import clean, words

T = TypeVar("T")


class Dialog(ModalScreen[T]):
    """A question that is answered once: a key that comes while it closes changes nothing."""

    _answered = False

    def close(self, answer: T | None = None) -> None:
        """Close with an answer."""
        if not self._answered:
            self._answered = True
            self.dismiss(answer)


class Confirm(Dialog[bool]):
    """Asks before something that can't be undone by the same key."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "answer(True)", "Yes", id="confirm.yes"),
        Binding("n,escape", "answer(False)", "No", id="confirm.no"),
    ]

    def __init__(self, question: str) -> None:
        """Ask this question."""
        super().__init__()
        self.question = question

    def compose(self) -> ComposeResult:
        """The question, and how to answer."""
        with Vertical(classes="dialog"):
            yield Static(words(self.question, lines=True))
            yield Static(
                Content.assemble(
                    ("\n y ", "bold $primary"), "yes   ", ("n ", "bold $primary"), "no"
                )
            )

    def action_answer(self, yes: bool) -> None:
        """Close with the answer."""
        self.close(yes)


class Ask(Dialog[str | None]):
    """Asks for a line of text; escape gives None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel", id="ask.cancel"),
    ]

    def __init__(self, question: str, value: str = "", hint: str = "") -> None:
        """Ask, with a value to start from."""
        super().__init__()
        self.question, self.value, self.hint = question, value, hint

    def compose(self) -> ComposeResult:
        """The question and a line to type."""
        with Vertical(classes="dialog"):
            yield Static(words(self.question, "bold"))
            yield Input(clean(self.value), placeholder=self.hint, compact=True)
            yield Static(words("enter: done   esc: cancel", "$muted"))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Close with what was typed, if anything was."""
        self.close(event.value.strip() or None)

    def action_cancel(self) -> None:
        """Close with nothing."""
        self.close()


class Choose(Dialog[str | None]):
    """Asks for one of many; typing narrows them down."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", "Cancel", id="choose.cancel"),
        Binding("down", "move(1)", show=False, id="choose.down"),
        Binding("up", "move(-1)", show=False, id="choose.up"),
    ]

    def __init__(self, question: str, options: Sequence[tuple[str, str]], here: str = "") -> None:
        """Ask for one of (key, description) pairs, starting at the key `here`."""
        super().__init__()
        self.question, self.options, self.here = question, options, here

    def compose(self) -> ComposeResult:
        """The question, a filter and the list."""
        with Vertical(classes="dialog -tall"):
            yield Static(words(self.question, "bold"))
            yield Input(placeholder="type to narrow down", compact=True)
            yield Table(
                [Column(title="", width=18), Column(title="", width=10, flex=1)],
                empty="nothing matches",
            )

    def on_mount(self) -> None:
        """List the options; the filter line keeps the focus."""
        table = self.query_one(Table)
        table.can_focus = False
        table.show(
            [
                Row(
                    key=key,
                    cells=(words(key), words(about, "$muted")),
                    search=clean(f"{key} {about}").lower(),
                )
                for key, about in self.options
            ]
        )
        table.move_to(self.here)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Narrow the list down."""
        self.query_one(Table).filter(event.value)

    def action_move(self, rows: int) -> None:
        """Move through the list while typing."""
        self.query_one(Table).action_move(rows)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Close with the option under the cursor, of those that what was typed leaves."""
        table = self.query_one(Table)
        table.filter(event.value)
        self.close(table.shown[table.cursor_index].key if table.shown else None)

    @on(Table.Chosen)
    def _chosen(self, event: Table.Chosen) -> None:
        self.close(event.key)

    def action_cancel(self) -> None:
        """Close with nothing."""
        self.close()


class Help(Dialog[None]):
    """What this screen is for, and every key that works here."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f1,q,question_mark", "close", "Close", id="help.close"),
    ]

    def __init__(self, title: str, about: str, keys: Sequence[tuple[str, str, bool]]) -> None:
        """Show help.

        Args:
            title: of the screen.
            about: what it shows, in a few sentences.
            keys: key, what it does, whether it works now.
        """
        super().__init__()
        self.title_text, self.about, self.keys = title, about, keys

    def compose(self) -> ComposeResult:
        """The sentences, then the keys."""
        with Vertical(classes="dialog -tall"):
            yield Pane(id="help")
            yield Static(words("esc: close", "$muted"))

    def on_mount(self) -> None:
        """Fill the pane."""
        blocks = [
            Block(key="title", content=words(self.title_text, "bold $primary")),
            Block(key="about", content=words(self.about + "\n", lines=True)),
        ]
        for index, (key, does, enabled) in enumerate(self.keys):
            style = "" if enabled else "$muted"
            note = "" if enabled else "  (not now, or not with this key's role)"
            content = Content.assemble(
                (f"{key:>12}  ", "bold $primary" if enabled else style), words(does + note, style)
            )
            blocks.append(Block(key=f"key{index}", content=content))
        self.query_one(Pane).show(blocks)
        self.query_one(Pane).focus()

    def action_close(self) -> None:
        """Back to the screen."""
        self.close()
