"""Turns what a parser or validator complains about into a sentence a writer can act on."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from roles.errors import Problem, WorldError

Model = TypeVar("Model", bound=BaseModel)


def nearest(word: str, known: Iterable[str]) -> str:
    """A remedy naming the known word most like `word`, or all of them."""
    words = sorted(known)
    close = difflib.get_close_matches(word, words, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"use one of: {', '.join(words)}" if words else "there is none to choose from; remove it"


def read_text(path: Path, root: Path) -> str:
    """A file's UTF-8 text.

    Raises:
        WorldError: it is missing, unreadable or not UTF-8.
    """
    name = shown(path, root)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        message = f"byte {error.object[error.start]:#04x} is not UTF-8"
        raise WorldError([Problem(f"{name}:{line}", "", message, "save it as UTF-8")]) from None
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise WorldError(
            [Problem(name, "", reason.lower(), "create it, or fix its path")]
        ) from None


def read_toml(path: Path, root: Path) -> dict[str, Any]:
    """A TOML file's table.

    Raises:
        WorldError: it cannot be read or is not TOML; the message gives the line.
    """
    text = read_text(path, root)
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        remedy = "check quotes, brackets and repeated keys near there"
        problem = Problem(shown(path, root), "", f"not valid TOML: {error}", remedy)
        raise WorldError([problem]) from None


def read_front_matter(path: Path, root: Path) -> tuple[dict[str, Any], str, int]:
    """A Markdown file's YAML front matter, the text below it, and that text's first line.

    Raises:
        WorldError: the front matter is not a YAML table or is never closed.
    """
    text = read_text(path, root).removeprefix("\ufeff")
    name = shown(path, root)
    if not text.startswith("---\n"):
        return {}, text, 1
    head, closed, body = text[4:].partition("\n---\n")
    if not closed:
        problem = Problem(name, "front matter", "is never closed", "end it with a line of ---")
        raise WorldError([problem])
    try:
        table = yaml.safe_load(head)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 2}" if mark else name
        message = f"not valid YAML: {getattr(error, 'problem', None) or error}"
        remedy = "quote values that hold a colon or bracket"
        raise WorldError([Problem(where, "front matter", message, remedy)]) from None
    if not isinstance(table, dict | None):
        problem = Problem(name, "front matter", "is not a table", "write lines of `key: value`")
        raise WorldError([problem])
    return table or {}, body, head.count("\n") + 4


def parse(model: type[Model], table: Mapping[str, Any], file: str) -> Model:
    """Validate a table, or say what is wrong with each key.

    Raises:
        WorldError: with one problem per wrong key.
    """
    try:
        return model.model_validate(table)
    except ValidationError as error:
        # A misspelt key first: it is why another one is missing.
        items = sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
        raise WorldError([_problem(item, model, file) for item in items]) from None


def shown(path: Path, root: Path) -> str:
    """A path as a writer knows it: inside the world, with forward slashes."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _problem(item: Any, model: type[BaseModel], file: str) -> Problem:
    location = [str(part) for part in item["loc"] if not _is_union_tag(str(part))]
    key = ".".join(location)
    value, context = item.get("input"), item.get("ctx", {})
    match item["type"]:
        case "missing":
            return Problem(file, key, "is missing", f"add it: {_example(model, location)}")
        case "extra_forbidden":
            known = _fields_at(model, location[:-1])
            return Problem(file, key, "is not a key of this file", nearest(location[-1], known))
        case "literal_error" | "enum":
            return Problem(file, key, f"is {value!r}", f"use {context['expected']}")
        case "value_error":
            message, _, remedy = str(context["error"]).partition("; ")
            return Problem(file, key, message, remedy or _example(model, location))
    message = f"is {_brief(value)}: {item['msg'].lower()}"
    return Problem(file, key, message, f"write it like {_example(model, location)}")


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_union_tag(part: str) -> bool:
    return "[" in part or part in {"str", "dict", "int", "float", "bool"}


def _field_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        if found := _field_model(part):
            return found
    return None


def _walk(model: type[BaseModel], location: list[str]) -> tuple[type[BaseModel] | None, Any]:
    here: type[BaseModel] | None = model
    field = None
    for part in location:
        if here is not None and part in here.model_fields:
            field = here.model_fields[part]
            here = _field_model(field.annotation)
    return here, field


def _fields_at(model: type[BaseModel], location: list[str]) -> set[str]:
    here, _ = _walk(model, location)
    return set((here or model).model_fields)


def _example(model: type[BaseModel], location: list[str]) -> str:
    """The example of the field at `location`, as its model declares it."""
    _, field = _walk(model, location)
    example = (field.examples or [None])[0] if field is not None else None
    name = location[-1] if location else ""
    return str(example) if example is not None else f"{name} = ..."
