from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from books.book import read_book
from books.bundle import check_text, open_bundle, pack, unpack
from books.errors import BundleError
from tests.books.conftest import tiny_student
from tests.tiny_models import tiny_base


@pytest.fixture
def student(tmp_path: Path, base: Path, book_path: Path) -> Path:
    folder = tiny_student(tmp_path / "students" / "well_of_ink", base)
    card = json.loads((folder / "student.json").read_text())
    card["book_digest"] = read_book(book_path).digest
    (folder / "student.json").write_text(json.dumps(card))
    return folder


@pytest.fixture
def bundle(tmp_path: Path, book_path: Path, student: Path) -> Path:
    return pack(book_path, student, tmp_path / "well.book")


def altered(bundle: Path, target: Path, changes: dict[str, bytes | None]) -> Path:
    """A copy with members replaced, added or (None) left out."""
    with zipfile.ZipFile(bundle) as old, zipfile.ZipFile(target, "w") as new:
        contents: dict[str, bytes | None] = {name: old.read(name) for name in old.namelist()}
        for name, content in (contents | changes).items():
            if content is not None:
                new.writestr(name, content)
    return target


def test_a_bundle_is_whole_and_its_text_is_the_students(tmp_path: Path, bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert opened.name == "well_of_ink"
    check_text(opened, tmp_path / "books")


def test_unpacked_in_another_world_it_is_the_same_book_and_student(
    tmp_path: Path, bundle: Path, base: Path, book_path: Path, student: Path
) -> None:
    world = tmp_path / "elsewhere"
    unpack(bundle, world / "books", world / "models" / "students", base)
    assert (world / "books" / "well_of_ink.md").read_bytes() == book_path.read_bytes()
    copied = world / "models" / "students" / "well_of_ink"
    weights = (student / "model.safetensors").read_bytes()
    assert (copied / "model.safetensors").read_bytes() == weights
    card = json.loads((copied / "student.json").read_text())
    assert (copied / card["tokenizer"] / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"well_of_ink.md": b"# Other words\n\nEntirely."}, r"well_of_ink\.md is damaged"),
        ({"student/model.safetensors": b"zeros"}, "model.safetensors is damaged"),
        ({"student/config.json": None}, r"contents and manifest differ: student/config\.json"),
        ({"../evil.py": b"x"}, "contents and manifest differ"),
        ({"book.json": b"{}"}, "missing or malformed"),
        ({"book.json": b'{"format": 9, "name": "a", "files": {}}'}, "format 9 isn't known"),
        ({"book.json": b'{"format": 1, "name": "../a", "files": {}}'}, "names no book"),
        ({"book.json": b'{"format": 1, "name": "a", "files": {"b.py": ""}}'}, "no part of a book"),
    ],
)
def test_an_altered_bundle_is_refused(
    tmp_path: Path, bundle: Path, changes: dict[str, bytes | None], complaint: str
) -> None:
    with pytest.raises(BundleError, match=complaint):
        open_bundle(altered(bundle, tmp_path / "altered.book", changes))


def test_a_truncated_file_and_no_file_are_refused(tmp_path: Path, bundle: Path) -> None:
    cut = tmp_path / "cut.book"
    cut.write_bytes(bundle.read_bytes()[:-300])
    with pytest.raises(BundleError, match="is damaged or no bundle"):
        open_bundle(cut)
    with pytest.raises(BundleError, match="can't be read"):
        open_bundle(tmp_path / "nothing.book")


def test_a_student_of_an_older_text_is_not_packed(
    tmp_path: Path, book_path: Path, student: Path
) -> None:
    book_path.write_text(book_path.read_text() + "\nA new line.\n")
    with pytest.raises(BundleError, match="distilled from another text of well_of_ink"):
        pack(book_path, student, tmp_path / "well.book")


def test_a_world_with_another_tokenizer_takes_nothing(tmp_path: Path, bundle: Path) -> None:
    other = tiny_base(tmp_path / "other")
    path = other / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(BundleError, match="reads with the tokenizer"):
        unpack(bundle, tmp_path / "b", tmp_path / "s", other)
    assert not (tmp_path / "b").exists()
