"""What a book's model is shown, and how its answer is written.

Training rows and live requests are rendered here alike. A book's reply is one line: `[2] words` in
those of its second note, `[answer] words` in its own where it has no notes, or `[unknown] words`.
To choose a note takes one token so, in which no answer's first words weigh by how common they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from engine.requests import Constraint, Message, Segment

BOOK_HEAD = "You are the book "
# Words that stand for what was spoken of before.
_POINTING = frozenset(
    "he she it they him her them his hers its their theirs this these those".split()  # noqa: SIM905
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """A question that the book's writer has answered."""

    question: str
    answer: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What a search found for a question.

    Attributes:
        passages: of the book's text, best first.
        notes: the writer's answers to like questions, nearest first.
        doubt: in 0 to 1, how likely the book doesn't answer, as the words of question and facts
            tell (`books.signs`); None where there are no facts.
    """

    passages: Sequence[str]
    notes: Sequence[Note] = ()
    doubt: float | None = None

    def hints(self) -> str:
        """All but the passages, as lines; the doubt as a digit, which is one token."""
        lines = [
            f"Note {number}: {one_line(note.question)} {one_line(note.answer)}"
            for number, note in enumerate(self.notes, start=1)
        ]
        if self.doubt is not None:
            lines.append(f"Doubt: {min(9, int(10 * self.doubt))}")
        return "".join(f"{line}\n" for line in lines)

    def choices(self) -> Constraint | None:
        """What a book may reply: the answer of one of its notes; None without any.

        A model of a million parameters that copies freely garbles names. Nor does it decline:
        it was asked because the doubt was small, and judges that worse than the doubt does.
        """
        if not self.notes:
            return None
        replies = [
            answer_reply(one_line(note.answer), number)
            for number, note in enumerate(self.notes, start=1)
        ]
        return Constraint(kind="choice", source=json.dumps(replies))


def one_line(text: str) -> str:
    """The text with every run of white space, line breaks of any script included, as a space."""
    return " ".join(text.split())


def book_system(title: str, author: str) -> Message:
    """The stable head of a book's prompt."""
    named = f"{one_line(title)} by {one_line(author)}"
    text = f"{BOOK_HEAD}{named}. Answer from your pages only."
    return Message(role="system", segments=(Segment(kind="persona", text=text),))


def book_turn(passages: Sequence[str], question: str, hints: str = "") -> Message:
    """A reader's question after the passages it may rest on and other lines of help; the answer
    is `[answer]` or `[unknown]` and then words."""
    found = "".join(f"Passage: {one_line(passage)}\n" for passage in passages) + hints
    segments = (Segment(kind="lore", text=found),) if found else ()
    return Message(
        role="user",
        segments=(*segments, Segment(kind="player", text=f"Reader: {one_line(question)}")),
    )


def book_messages(
    title: str,
    author: str,
    evidence: Evidence,
    question: str,
    before: tuple[str, str] | None = None,
) -> tuple[Message, ...]:
    """Everything a book is shown for one question.

    Args:
        title: the book's.
        author: the book's.
        evidence: what the search found.
        question: what the reader asks now.
        before: the reader's previous question and the book's whole reply, so that "and who
            made it?" can be understood; that turn's evidence is left out, to keep prompts short.
    """
    turns: tuple[Message, ...] = ()
    if before is not None:
        spoken = Segment(kind="history", text=before[1])
        turns = (book_turn((), before[0]), Message(role="assistant", segments=(spoken,)))
    asked = book_turn(evidence.passages, question, evidence.hints())
    return (book_system(title, author), *turns, asked)


def refers_back(question: str) -> bool:
    """Whether a question can only be understood after the one before it: "And where is it?"."""
    words = re.findall(r"[a-z]+", question.lower())
    return words[:1] == ["and"] or not _POINTING.isdisjoint(words)


def answer_reply(words: str, note: int = 0) -> str:
    """How an answer is written; `note`: the one whose words it is in, counted from 1."""
    return f"[{note or 'answer'}] {words}"


def unknown_reply(words: str) -> str:
    """How not knowing is written."""
    return f"[unknown] {words}"


def parse_reply(text: str) -> tuple[bool, str]:
    """Whether the book knew, and its words; a reply without a mark counts as known."""
    mark = re.match(r"\[(\d|answer|unknown)\]\s*", text.strip())
    if mark is None:
        return True, text.strip()
    return mark[1] != "unknown", text.strip()[mark.end() :]
