"""A student's card: what lies beside its weights and says whose they are. No torch.

A student is a transformers folder without a tokenizer of its own, plus `student.json`: which
book it answers for, which tokenizer it reads with (thousands of students share one file), and
the digest of its weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from books.errors import StudentError

CARD_NAME = "student.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentCard:
    """What `student.json` says.

    Attributes:
        book: the book's name.
        book_digest: SHA-256 of the text it was distilled from.
        tokenizer: folder of the tokenizer it reads with, relative to its own.
        tokenizer_digest: SHA-256 of the tokenizer.json it reads with.
        weights_digest: SHA-256 of its model.safetensors.
        num_params: parameters.
    """

    book: str
    book_digest: str
    tokenizer: str
    tokenizer_digest: str
    weights_digest: str
    num_params: int


def read_card(folder: Path) -> StudentCard:
    """The card of a student's folder.

    Raises:
        StudentError: there is none, or it is malformed.
    """
    path = folder / CARD_NAME
    try:
        return StudentCard(**json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise StudentError(f"{folder} is no student: {CARD_NAME}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise StudentError(f"{path} is malformed: {error}") from error


def tokenizer_folder(folder: Path) -> Path:
    """Where the tokenizer of a student lies, its digest verified.

    Raises:
        StudentError: it isn't there, or is another one.
    """
    card = read_card(folder)
    found = (folder / card.tokenizer).resolve()
    path = found / "tokenizer.json"
    if not path.is_file():
        raise StudentError(f"{folder}: its tokenizer should lie at {card.tokenizer!r}; it doesn't")
    digest = file_digest(path)
    if digest != card.tokenizer_digest:
        raise StudentError(
            f"{folder} was distilled with the tokenizer {card.tokenizer_digest[:12]}, "
            f"{card.tokenizer} holds {digest[:12]}; distil it again"
        )
    return found


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return sha256(path.read_bytes()).hexdigest()
