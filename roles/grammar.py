"""A small text grammar: symbols with alternatives, expanded at random from a seed.

`#symbol#` is replaced by one of the symbol's alternatives, expanded in turn (after Kate
Compton's Tracery); `#symbol.cap.the#` passes the result through modifiers; `{this|that|}` picks
one of the parts in place. A writer keeps symbols in YAML files: a list, or a block of text
with one alternative per line. Nested mappings give names joined by a slash (`gruff/open`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random

import yaml

from roles.errors import GrammarError

_MAX_DEPTH = 40
_NO_ARTICLE = re.compile(r"(?:the|a|an|my|your|his|her|its|our|their|all|every|no) |[A-Z]")
# Words that only a sentence's start spells with a capital; any other may be a name.
_LOWERED = re.compile(
    r"(?:A|An|And|Ask|At|Behind|Below|Beneath|Beside|Between|By|Come|For|From|Go|He|Her|His|In"
    r"|Inside|It|Its|Look|Near|Never|Nobody|Nothing|Of|On|Outside|Say|She|Someone|That|The|There"
    r"|They|This|To|Try|Under|What|When|With|You|Your)\b"
)
_SPACE_BEFORE_MARK = re.compile(r" +([.,;:?!])")
_SPACES = re.compile(r"  +")


def _the(text: str) -> str:
    return text if _NO_ARTICLE.match(text) else f"the {text}"


def _a(text: str) -> str:
    if _NO_ARTICLE.match(text):
        return text
    return f"an {text}" if text[:1] in "aeiou" and not text.startswith("one") else f"a {text}"


def _cap(text: str) -> str:
    return text[:1].upper() + text[1:]


def _uncap(text: str) -> str:
    return text[:1].lower() + text[1:] if _LOWERED.match(text) else text


def _possessive(text: str) -> str:
    return f"{text}'" if text.endswith("s") else f"{text}'s"


def _plain(text: str) -> str:
    return text.rstrip(".!?")


MODIFIERS: Mapping[str, Callable[[str], str]] = {
    "a": _a,
    "A": lambda text: _cap(_a(text)),
    "cap": _cap,
    "low": str.lower,
    "uncap": _uncap,
    "plain": _plain,
    "s": _possessive,
    "the": _the,
    "The": lambda text: _cap(_the(text)),
    "up": str.upper,
}

# A parsed template: literal text, a symbol with its modifiers, or alternatives.
_Symbol = tuple[str, tuple[str, ...]]
_Alternatives = list["_Template"]
_Template = tuple["str | _Symbol | _Alternatives", ...]


class Grammar:
    """Named alternatives, and the expansion of templates over them."""

    def __init__(self, symbols: Mapping[str, Sequence[str]]) -> None:
        """Hold symbols; an empty list of alternatives is refused by name."""
        for name, alternatives in symbols.items():
            if not alternatives:
                raise GrammarError(f"symbol {name!r} has no alternatives; write at least one")
        self.symbols = dict(symbols)

    @classmethod
    def load(cls, paths: Iterable[Path]) -> Grammar:
        """Read YAML files, later ones adding to or replacing earlier symbols.

        Raises:
            GrammarError: a file is missing, isn't YAML, or holds something else than texts.
        """
        symbols: dict[str, list[str]] = {}
        for path in paths:
            symbols.update(flatten(read_yaml(path), str(path)))
        return cls(symbols)

    def extended(self, symbols: Mapping[str, Sequence[str]]) -> Grammar:
        """This grammar with symbols added or replaced."""
        return Grammar({**self.symbols, **symbols})

    def has(self, name: str) -> bool:
        """Whether a symbol is defined."""
        return name in self.symbols

    def pick(self, name: str, rng: Random, bindings: Mapping[str, str] | None = None) -> str:
        """One alternative of a symbol, expanded."""
        return self.expand(f"#{name}#", rng, bindings)

    def expand(self, text: str, rng: Random, bindings: Mapping[str, str] | None = None) -> str:
        """The text with symbols and inline alternatives replaced.

        Args:
            text: a template.
            rng: where the choices come from; the same state gives the same text.
            bindings: fixed values that win over symbols of the same name; not expanded.

        Raises:
            GrammarError: an unknown symbol or modifier, or symbols that never end.
        """
        out = self._render(_parse(text), rng, bindings or {}, 0)
        return _SPACES.sub(" ", _SPACE_BEFORE_MARK.sub(r"\1", out)).strip()

    def _render(
        self, template: _Template, rng: Random, bindings: Mapping[str, str], depth: int
    ) -> str:
        if depth > _MAX_DEPTH:
            raise GrammarError("symbols nest too deep; does one contain itself?")
        parts = []
        for node in template:
            if isinstance(node, str):
                parts.append(node)
            elif isinstance(node, list):
                parts.append(self._render(rng.choice(node), rng, bindings, depth + 1))
            else:
                parts.append(self._symbol(node, rng, bindings, depth))
        return "".join(parts)

    def _symbol(self, node: _Symbol, rng: Random, bindings: Mapping[str, str], depth: int) -> str:
        name, modifiers = node
        if name in bindings:
            value = bindings[name]
        elif name in self.symbols:
            chosen = rng.choice(self.symbols[name])
            value = self._render(_parse(chosen), rng, bindings, depth + 1)
        else:
            raise GrammarError(f"no symbol is named {name!r}")
        for modifier in modifiers:
            if modifier not in MODIFIERS:
                known = ", ".join(MODIFIERS)
                raise GrammarError(f"#{name}.{modifier}#: modifiers are {known}")
            value = MODIFIERS[modifier](value)
        return value


def read_yaml(path: Path) -> dict[str, object]:
    """A YAML file's mapping.

    Raises:
        GrammarError: the file is missing, isn't YAML or isn't a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise GrammarError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise GrammarError(f"{path}: the file must be a mapping of symbols")
    return content


def flatten(content: Mapping[str, object], where: str, prefix: str = "") -> dict[str, list[str]]:
    """Symbols of nested mappings, their names joined by slashes.

    Raises:
        GrammarError: a value is neither text, a list of texts nor a mapping.
    """
    symbols: dict[str, list[str]] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            symbols.update(flatten(value, where, f"{name}/"))
        elif isinstance(value, str):
            symbols[name] = [line for line in map(str.strip, value.splitlines()) if line]
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            symbols[name] = value
        else:
            raise GrammarError(f"{where}: {name} must be text or a list of texts, not {value!r}")
    return symbols


@cache
def _parse(text: str) -> _Template:
    template, end = _parse_until(text, 0, "")
    if end != len(text):
        raise GrammarError(f"{text!r}: a brace closes at column {end + 1} that was never opened")
    return template


def _parse_until(text: str, start: int, stops: str) -> tuple[_Template, int]:
    nodes: list[str | _Symbol | _Alternatives] = []
    literal = ""
    position = start
    while position < len(text) and text[position] not in stops:
        character = text[position]
        if character == "}":
            break
        if character in "#{" and literal:
            nodes.append(literal)
            literal = ""
        if character == "#":
            node, position = _parse_symbol(text, position)
            nodes.append(node)
        elif character == "{":
            alternatives, position = _parse_alternatives(text, position)
            nodes.append(alternatives)
        else:
            literal += character
            position += 1
    if literal:
        nodes.append(literal)
    return tuple(nodes), position


def _parse_symbol(text: str, start: int) -> tuple[_Symbol, int]:
    end = text.find("#", start + 1)
    if end < 0:
        raise GrammarError(f"{text!r}: the # at column {start + 1} is never closed")
    name, *modifiers = text[start + 1 : end].split(".")
    return (name, tuple(modifiers)), end + 1


def _parse_alternatives(text: str, start: int) -> tuple[_Alternatives, int]:
    alternatives: _Alternatives = []
    position = start
    while position == start or text[position] == "|":
        template, position = _parse_until(text, position + 1, "|}")
        alternatives.append(template)
        if position >= len(text):
            raise GrammarError(f"{text!r}: the brace at column {start + 1} is never closed")
    return alternatives, position + 1
