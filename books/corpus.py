"""A book's text and facts as training rows: questions with the passages retrieved for them.

Every row is what the book would be shown at run time: the passages come from the same search
over the same text. Rows are drawn once from a seed, so that they have a digest and a teacher's
logits for them can be kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from books.book import Book, Passage
from books.facts import Fact, Facts, open_index
from books.prompt import answer_reply, book_messages, unknown_reply
from books.retrieval import content_words
from engine.requests import Message

RowKind = Literal["answer", "unknown", "follow_up", "passage"]
NUM_PASSAGES = 2  # shown with a question
_NUM_WORDINGS = 4  # how often one authored question is asked, each time worded differently
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
    rows = [row for fact in facts.facts for row in writer.answers(fact)]
    rows += [row for fact in facts.facts for row in writer.follow_ups(fact, facts)]
    rows += [row for text in facts.unknown for row in writer.unknowns(text, _NUM_WORDINGS)]
    rows += [row for text in foreign for row in writer.unknowns(text, 1)]
    rows += [row for text in _ELSEWHERE for row in writer.unknowns(text, 2)]
    rows += writer.renamed(facts)
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
    """Renders one book's rows, with passages as its search finds them."""

    def __init__(self, book: Book, facts: Facts, random: Random) -> None:
        self._book = book
        self._random = random
        self._index = open_index(book, facts)

    def answers(self, fact: Fact) -> list[Row]:
        worded = [self._reword(text, n) for text in fact.ask for n in range(_NUM_WORDINGS)]
        reply = answer_reply(fact.answer)
        return [self._row("answer", text, text, reply) for text in worded]

    def follow_ups(self, fact: Fact, facts: Facts) -> list[Row]:
        if fact.after is None:
            return []
        before = facts.by_id()[fact.after]
        rows = []
        for first in before.ask:
            text = self._reword(self._random.choice(fact.then), self._random.randrange(2))
            spoken = (first, answer_reply(before.answer))
            query = f"{first} {text}"
            rows.append(self._row("follow_up", text, query, answer_reply(fact.answer), spoken))
        return rows

    def unknowns(self, question: str, num_wordings: int) -> list[Row]:
        first = self._random.randrange(_NUM_WORDINGS)
        worded = [self._reword(question, first + n) for n in range(num_wordings)]
        return [self._row("unknown", text, text, self._decline()) for text in worded]

    def renamed(self, facts: Facts) -> list[Row]:
        """Questions about somebody or something of this book under a name it never mentions."""
        rows = []
        for fact in facts.facts:
            for question in fact.ask[:2]:
                names = re.findall(r"(?<=\w )[A-Z]\w{2,}", question)
                if names:
                    text = question.replace(self._random.choice(names), self._invent())
                    rows.append(self._row("unknown", text, text, self._decline()))
        return rows

    def _row(
        self,
        kind: RowKind,
        question: str,
        query: str,
        reply: str,
        before: tuple[str, str] | None = None,
    ) -> Row:
        book = self._book
        passages = self._passages(query)
        messages = book_messages(book.title, book.author, passages, question, before)
        return Row(kind=kind, messages=messages, reply=reply)

    def _passages(self, query: str) -> list[str]:
        """Mostly what a reader's question would find, sometimes fewer or in another order."""
        found = [hit.passage.text for hit in self._index.search(query, NUM_PASSAGES)]
        draw = self._random.random()
        if draw < 0.1:
            return found[:1]
        return found[::-1] if draw < 0.25 else found

    def _decline(self) -> str:
        return unknown_reply(self._random.choice(self._book.abstentions))

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
