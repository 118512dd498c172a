"""A book as text: pages to read aloud, passages to answer from. No model is involved.

A book is Markdown with a front matter of four keys, or plain text:

    ---
    title: The Tide Tables
    author: Iskra Vane
    spine: When the sea under the library comes and goes.
    abstain:
      - The tide took that page.
    ---
    # A chapter

    Paragraphs, with an empty line between them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from books.errors import BookTextError

MAX_BOOK_BYTES = 2_000_000  # twice a long novel; a longer text is several books
_PAGE_WORDS = 170  # about forty lines on a game's page
_PASSAGE_WORDS = 40  # two or three sentences: small enough to put two into every prompt
_ABSTAIN = ("That is not in my pages.", "My pages do not tell.")
_SENTENCE_END = re.compile(r"(?<=[.!?;:])[\"'\u201d\u2019)]*\s+(?=[\"'\u201c\u2018(]?[A-Z0-9])")


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """One page to read aloud; `number` counts from 1."""

    number: int
    chapter: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """A few sentences of one page; `number` counts from 1 through the whole book."""

    number: int
    page: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Book:
    """A book's text and what its cover says.

    Attributes:
        name: the file's name without its ending; also the student's.
        spine: one line for a shelf's list.
        abstentions: sentences it declines with, in its own voice.
        digest: SHA-256 of the file's bytes, in hexadecimal.
    """

    name: str
    title: str
    author: str
    spine: str
    abstentions: tuple[str, ...]
    pages: tuple[Page, ...]
    passages: tuple[Passage, ...]
    digest: str


def read_book(path: Path) -> Book:
    """Read a .md or .txt file.

    Raises:
        BookTextError: the file is missing, empty, longer than `MAX_BOOK_BYTES`, not UTF-8, or
            its front matter is broken.
    """
    text = _read_text(path)
    header, body = _split_header(text, path)
    chapters = _chapters(body)
    pages = _pages(chapters)
    if not pages:
        raise BookTextError(f"{path}: the book has no text")
    return Book(
        name=path.stem,
        title=_line(header, "title", path, path.stem.replace("_", " ").title()),
        author=_line(header, "author", path, "an unknown hand"),
        spine=_line(header, "spine", path, ""),
        abstentions=_abstentions(header, path),
        pages=pages,
        passages=_passages(pages),
        digest=sha256(text.encode()).hexdigest(),
    )


def find_books(folder: Path) -> dict[str, Path]:
    """Every .md and .txt file of a folder, by name in alphabetical order."""
    found = (path for path in sorted(folder.glob("*")) if path.suffix in {".md", ".txt"})
    return {path.stem: path for path in found}


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_BOOK_BYTES:
            raise BookTextError(
                f"{path}: {size:,} bytes are more than a book's {MAX_BOOK_BYTES:,}; "
                "split it into volumes"
            )
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BookTextError(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BookTextError(
            f"{path}: byte {error.start} is not UTF-8; save the text as UTF-8"
        ) from error
    if not text.strip():
        raise BookTextError(f"{path}: the file is empty")
    if "\0" in text:
        raise BookTextError(f"{path}: holds NUL bytes, so it isn't text")
    return text.replace("\r\n", "\n")


def _split_header(text: str, path: Path) -> tuple[dict[str, Any], str]:
    if not text.startswith("---\n"):
        return {}, text
    head, mark, body = text[4:].partition("\n---\n")
    if not mark:
        raise BookTextError(f"{path}: the front matter has no closing line ---")
    try:
        header = yaml.safe_load(head)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise BookTextError(f"{path}: the front matter isn't YAML: {reason}") from error
    if not isinstance(header, dict):
        raise BookTextError(f"{path}: the front matter must be keys with values")
    return header, body


def _line(header: dict[str, Any], key: str, path: Path, default: str) -> str:
    value = header.get(key, default)
    if not isinstance(value, str):
        raise BookTextError(f"{path}: {key} is {value!r}; it must be a line of text")
    return " ".join(value.split())


def _abstentions(header: dict[str, Any], path: Path) -> tuple[str, ...]:
    value = header.get("abstain", list(_ABSTAIN))
    if not isinstance(value, list) or not value or not all(isinstance(v, str) for v in value):
        raise BookTextError(f"{path}: abstain is {value!r}; it must be a list of sentences")
    return tuple(value)


def _chapters(body: str) -> list[tuple[str, list[str]]]:
    """Split at Markdown headings into (heading, paragraphs)."""
    chapters: list[tuple[str, list[str]]] = [("", [])]
    for block in re.split(r"\n\s*\n", body.strip()):
        heading = re.match(r"#+\s+(.+)", block)
        if heading:
            chapters.append((heading[1].strip(), []))
            block = block[heading.end() :]
        paragraph = " ".join(block.replace("*", "").split())
        if paragraph:
            chapters[-1][1].append(paragraph)
    return chapters


def _pages(chapters: list[tuple[str, list[str]]]) -> tuple[Page, ...]:
    """Fill pages with whole sentences; a chapter starts a new page."""
    pages: list[Page] = []
    for chapter, paragraphs in chapters:
        for text in _fill(paragraphs, _PAGE_WORDS, "\n\n"):
            pages.append(Page(number=len(pages) + 1, chapter=chapter, text=text))
    return tuple(pages)


def _passages(pages: tuple[Page, ...]) -> tuple[Passage, ...]:
    """Cut pages into passages; a chapter's first one begins with the chapter's heading."""
    passages: list[Passage] = []
    heading = ""
    for page in pages:
        new = page.chapter and page.chapter != heading
        opening = f"{page.chapter}. " if new else ""
        heading = page.chapter
        for paragraph in page.text.split("\n\n"):
            for text in _fill(sentences(paragraph), _PASSAGE_WORDS, " "):
                number = len(passages) + 1
                passages.append(Passage(number=number, page=page.number, text=opening + text))
                opening = ""
    return tuple(passages)


def _fill(parts: list[str], limit: int, joiner: str) -> list[str]:
    """Join parts until `limit` words are reached; a part that is longer is cut at sentences."""
    filled: list[str] = []
    current: list[str] = []
    num_words = 0
    for part in parts:
        for piece in _cut(part, limit):
            length = len(piece.split())
            if current and num_words + length > limit:
                filled.append(joiner.join(current))
                current, num_words = [], 0
            current.append(piece)
            num_words += length
    return [*filled, joiner.join(current)] if current else filled


def _cut(text: str, limit: int) -> list[str]:
    words = text.split()
    if len(words) <= limit:
        return [text]
    pieces = sentences(text)
    if len(pieces) > 1:
        return _fill(pieces, limit, " ")
    return [" ".join(words[start : start + limit]) for start in range(0, len(words), limit)]


def sentences(paragraph: str) -> list[str]:
    """Cut a paragraph after sentence ends that a capital or a digit follows."""
    starts = [0, *(match.end() for match in _SENTENCE_END.finditer(paragraph)), len(paragraph)]
    found = (paragraph[a:b].strip() for a, b in pairwise(starts))
    return [sentence for sentence in found if sentence]
