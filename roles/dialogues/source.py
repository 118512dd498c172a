"""Reads script files: YAML whose every mistake is told with file, line, key and a remedy.

A file holds one script, or several separated by lines of `---`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from roles.dialogues.errors import ScriptError
from roles.dialogues.script import TURNS, Script, Turn, kind_of
from roles.errors import Problem
from roles.problems import nearest

Key = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands in its file: its line (from 1), and its characters [start, end)."""

    line: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """A script and where it was read.

    Attributes:
        shown: the file's name in messages.
        places: where each value stands, by its path of keys and positions.
    """

    script: Script
    file: Path
    shown: str
    places: Mapping[Key, Place] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """FILE::NAME, as reports and `-k` know it."""
        return f"{self.file.stem}::{self.script.name}"

    def line(self, *key: str | int) -> int:
        """The line of a key, or of the nearest enclosing one that is written."""
        return _line(self.places, key)

    def problem(self, key: Key, message: str, remedy: str) -> Problem:
        """A mistake in this script, at a key."""
        return Problem(f"{self.shown}:{self.line(*key)}", dotted(key), message, remedy)


def dotted(key: Key) -> str:
    """A key's path as messages show it, such as turns.2.expect.emotion."""
    return ".".join(map(str, key))


def find_scripts(folder: Path) -> list[Path]:
    """The script files in a folder (or the one file), in the order of their names.

    Raises:
        ScriptError: there is none.
    """
    files = [folder] if folder.is_file() else sorted(folder.rglob("*.yaml"))
    if not files:
        remedy = "name a folder with scripts such as greeting.yaml"
        raise ScriptError([Problem(str(folder), "", "holds no *.yaml file", remedy)])
    return files


def read_scripts(files: Iterable[Path]) -> list[Source]:
    """Every script of every file.

    Raises:
        ScriptError: with every mistake of every file.
    """
    sources: list[Source] = []
    problems: list[Problem] = []
    for file in files:
        try:
            sources += read_file(file)
        except ScriptError as error:
            problems += error.problems
    if problems:
        raise ScriptError(problems)
    return sources


def read_file(file: Path, shown: str | None = None) -> list[Source]:
    """The scripts of one file.

    Raises:
        ScriptError: with every mistake in it.
    """
    shown = shown or _shown(file)
    sources: list[Source] = []
    problems: list[Problem] = []
    for node in _documents(file, shown):
        places: dict[Key, Place] = {}
        odd: list[Problem] = []
        value = _value(node, (), places, odd, shown)
        if odd:  # what else is wrong may only follow from these
            problems += odd
            continue
        script, found = _script(value, places, shown, _line(places, ()))
        problems += found
        if script is not None:
            sources.append(Source(script=script, file=file, shown=shown, places=places))
    problems += _same_names(sources)
    if not problems and not sources:
        remedy = "write `name:`, `turns:` and an `expect:`"
        problems.append(Problem(f"{shown}:1", "", "holds no script", remedy))
    if problems:
        raise ScriptError(sorted(problems, key=_order))
    return sources


def _shown(file: Path) -> str:
    here = Path.cwd()
    return str(file.relative_to(here)) if file.is_relative_to(here) else str(file)


def _documents(file: Path, shown: str) -> list[yaml.Node]:
    try:
        text = file.read_text(encoding="utf-8")
        return [node for node in yaml.compose_all(text, yaml.SafeLoader) if node is not None]
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        raise ScriptError([Problem(shown, "", reason, "create it, or fix its path")]) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        message = f"byte {error.object[error.start]:#04x} is not UTF-8"
        raise ScriptError([Problem(f"{shown}:{line}", "", message, "save it as UTF-8")]) from None
    except yaml.MarkedYAMLError as error:
        raise ScriptError([_syntax(error, shown)]) from None
    except yaml.reader.ReaderError as error:
        message = f"character {error.character!r} is not allowed in YAML"
        line = text[: error.position].count("\n") + 1
        raise ScriptError([Problem(f"{shown}:{line}", "", message, "remove it")]) from None


def _syntax(error: yaml.MarkedYAMLError, shown: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    what = error.problem or str(error)
    remedy = {
        "mapping values are not allowed here": "put quotes around text that holds a colon",
        "found character '\\t' that cannot start any token": "indent with spaces, not tabs",
    }.get(what, "check indentation, quotes and brackets at that line and just above it")
    about = f" ({error.context})" if error.context else ""
    return Problem(f"{shown}:{line}", "", f"not valid YAML: {what}{about}", remedy)


def _value(
    node: yaml.Node, key: Key, places: dict[Key, Place], problems: list[Problem], shown: str
) -> Any:
    """What a node stands for, noting where everything in it stands."""
    line = node.start_mark.line + 1
    places[key] = Place(line, node.start_mark.index, node.end_mark.index)
    if isinstance(node, yaml.SequenceNode):
        items = enumerate(node.value)
        return [_value(item, (*key, i), places, problems, shown) for i, item in items]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(node, key, problems, shown)
    table: dict[str, Any] = {}
    for name_node, value_node in node.value:
        name = str(name_node.value)
        where = f"{shown}:{name_node.start_mark.line + 1}"
        if name in table:
            first = places[*key, name].line
            remedy = "remove one, or make one list of both"
            problems.append(
                Problem(where, dotted((*key, name)), f"is written twice (line {first})", remedy)
            )
        table[name] = _value(value_node, (*key, name), places, problems, shown)
        place = places[*key, name]
        places[*key, name] = Place(name_node.start_mark.line + 1, place.start, place.end)
    return table


def _scalar(node: yaml.Node, key: Key, problems: list[Problem], shown: str) -> Any:
    # Only plain data: a tag such as !!python/object is refused by SafeConstructor.
    try:
        return yaml.SafeLoader("").construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError) as error:
        what = getattr(error, "problem", None) or str(error)
        where = f"{shown}:{node.start_mark.line + 1}"
        problems.append(Problem(where, dotted(key), str(what), "write a plain value"))
        return None


def _script(
    value: Any, places: Mapping[Key, Place], shown: str, line: int
) -> tuple[Script | None, list[Problem]]:
    if not isinstance(value, dict):
        remedy = "write `name:`, `turns:` and an `expect:`"
        return None, [Problem(f"{shown}:{line}", "", "is no script: not a table of keys", remedy)]
    try:
        return Script.model_validate(value), []
    except ValidationError as error:
        return None, [
            _problem(item, value, places, shown)
            for item in error.errors()
            if not (item["type"] == "too_short" and item["input"])  # only its wrong items fell out
        ]


def _problem(item: Any, table: Any, places: Mapping[Key, Place], shown: str) -> Problem:
    key = _written_key(item["loc"])
    where = f"{shown}:{_line(places, key)}"
    kind, value, context = item["type"], item.get("input"), item.get("ctx", {})
    path = dotted(key)
    match kind:
        case "missing":
            return Problem(where, path, "is missing", f"add {key[-1]}: {_example(key[-1])}")
        case "extra_forbidden":
            known = _known_keys(key[:-1], table)
            return Problem(where, path, "is not a key here", nearest(str(key[-1]), known))
        case "literal_error":
            choices = [
                part.strip(" '") for part in context["expected"].replace(" or ", ",").split(",")
            ]
            return Problem(where, path, f"is {value!r}", nearest(str(value), choices))
        case "union_tag_invalid" | "union_tag_not_found":
            return _no_kind(where, path, value)
        case "value_error":
            message, _, remedy = str(context["error"]).partition("; ")
            return Problem(where, path, message, remedy or f"write it like {_example(key[-1])}")
        case "string_pattern_mismatch":
            remedy = "use lower-case letters, digits and underscores, beginning with a letter"
            return Problem(where, path, f"is {_brief(value)}", remedy)
    message = item["msg"][0].lower() + item["msg"][1:]
    remedy = f"write it like {_example(key[-1] if key else '')}"
    return Problem(where, path, f"is {_brief(value)}: {message}", remedy)


def _no_kind(where: str, path: str, value: Any) -> Problem:
    kinds = ", ".join(TURNS)
    if not isinstance(value, dict):
        return Problem(
            where, path, f"is {_brief(value)}, not a turn", f"begin with one of: {kinds}"
        )
    close = [
        (key, match[0])
        for key in value
        if (match := difflib.get_close_matches(str(key), TURNS, n=1))
    ]
    written = ", ".join(map(str, value)) or "nothing"
    remedy = (
        f"did you mean {close[0][1]!r} for {close[0][0]!r}?"
        if close
        else f"begin with one of: {kinds}"
    )
    return Problem(where, path, f"is no kind of turn (it has {written})", remedy)


def _written_key(location: Sequence[str | int]) -> Key:
    """A validator's location as the writer knows it: without the tag of the kind of turn."""
    parts = [part for part in location if part != "[key]"]
    if parts[:1] == ["turns"] and len(parts) > 2:
        del parts[2]
    return tuple(parts)


def _known_keys(key: Key, table: Any) -> list[str]:
    """The keys that may stand in the table at a path."""
    model: type[BaseModel] | None = Script
    here = table
    for part in key:
        here = here[part]
        if isinstance(part, str):
            model = _model_of(model, part)
        elif isinstance(model, type) and issubclass(model, Turn):
            model = TURNS[kind_of(here) or "say"]
    return _aliases(model) if model is not None else []


def _model_of(model: type[BaseModel] | None, part: str) -> type[BaseModel] | None:
    """The table that stands at a key; a key of the writer's own (an agent's id) changes nothing."""
    fields = model.model_fields if model is not None else {}
    found = [info for name, info in fields.items() if part in (name, info.alias)]
    return _table_in(found[0].annotation) if found else model


def _table_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        if (found := _table_in(part)) is not None:
            return found
    return None


def _aliases(model: type[BaseModel]) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items()]


def _line(places: Mapping[Key, Place], key: Key) -> int:
    while key and key not in places:
        key = key[:-1]
    return places[key].line if key in places else 1


def _same_names(sources: list[Source]) -> Iterator[Problem]:
    seen: dict[str, Source] = {}
    for source in sources:
        name = source.script.name
        if name in seen:
            message = f"{name!r} is also the script of line {seen[name].line('name')}"
            yield source.problem(("name",), message, "give one another name")
        seen[name] = source


def _order(problem: Problem) -> tuple[int, str]:
    line = problem.file.rpartition(":")[2]
    return (int(line) if line.isdigit() else 0, problem.key)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_EXAMPLES = {
    "name": "knows_the_oil",
    "turns": "[{say: Hello., to: ottavia, expect: {fallback: false}}]",
    "to": "ottavia",
    "scene": "{present: [ottavia], place: reading_room}",
    "seed": "7",
    "seeds": "5",
    "pass_rate": "0.8",
    "words": "[1, 40]",
    "sentences": "[1, 3]",
    "lines": "[1, 3]",
    "expect": "{contains: oil, emotion: [calm, warm]}",
    "actions": "[{action: give, with: {item: brass key}}]",
    "memories": "{ottavia: [The player returned the key.]}",
    "directive": "{do: direct, who: ottavia}",
    "prompt": "{contains: blue jar, lacks_facts: [secret_door]}",
    "means": "{like: The oil is behind the globe., at_least: 0.5}",
    "action": "give",
    "like": "The oil is behind the globe.",
}


def _example(key: str | int) -> str:
    return _EXAMPLES.get(str(key), f"{key}: ..." if isinstance(key, str) else "a value")
