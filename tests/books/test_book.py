from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from books.book import MAX_BOOK_BYTES, find_books, read_book, sentences
from books.errors import BookTextError


def write(folder: Path, content: str | bytes, name: str = "a.md") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_book_has_its_cover_chapters_and_voice(book_path: Path) -> None:
    book = read_book(book_path)
    assert (book.name, book.title, book.author) == ("well_of_ink", "The Well of Ink", "Vera Holm")
    assert book.abstentions == ("My pages are dry on that.",)
    assert [page.chapter for page in book.pages] == ["The digging", "The keeping"]
    assert book.passages[0].text.startswith("The digging. The well of ink was dug by Vera Holm")


def test_every_word_of_the_pages_is_in_exactly_one_passage(book_path: Path) -> None:
    book = read_book(book_path)
    pages = " ".join(f"{page.chapter}. {page.text}" for page in book.pages).split()
    assert " ".join(passage.text for passage in book.passages).split() == pages


def test_plain_text_is_a_book_named_after_its_file(tmp_path: Path) -> None:
    book = read_book(write(tmp_path, "One sentence stands here.", "a_short_note.txt"))
    assert (book.title, book.author) == ("A Short Note", "an unknown hand")
    assert [passage.text for passage in book.passages] == ["One sentence stands here."]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "the file is empty"),
        (b" \n\n ", "the file is empty"),
        ("caf\u00e9".encode("latin-1"), "byte 3 is not UTF-8"),
        ("Hall\u00e5".encode("utf-16"), "byte 0 is not UTF-8"),
        (b"a\0b", "NUL bytes"),
        (b"x" * (MAX_BOOK_BYTES + 1), "split it into volumes"),
        (b"word " * 1_000_000, "5,000,000 bytes are more than"),
        (b"---\ntitle: A\n", "no closing line"),
        (b"---\ntitle: [\n---\nText.", "isn't YAML"),
        (b"---\n- a\n---\nText.", "keys with values"),
        (b"---\ntitle: 3\n---\nText.", "title is 3"),
        (b"---\nabstain: no\n---\nText.", "abstain is False"),
        (b"---\ntitle: A\n---\n# Only a heading\n", "has no text"),
    ],
)
def test_what_is_no_book_is_refused_in_one_sentence(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    with pytest.raises(BookTextError, match=complaint):
        read_book(write(tmp_path, content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BookTextError, match=r"nowhere\.md: can't be read"):
        read_book(tmp_path / "nowhere.md")


def test_a_byte_order_mark_and_windows_line_ends_are_read_over(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf---\r\ntitle: Marked\r\n---\r\nA line.\r\n"
    assert read_book(write(tmp_path, content)).title == "Marked"


def test_a_sentence_longer_than_a_page_is_cut(tmp_path: Path) -> None:
    book = read_book(write(tmp_path, "and then " * 500))
    assert len(book.pages) > 3
    assert max(len(passage.text.split()) for passage in book.passages) <= 40


def test_only_texts_are_found_and_annotations_are_not(book_path: Path) -> None:
    write(book_path.parent, "Notes.", "notes.txt")
    write(book_path.parent, "x", "cover.png")
    assert list(find_books(book_path.parent)) == ["notes", "well_of_ink"]


@given(st.text(max_size=200))
def test_sentences_lose_no_word(text: str) -> None:
    assert " ".join(sentences(text)).split() == text.split()
