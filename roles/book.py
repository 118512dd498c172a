"""A book: read page by page, with a bookmark for each reader, and asked questions.

Reading is plain text and needs no model. A question is answered by the book's own model from
passages of its own text; where its words tell that the book has no answer, the book declines in
its own voice and the model isn't asked.
"""

from __future__ import annotations

import random
from pathlib import Path

from books.book import Page
from books.prompt import book_messages, refers_back
from books.reference import Found, open_book
from engine.requests import Message
from roles.errors import LineError
from roles.store import Store


class BookOnShelf:
    """One book of the world, open."""

    def __init__(self, path: Path, store: Store) -> None:
        self.book, self._reference = open_book(path)
        self._store = store

    @property
    def num_pages(self) -> int:
        """How many pages it has."""
        return len(self.book.pages)

    def bookmark(self, reader: str) -> int:
        """The page a reader is to read next; one past the last at the end."""
        return int(self._store.get(f"bookmark:{self.book.name}:{reader}", 1))

    def read(self, reader: str, number: int | None) -> Page:
        """A page, by number or from the bookmark, which moves on.

        Raises:
            LineError: there is no such page.
        """
        number = self.bookmark(reader) if number is None else number
        if not 1 <= number <= self.num_pages:
            raise LineError(
                f"page {number} of {self.book.title}: it has pages 1 to {self.num_pages}"
            )
        self._store.set(f"bookmark:{self.book.name}:{reader}", number + 1)
        return self.book.pages[number - 1]

    def answered(self, reader: str, question: str) -> tuple[str, str] | None:
        """The reader's last question with its whole reply, if this question refers to them."""
        last = self._store.get(f"answered:{self.book.name}:{reader}", None)
        return (last[0], last[1]) if last and refers_back(question) else None

    def remember(self, reader: str, question: str, reply: str) -> None:
        """Keep the last question that was answered, so that the next may refer to it."""
        self._store.set(f"answered:{self.book.name}:{reader}", [question, reply])

    def find(self, question: str, before: tuple[str, str] | None) -> Found:
        """What a question may rest on, searched together with the one it refers to."""
        return self._reference.find(question, before[0] if before else "")

    def prompt(
        self, question: str, found: Found, before: tuple[str, str] | None
    ) -> tuple[Message, ...]:
        """What its model sees."""
        book = self.book
        return book_messages(book.title, book.author, found.evidence, question, before)

    def abstention(self, seed: int) -> str:
        """One of its sentences for what it doesn't tell."""
        return random.Random(seed).choice(self.book.abstentions)
