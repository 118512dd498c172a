"""A book: read page by page, with a bookmark for each reader, and asked questions.

Reading is plain text and needs no model. A question is answered by the book's own model from
passages of its own text; where no passage shares a word with it, the book declines in its own
voice without being asked.
"""

from __future__ import annotations

import random
from pathlib import Path

from books.book import Page
from books.prompt import book_messages
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

    def find(self, question: str) -> Found:
        """What a question may rest on."""
        return self._reference.find(question)

    def prompt(self, question: str, found: Found) -> tuple[Message, ...]:
        """What its model sees."""
        return book_messages(self.book.title, self.book.author, found.evidence, question)

    def abstention(self, seed: int) -> str:
        """One of its sentences for what it doesn't tell."""
        return random.Random(seed).choice(self.book.abstentions)
