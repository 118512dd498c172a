"""Training rows: reading, checking and splitting dialogue, as JSON Lines or transcripts (.txt).

A row of JSON is a `messages` list, or `instruction`, `input` and `output`: what is said to the
character, note lines before it, and the reply. Every fault is reported with file, line and field;
faulty rows never reach training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.requests import Message, Segment
from npc_adapters.errors import DataError
from npc_adapters.transcripts import read_transcript

Severity = Literal["error", "warning"]
_KINDS = {"system": "persona", "user": "player", "assistant": "history"}  # segments, by role
_ROLES = tuple(_KINDS)
_SIMPLE = ("instruction", "output")  # the fields behind the messages of a simple row
_SHOWN_PROBLEMS = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault in one row: "error" stops training, "warning" only drops the row."""

    path: str
    line: int
    field: str
    text: str
    severity: Severity = "error"

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.field}: {self.text}"


@dataclass(frozen=True, slots=True)
class Row:
    """One conversation: messages that end with the character's reply, and where it stood.

    `facts` are strings that the reply has to contain (lore, names), for judging.
    """

    messages: tuple[Message, ...]
    path: str
    line: int
    agent: str = ""
    facts: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Everything said, for hashing and counting."""
        return "\n".join(f"{message.role}: {message.text}" for message in self.messages)

    @property
    def replies(self) -> list[str]:
        """The character's own words, turn by turn."""
        return [message.text for message in self.messages if message.role == "assistant"]


@dataclass(frozen=True, slots=True)
class Corpus:
    """The usable rows of some files, and what was wrong with the others."""

    rows: list[Row]
    problems: list[Problem]

    def require_sound(self) -> list[Row]:
        """The rows, if no row has an error.

        Raises:
            DataError: listing the errors, or if there is no row at all.
        """
        errors = [str(problem) for problem in self.problems if problem.severity == "error"]
        if errors:
            more = len(errors) - _SHOWN_PROBLEMS
            shown = errors[:_SHOWN_PROBLEMS] + ([f"and {more} more"] if more > 0 else [])
            raise DataError(f"{len(errors)} faulty rows:\n" + "\n".join(shown))
        if not self.rows:
            raise DataError("there is not one usable row; write some dialogue first")
        return self.rows


def read_rows(
    paths: Iterable[Path],
    *,
    control_tokens: Sequence[str] = (),
    max_chars: int = 6000,
) -> Corpus:
    """Read and check JSON Lines files and transcripts.

    Args:
        paths: files to read, in order.
        control_tokens: strings that no text may contain, such as `<|end|>`.
        max_chars: longer rows are dropped with a warning.

    Raises:
        DataError: if a file is missing or is not UTF-8.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    seen: dict[bytes, str] = {}
    for path in paths:
        for row, faults in _parsed(path, control_tokens):
            problems += faults
            if row is None:
                continue
            digest = hashlib.sha256(row.text.encode()).digest()
            if len(row.text) > max_chars:
                text = f"{len(row.text)} characters; at most {max_chars} fit"
                problems.append(Problem(str(path), row.line, "row", text, "warning"))
            elif digest in seen:
                text = f"repeats {seen[digest]}"
                problems.append(Problem(str(path), row.line, "row", text, "warning"))
            else:
                seen[digest] = f"{path}:{row.line}"
                rows.append(row)
    return Corpus(rows, problems)


def _parsed(
    path: Path, control_tokens: Sequence[str]
) -> Iterator[tuple[Row | None, list[Problem]]]:
    text = _text(path)
    if path.suffix == ".txt":
        for number, talk in read_transcript(text):
            if isinstance(talk, str):
                yield None, [Problem(str(path), number, "talk", talk)]
            else:
                yield _checked({"messages": talk}, str(path), number, control_tokens)
    else:
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield parse_row(line, str(path), number, control_tokens)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start})") from error


def parse_row(
    line: str, path: str, number: int, control_tokens: Sequence[str] = ()
) -> tuple[Row | None, list[Problem]]:
    """One JSON line as a row, or None with the faults that it has."""
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        text = f"is not JSON ({error.msg} at column {error.colno})"
        return None, [Problem(path, number, "row", text)]
    if not isinstance(data, dict):
        text = f"is a JSON {type(data).__name__}, not an object"
        return None, [Problem(path, number, "row", text)]
    return _checked(data, path, number, control_tokens)


def _checked(
    data: dict[str, Any], path: str, number: int, control_tokens: Sequence[str]
) -> tuple[Row | None, list[Problem]]:
    raw, where = _raw_messages(data)
    if isinstance(raw, str):
        return None, [Problem(path, number, where, raw)]
    problems = [
        Problem(path, number, f"{where}[{i}].{field}" if where == "messages" else _SIMPLE[i], text)
        for i, field, text in _faults(raw, control_tokens)
    ]
    if problems:
        return None, problems
    return (
        Row(
            messages=tuple(message(role, content) for role, content in raw),
            path=path,
            line=number,
            agent=str(data.get("agent") or ""),
            facts=tuple(map(str, data.get("copy") or ())),
        ),
        [],
    )


def _raw_messages(data: dict[str, Any]) -> tuple[list[tuple[Any, Any]] | str, str]:
    """Role and content of each message, or what is wrong; and the field that holds them."""
    if "messages" in data:
        messages = data["messages"]
        if not isinstance(messages, list) or not messages:
            return "must be a list of messages", "messages"
        if not all(isinstance(message, dict) for message in messages):
            return "must hold objects with role and content", "messages"
        return [(message.get("role"), message.get("content")) for message in messages], "messages"
    for field in ("instruction", "output"):
        if field not in data:
            return "is missing (a row is messages, or instruction, input and output)", field
    for field in ("instruction", "input", "output"):
        if not isinstance(data.get(field, ""), str):
            return f"is {data[field]!r}, not text", field
        if field != "input" and not data[field].strip():
            return "is empty", field
    said = data["instruction"]
    notes = data.get("input", "").rstrip("\n")
    return [("user", f"{notes}\n{said}" if notes else said), ("assistant", data["output"])], "row"


def _faults(
    raw: list[tuple[Any, Any]], control_tokens: Sequence[str]
) -> Iterable[tuple[int, str, str]]:
    """What is wrong with a list of messages: index, field, sentence."""
    expected = "user"
    for i, (role, content) in enumerate(raw):
        if role not in _ROLES:
            yield i, "role", f"is {role!r}; it must be one of {', '.join(_ROLES)}"
        elif role == "system" and i > 0:
            yield i, "role", "is 'system'; only the first message may be"
        elif role != "system" and role != expected:
            yield i, "role", f"is {role!r}; {expected!r} must come here"
        elif role != "system":
            expected = "assistant" if role == "user" else "user"
        if not isinstance(content, str):
            yield i, "content", f"is {content!r}, not text"
        elif not content.strip():
            yield i, "content", "is empty"
        else:
            for token in control_tokens:
                if token in content:
                    yield i, "content", f"contains the control token {token}"
    if raw[-1][0] in ("system", "user"):
        yield len(raw) - 1, "role", "the last message must be the assistant's"


def message(role: Any, content: str) -> Message:
    """One message of a row; only what the character said is its own words, as in live play."""
    return Message(role=role, segments=(Segment(kind=_KINDS[role], text=content),))


def split_rows(rows: Sequence[Row], valid_share: float = 0.1) -> tuple[list[Row], list[Row]]:
    """Training and validation rows, told apart by a hash of what is said.

    The same row falls on the same side in every run and in every file, so that nothing held out
    is ever trained on. At least one row is held out of two or more.
    """

    def place(row: Row) -> float:
        return int.from_bytes(hashlib.sha256(row.text.encode()).digest()[:4]) / 2**32

    ordered = sorted(rows, key=place)
    count = round(len(rows) * valid_share)
    count = sum(place(row) < valid_share for row in ordered) if len(rows) > 200 else count
    count = min(max(count, 1), len(rows) - 1) if len(rows) > 1 else 0
    held_out = {id(row) for row in ordered[:count]}
    train = [row for row in rows if id(row) not in held_out]
    return train, [row for row in rows if id(row) in held_out]


def data_digest(rows: Sequence[Row]) -> str:
    """SHA-256 of the rows' text, whatever their order."""
    return hashlib.sha256("\0".join(sorted(row.text for row in rows)).encode()).hexdigest()


def with_system(rows: Iterable[Row], system: Message) -> list[Row]:
    """The rows with a system message put before those that have none."""
    return [
        row
        if row.messages[0].role == "system"
        else Row((system, *row.messages), row.path, row.line, row.agent, row.facts)
        for row in rows
    ]
