"""A world's grammar folder, loaded: symbols, relations, intents, goals, actions, moods."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from roles.corpus.facts import Relations
from roles.corpus.talk import Stock
from roles.errors import GrammarError
from roles.grammar import Grammar, flatten, read_yaml

STARTER = Path(__file__).resolve().parents[1] / "worlds" / "biblioteca_eterna"
# Intents that only follow from something else, or need bindings of their own.
_NOT_SMALL_TALK = {"told", "met", "not_met", "alone"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Everything a corpus is composed from.

    Attributes:
        voices: families of voices for invented characters.
    """

    grammar: Grammar
    stock: Stock
    voices: list[str]

    def parts(self, *path: str) -> list[str]:
        """The names right below a symbol's path, in order: kinds of events, for one."""
        prefix = "/".join(path) + "/"
        below = (name[len(prefix) :] for name in self.grammar.symbols if name.startswith(prefix))
        return list(dict.fromkeys(name.split("/")[0] for name in below))

    def shares(self, path: str) -> dict[str, int]:
        """Symbols below a path, by their numbers of alternatives."""
        below = self.grammar.symbols.items()
        return {name: len(lines) for name, lines in below if name.startswith(f"{path}/")}


def load_source(folder: Path) -> Source:
    """Read a world's grammar folder; what it lacks comes from the starter world's.

    Lines for lore and characters are always the world's own.

    Raises:
        GrammarError: a file is missing or malformed.
    """

    def file(name: str) -> Path:
        own = folder / f"{name}.yaml"
        return own if own.exists() else STARTER / "grammar" / f"{name}.yaml"

    symbols: dict[str, list[str]] = {}
    for name in ("words", "topics", "traits", "book"):
        symbols |= flatten(read_yaml(file(name)), name)
    relations, sentences = Relations.load(file("relations"))
    talk, talk_symbols = _small_talk(file("talk").parent)
    goals, goal_symbols = _tables(file("goals"), {"slots", "when"})
    actions, action_symbols = _tables(file("actions"), {"argument"})
    voices, moods = read_yaml(file("voices")), read_yaml(file("moods"))
    symbols |= sentences | talk_symbols | goal_symbols | action_symbols
    symbols |= flatten(voices, "voices.yaml") | flatten(moods, "moods.yaml", "mood/")
    symbols |= {"bare": ["#core#"]} | flatten(read_yaml(file("director")), "director", "director/")
    symbols |= flatten(read_yaml(file("director_words")), "director_words", "dw/")
    symbols |= flatten(read_yaml(file("director_events")), "director_events", "written/")
    if (folder / "lore.yaml").exists():
        symbols |= flatten(read_yaml(folder / "lore.yaml"), "lore.yaml", "lore/")
    for path in sorted(folder.glob("npcs/*.yaml")):
        symbols |= flatten(read_yaml(path), str(path), f"npcs/{path.stem}/")
    topics = {"yes": "mass"}
    stock = Stock(
        relations=relations,
        intents=[name for name in talk if name not in _NOT_SMALL_TALK],
        intent_moods={name: _words(table.get("moods")) for name, table in talk.items()},
        intent_topics={
            name: topics.get(str(table["topic"]), str(table["topic"]))
            for name, table in talk.items()
            if "topic" in table
        },
        goals={name: _mapping(table["slots"]) for name, table in goals.items()},
        goals_instead=frozenset(n for n, table in goals.items() if table.get("when") == "instead"),
        actions={name: _mapping(table["argument"]) for name, table in actions.items()},
        moods=list(moods),
    )
    return Source(grammar=Grammar(symbols), stock=stock, voices=list(voices))


def _small_talk(folder: Path) -> tuple[dict[str, dict[str, object]], dict[str, list[str]]]:
    """What players say and voices answer, of every file `talk*.yaml`."""
    tables: dict[str, dict[str, object]] = {}
    symbols: dict[str, list[str]] = {}
    for path in sorted(folder.glob("talk*.yaml")):
        more, more_symbols = _tables(path, {"moods", "topic"})
        tables |= more
        symbols |= more_symbols
    return tables, symbols


def _tables(
    path: Path, settings: set[str]
) -> tuple[dict[str, dict[str, object]], dict[str, list[str]]]:
    """A file's tables (only their settings), and all else in it as symbols."""
    tables: dict[str, dict[str, object]] = {}
    symbols: dict[str, object] = {}
    for name, content in read_yaml(path).items():
        if isinstance(content, Mapping) and ("say" in content or settings & set(content)):
            tables[name] = {key: content[key] for key in settings & set(content)}
            symbols[name] = {k: v for k, v in content.items() if k not in settings | {"must"}}
        else:
            symbols[name] = content
    return tables, flatten(symbols, str(path))


def _words(value: object) -> list[str]:
    return [word.strip() for word in str(value).split(",")] if value else []


def _mapping(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise GrammarError(f"{value!r} must map names to kinds of phrases")
    return {str(name): str(kind) for name, kind in value.items()}
