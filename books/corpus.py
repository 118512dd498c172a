"""A book's text and facts as training rows: questions with the evidence found for them.

Every row is what the book would be shown at run time: the evidence comes from the same search.
An annotated question is left out of the index while evidence for it is sought, as a reader's
words are never quite the writer's; where its fact isn't found without it, it is put back, so
that an answer is always among the notes and a student learns to look for it there, and to
decline where it isn't. Rows are drawn once from a seed, so that they have a digest and a teacher's
logits for them can be kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from books.book import Book, Passage
from books.facts import Fact, Facts, questions_to_train
from books.near import near_questions
from books.prompt import answer_reply, book_messages, one_line, unknown_reply
from books.reference import Found, Reference
from books.retrieval import content_words
from engine.requests import Message

RowKind = Literal["answer", "unknown", "follow_up", "passage"]
_NUM_WORDINGS = 4  # ways to word one authored question, of which each row draws
_DECLINED = 2  # rows of an authored question that the book can't answer
_HELD_OUT_EVERY = 10  # each tenth passage only measures perplexity
_OPENINGS = (
    "Tell me, {}", "Please, {}", "I want to know: {}", "Book, {}", "Do you know: {}", "So, {}",
)  # fmt: skip
_ELSEWHERE = (
    "What is my name?", "What did I have for breakfast?", "Who won the race?", "How do I get home?",
    "What is the capital of France?", "Can you sing me a song?", "How old is the king?",
    "What is two and two?", "Where is my brother?", "Who is your favourite hero?",
    "What will happen tomorrow?", "How do I open the red door?", "What is the password?",
    "Where can I buy a horse?", "How much gold do I carry?", "Who killed the duke?",
    "What does the dragon fear?", "When does the train leave?", "What is love?",
    "How deep is the moon?", "Is it raining outside?", "What should I do next?",
    "Who taught you to speak?", "How many stars are there?", "What is the price of silk?",
    "Which sword should I choose?", "Where did the thief run?", "How tall is the tower of Brask?",
    "What language do the goblins speak?", "Why is the sky blue?", "Who is the mayor?",
    "What happened to the wizard Oramund?", "Where is the nearest inn?", "How do I learn to fly?",
)  # fmt: skip
_NUM_NEAR = 80
_SYLLABLES = "bal cor dra fen gos hul irm jas kel lor mun nev ost pir quo rav sel tam ulm vor"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One training example: a conversation that `reply` ends.

    A row of kind "passage" has no messages: its reply is a piece of the book itself.
    """

    kind: RowKind
    messages: tuple[Message, ...]
    reply: str


def build_rows(book: Book, facts: Facts, foreign: Sequence[str], seed: int = 0) -> list[Row]:
    """Every training row of a book, in a fixed order.

    Args:
        book: its text.
        facts: what can be asked of it.
        foreign: questions that other books answer and this one doesn't.
        seed: draws wordings and passages.
    """
    writer = _RowWriter(book, facts, Random(f"{book.name}:{seed}"))
    trained, unknown = questions_to_train(facts)
    rows = [row for fact in facts.facts for row in writer.answers(fact, trained[fact.id])]
    rows += [row for fact in facts.facts for row in writer.follow_ups(fact, facts)]
    rows += [row for text in unknown for row in writer.unknowns(text, _DECLINED)]
    rows += [row for text in foreign for row in writer.unknowns(text, 1)]
    rows += [row for text in _ELSEWHERE for row in writer.unknowns(text, 1)]
    rows += writer.renamed(facts)
    near = near_questions(book, facts, Random(f"near:{book.name}:{seed}"), _NUM_NEAR)
    rows += [row for text in near for row in writer.unknowns(text, 1)]
    kept, _ = split_passages(book)
    rows += [Row(kind="passage", messages=(), reply=passage.text) for passage in kept]
    return rows


def split_passages(book: Book) -> tuple[list[Passage], list[Passage]]:
    """Passages to train on, and those only ever used to measure perplexity."""
    kept = [p for p in book.passages if p.number % _HELD_OUT_EVERY]
    return kept, [p for p in book.passages if not p.number % _HELD_OUT_EVERY]


def questions_of(facts: Facts) -> list[str]:
    """One wording of each fact: what other books must learn not to answer."""
    return [fact.ask[0] for fact in facts.facts]


class _RowWriter:
    """Renders one book's rows, with evidence as its search finds it."""

    def __init__(self, book: Book, facts: Facts, random: Random) -> None:
        self._book = book
        self._random = random
        self._reference = Reference(book, facts)

    def answers(self, fact: Fact, questions: Sequence[str]) -> list[Row]:
        rows = []
        for question in questions:
            variant = self._random.choice((0, self._random.randrange(1, _NUM_WORDINGS)))
            text = self._reword(question, variant)
            if found := self._find(text, "", question, fact):
                rows.append(self._row("answer", text, found, _answer(fact, found)))
        return rows

    def follow_ups(self, fact: Fact, facts: Facts) -> list[Row]:
        if fact.after is None:
            return []
        before = facts.by_id()[fact.after]
        rows = []
        for first in before.ask:
            then = self._random.choice(fact.then)
            text = self._reword(then, self._random.randrange(2))
            spoken = (first, answer_reply(before.answer))
            if found := self._find(text, first, then, fact):
                rows.append(self._row("follow_up", text, found, _answer(fact, found), spoken))
        return rows

    def unknowns(self, question: str, num_wordings: int) -> list[Row]:
        first = self._random.randrange(_NUM_WORDINGS)
        texts = [self._reword(question, first + n) for n in range(num_wordings)]
        return [row for text in texts for row in self._declined(text)]

    def renamed(self, facts: Facts) -> list[Row]:
        """Questions about somebody or something of this book under a name it never mentions."""
        rows = []
        for fact in facts.facts:
            names = re.findall(r"(?<=\w )[A-Z]\w{2,}", fact.ask[0])
            if names:
                invented = fact.ask[0].replace(self._random.choice(names), self._invent())
                rows += self._declined(invented)
        return rows

    def _find(self, text: str, before: str, question: str, fact: Fact) -> Found | None:
        """Evidence as for words never seen, or with them if the fact isn't found otherwise; None
        if it still isn't, or no model would be asked."""
        for without in (question, ""):
            found = self._reference.find(text, before, without=without)
            if fact in found.facts and not found.hopeless:
                return found
        return None

    def _declined(self, question: str) -> list[Row]:
        """One row, or none where the book declines without its model: a student that saw those,
        most of all, would decline what it is asked."""
        reply = unknown_reply(self._random.choice(self._book.abstentions))
        found = self._reference.find(question)
        return [] if found.hopeless else [self._row("unknown", question, found, reply)]

    def _row(
        self,
        kind: RowKind,
        question: str,
        found: Found,
        reply: str,
        before: tuple[str, str] | None = None,
    ) -> Row:
        book = self._book
        messages = book_messages(book.title, book.author, found.evidence, question, before)
        return Row(kind=kind, messages=messages, reply=reply)

    def _invent(self) -> str:
        return "".join(self._random.sample(_SYLLABLES.split(), 2)).capitalize()

    def _reword(self, question: str, variant: int) -> str:
        """The question as written (0), or as hastier readers put it."""
        match variant % _NUM_WORDINGS:
            case 0:
                return question
            case 1:
                bare = question[0].lower() + question[1:]
                return self._random.choice(_OPENINGS).format(bare)
            case 2:
                return question.lower().rstrip("?.")
            case _:
                words = content_words(question)
                return " ".join(words) + "?" if len(words) > 1 else question.lower()


def _answer(fact: Fact, found: Found) -> str:
    """A fact's answer in the words of its note, as a served book would write it."""
    return answer_reply(one_line(fact.answer), found.facts.index(fact) + 1)
