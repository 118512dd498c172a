"""A `.book` file: one book to hand to somebody, text and student and all, in a ZIP.

    book.json            format, name, and the SHA-256 of every other member
    NAME.md              the text; NAME.facts.yaml beside it where there are annotations
    student/             config.json, model.safetensors, student.json, report.json

The student reads with a tokenizer that isn't inside: `student.json` has its digest, and who
installs the bundle must have that file.
"""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from books.book import MAX_BOOK_BYTES
from books.card import CARD_NAME, StudentCard, file_digest, read_card
from books.errors import BooksError, BundleError
from books.facts import facts_path
from books.reference import open_book

FORMAT = 1
_MANIFEST = "book.json"
_STUDENT_FILES = ("config.json", "model.safetensors", CARD_NAME, "report.json")
_MAX_BYTES = 512 << 20  # a student has at most 100M parameters, two bytes each, and some room


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A verified bundle.

    Attributes:
        name: the book's.
        card: its student's.
        members: contents by name, the manifest left out.
    """

    name: str
    card: StudentCard
    members: dict[str, bytes]


def pack(book_path: Path, student: Path, target: Path) -> Path:
    """Write a bundle.

    Raises:
        BooksError: the text or the student isn't whole.
        BundleError: the student was distilled from another text.
    """
    book, _ = open_book(book_path)
    card = read_card(student)
    if card.book_digest != book.digest:
        raise BundleError(
            f"{student} was distilled from another text of {book.name} "
            f"({card.book_digest[:12]}, this is {book.digest[:12]}); distil it again"
        )
    if file_digest(student / "model.safetensors") != card.weights_digest:
        raise BundleError(f"{student}: the weights don't match {CARD_NAME}; distil it again")
    paths = {book_path.name: book_path}
    if facts_path(book_path).exists():
        paths[facts_path(book_path).name] = facts_path(book_path)
    for name in _STUDENT_FILES:
        if (student / name).exists():
            paths[f"student/{name}"] = student / name
    manifest = {
        "format": FORMAT,
        "name": book.name,
        "files": {name: file_digest(path) for name, path in paths.items()},
    }
    partial = target.with_name(target.name + ".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_MANIFEST, json.dumps(manifest, indent=2))
        for name, path in paths.items():
            archive.write(path, name)
    partial.replace(target)
    return target


def open_bundle(path: Path) -> Bundle:
    """Read and verify a bundle.

    Raises:
        BundleError: it is damaged, incomplete, too large or no bundle.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(info.file_size for info in archive.infolist())
            if total > _MAX_BYTES:
                raise BundleError(f"{path}: {total:,} bytes unpacked are more than {_MAX_BYTES:,}")
            contents = {info.filename: archive.read(info) for info in archive.infolist()}
    except OSError as error:
        raise BundleError(f"{path}: can't be read: {error.strerror}") from error
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        raise BundleError(f"{path}: is damaged or no bundle: {error}") from error
    manifest = _manifest(contents.pop(_MANIFEST, b""), path)
    name, files = manifest["name"], manifest["files"]
    allowed = {f"{name}.md", f"{name}.txt", f"{name}.facts.yaml"}
    allowed |= {f"student/{member}" for member in _STUDENT_FILES}
    if strange := sorted(set(files) - allowed):
        raise BundleError(f"{path}: holds {strange[0]!r}, which is no part of a book")
    if set(files) != set(contents):
        odd = sorted(set(files) ^ set(contents))
        raise BundleError(f"{path}: contents and manifest differ: {odd[0]}")
    for member, content in contents.items():
        if sha256(content).hexdigest() != files[member]:
            raise BundleError(f"{path}: {member} is damaged: its digest differs")
    for needed in (f"student/{CARD_NAME}", "student/config.json", "student/model.safetensors"):
        if needed not in contents:
            raise BundleError(f"{path}: {needed} is missing")
    return Bundle(name=name, card=_card(contents, path), members=contents)


def unpack(path: Path, books: Path, students: Path, tokenizer: Path) -> Bundle:
    """Put a bundle's book and student into a world's folders.

    Args:
        path: the bundle.
        books: the world's folder of texts.
        students: the world's folder of students.
        tokenizer: folder of the tokenizer that this world's students read with.

    Raises:
        BundleError: it is damaged, was made for another tokenizer, or its text isn't readable;
            nothing was written then.
    """
    bundle = open_bundle(path)
    if bundle.card.tokenizer_digest != file_digest(tokenizer / "tokenizer.json"):
        raise BundleError(
            f"{path}: its student reads with the tokenizer {bundle.card.tokenizer_digest[:12]}, "
            f"which is not the one in {tokenizer}"
        )
    folder = students / bundle.name
    for member, content in bundle.members.items():
        inside = member.removeprefix("student/")
        target = books / member if inside == member else folder / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    card = json.loads((folder / CARD_NAME).read_text())
    card["tokenizer"] = os.path.relpath(tokenizer.resolve(), folder.resolve())
    (folder / CARD_NAME).write_text(json.dumps(card, indent=2) + "\n")
    return bundle


def _manifest(content: bytes, path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(content)
        right = manifest["format"] == FORMAT
        name, files = manifest["name"], manifest["files"]
        well_formed = isinstance(name, str) and isinstance(files, dict) and name == Path(name).name
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path}: {_MANIFEST} is missing or malformed") from error
    if not right:
        raise BundleError(f"{path}: format {manifest['format']!r} isn't known; {FORMAT} is")
    if not well_formed:
        raise BundleError(f"{path}: {_MANIFEST} names no book")
    return {"name": name, "files": files}


def _card(contents: dict[str, bytes], path: Path) -> StudentCard:
    try:
        card = StudentCard(**json.loads(contents[f"student/{CARD_NAME}"]))
    except (ValueError, TypeError) as error:
        raise BundleError(f"{path}: student/{CARD_NAME} is malformed: {error}") from error
    if card.weights_digest != sha256(contents["student/model.safetensors"]).hexdigest():
        raise BundleError(f"{path}: the weights aren't the ones that {CARD_NAME} names")
    return card


def check_text(bundle: Bundle, folder: Path) -> None:
    """Read a bundle's text as a book, in an empty folder given for it.

    Raises:
        BundleError: it isn't readable, or isn't the text that the student was distilled from.
    """
    for member, content in bundle.members.items():
        if "/" not in member and len(content) <= MAX_BOOK_BYTES:
            (folder / member).write_bytes(content)
    text = next((path for path in sorted(folder.iterdir()) if path.suffix != ".yaml"), None)
    if text is None:
        raise BundleError(f"the bundle of {bundle.name} holds no text")
    try:
        book, _ = open_book(text)
    except BooksError as error:
        raise BundleError(f"the bundle's text is broken: {error}") from error
    if book.digest != bundle.card.book_digest:
        raise BundleError(f"the student of {bundle.name} was distilled from another text")
