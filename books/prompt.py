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


def book_messages(
    title: str,
    author: str,
    passages: Sequence[str],
    question: str,
    before: tuple[str, str] | None = None,
) -> tuple[Message, ...]:
    """Everything a book is shown for one question.

    Args:
        title: the book's.
        author: the book's.
        passages: what the search found, best first.
        question: what the reader asks now.
        before: the reader's previous question and the book's whole reply, so that "and who
            made it?" can be understood; that turn's passages are left out, to keep prompts short.
    """
    turns: tuple[Message, ...] = ()
    if before is not None:
        spoken = Segment(kind="history", text=before[1])
        turns = (book_turn((), before[0]), Message(role="assistant", segments=(spoken,)))
    return (book_system(title, author), *turns, book_turn(passages, question))


def answer_reply(words: str) -> str:
    """How an answer is written."""
    return f"[answer] {words}"


def unknown_reply(words: str) -> str:
    """How not knowing is written."""
    return f"[unknown] {words}"


def parse_reply(text: str) -> tuple[bool, str]:
    """Whether the book knew, and its words; a reply without a mark counts as known."""
    stripped = text.strip()
    for mark, known in (("[answer]", True), ("[unknown]", False)):
        if stripped.startswith(mark):
            return known, stripped.removeprefix(mark).strip()
    return True, stripped
