"""What a book's model is shown, and how its answer is written.

Training rows and live requests are rendered here alike. A book's reply is one line,
`[answer] words` or `[unknown] words`.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.requests import Message, Segment


def one_line(text: str) -> str:
    """The text with every run of white space, line breaks of any script included, as a space."""
    return " ".join(text.split())


def book_system(title: str, author: str) -> Message:
    """The stable head of a book's prompt."""
    text = f"You are the book {one_line(title)} by {one_line(author)}. Answer from your pages only."
    return Message(role="system", segments=(Segment(kind="persona", text=text),))


def book_turn(passages: Sequence[str], question: str) -> Message:
    """A reader's question after the passages it may rest on; the answer is `[answer]` or
    `[unknown]` and then words."""
    found = "".join(f"Passage: {one_line(passage)}\n" for passage in passages)
    segments = (Segment(kind="lore", text=found),) if found else ()
    return Message(
        role="user",
        segments=(*segments, Segment(kind="player", text=f"Reader: {one_line(question)}")),
    )
