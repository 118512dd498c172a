"""Facts and who may know them.

A lore file is Markdown: a heading of level two per fact, whose words are the fact's id, lines
of `key: value` right below it (`know`, `after`, `place`), then the fact itself.

    ## oil_jar
    know: staff, ottavia
    after: lamp_out
    The lamp oil stands in a blue jar behind the globe.

`know` lists characters, factions, places or `everyone`; whoever is one of them (or is in that
place) knows the fact, once the event of `after`, if any, has happened. Front matter may set the
same keys for every fact of its file.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from books.retrieval import content_words
from roles.errors import Problem, WorldError
from roles.problems import nearest, read_front_matter, shown

EVERYONE = "everyone"
_HEADING = re.compile(r"^##\s+(?P<id>.+?)\s*$")
_SETTING = re.compile(r"^(?P<key>[a-z_]+):\s*(?P<value>.*)$")
_ID = re.compile(r"^[a-z][a-z0-9_]*$")
_KEYS = {"know", "after"}
_COMMON = 0.1  # of the facts: a word in more of them says too little to bring one up alone
# Words of small talk: alone they never mean a fact, however rare they are in the lore.
SMALL_TALK = frozenset(
    """
    again always ate back bad bring brought call called cold come day days down eat ever evening
    find fine found friend get give glad go gone good goodbye got happy hello help here home hour
    just keep kept last leave left like live long look lost love made make mean mind morning name
    need never new nice night old once place put quiet rest said same see sit something sorry stay
    story take talk thank thanks think time tired today told tomorrow tonight took true understand
    up use used very wait want way week well went work wrong year years yes young
    """.split()  # noqa: SIM905 - a list of so many quoted words reads worse
)
_CONTRACTED = re.compile(r"(?:n['\u2019]t|['\u2019](?:s|d|m|ll|re|ve))\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One thing that is true in the world.

    Attributes:
        know: characters, factions, places or "everyone"; being one of them is enough.
        after: name of the event before which nobody knows it, or "".
        file: where it is written, with its line.
    """

    id: str
    text: str
    know: frozenset[str]
    after: str = ""
    file: str = ""

    def known_to(self, scopes: Set[str], happened: Set[str]) -> bool:
        """Whether someone with these scopes may know it, given the events that happened."""
        return bool(self.know & scopes) and (not self.after or self.after in happened)


def uncontracted(text: str) -> str:
    """A text without what apostrophes add to its words: no words of their own."""
    return _CONTRACTED.sub("", text)


class Lore:
    """A world's facts, searchable; the one place that decides who gets to see one."""

    def __init__(self, facts: Mapping[str, Fact]) -> None:
        self._facts = list(facts.values())
        self._database = _index(tuple((fact.id, fact.text) for fact in self._facts))

    def known(self, scopes: Set[str], happened: Set[str]) -> list[Fact]:
        """Every fact that someone with these scopes may know now."""
        return [fact for fact in self._facts if fact.known_to(scopes, happened)]

    def relevant(
        self,
        said: str,
        scopes: Set[str],
        happened: Set[str],
        limit: int | None = None,
        *,
        asked: str = "",
    ) -> list[Fact]:
        """Facts that what is said may mean and that may be known, best first.

        A fact is meant by two of its words, or by one that few other facts have.

        Args:
            limit: the most to return; None for all.
            asked: name of who is spoken to; alone it means no fact about them.
        """
        terms = content_words(uncontracted(said))
        meant = self._meant(terms, SMALL_TALK.union(content_words(asked)))
        if not meant:
            return []
        rows = self._database.execute(
            "SELECT rowid FROM words WHERE words MATCH ? ORDER BY bm25(words), rowid",
            (" OR ".join(f'"{term}"' for term in terms),),
        )
        found = [self._facts[row] for (row,) in rows if row in meant]
        found = [fact for fact in found if fact.known_to(scopes, happened)]
        return found[:limit]

    def _meant(self, terms: Iterable[str], telling_nothing: Set[str]) -> set[int]:
        """Facts (by row) that share two words with these, or one that tells."""
        few = max(len(self._facts) * _COMMON, 2)
        shared: Counter[int] = Counter()
        for term in terms:
            query = "SELECT rowid FROM words WHERE words MATCH ?"
            rows = [row for (row,) in self._database.execute(query, (f'"{term}"',))]
            tells = len(rows) <= few and term not in telling_nothing
            shared.update(dict.fromkeys(rows, 2 if tells else 1))
        return {row for row, weight in shared.items() if weight >= 2}


@lru_cache(maxsize=4)
def _index(texts: tuple[tuple[str, str], ...]) -> sqlite3.Connection:
    """The words of ids and texts; all games of a world share it, since they only read."""
    database = sqlite3.connect(":memory:", check_same_thread=False)
    database.execute("CREATE VIRTUAL TABLE words USING fts5(text, tokenize='porter unicode61')")
    database.executemany(
        "INSERT INTO words(rowid, text) VALUES (?, ?)",
        [(row, f"{name.replace('_', ' ')} {text}") for row, (name, text) in enumerate(texts)],
    )
    return database


def read_facts(path: Path, root: Path) -> list[Fact]:
    """The facts of one lore file.

    Raises:
        WorldError: listing every fact that is wrong.
    """
    table, body, first_line = read_front_matter(path, root)
    file = shown(path, root)
    problems = [
        Problem(file, key, "is not a key of a lore file", nearest(key, _KEYS))
        for key in set(table) - _KEYS
    ]
    defaults = {key: _words(value) for key, value in table.items() if key in _KEYS}
    facts = []
    for line, heading, lines in _sections(body, first_line):
        try:
            facts.append(_fact(heading, lines, defaults, f"{file}:{line}"))
        except WorldError as error:
            problems += error.problems
    if problems:
        raise WorldError(problems)
    return facts


def _sections(body: str, first_line: int) -> Iterable[tuple[int, str, list[str]]]:
    sections: list[tuple[int, str, list[str]]] = []
    for number, line in enumerate(body.splitlines(), first_line):
        if match := _HEADING.match(line):
            sections.append((number, match["id"], []))
        elif sections:
            sections[-1][2].append(line)
    return sections


def _fact(heading: str, lines: list[str], defaults: dict[str, str], where: str) -> Fact:
    settings = dict(defaults)
    while lines and (match := _SETTING.match(lines[0])) and match["key"] in _KEYS:
        settings[match["key"]] = match["value"]
        lines = lines[1:]
    text = " ".join(" ".join(lines).split())
    know = frozenset(part.strip() for part in settings.get("know", "").split(",") if part.strip())
    if not _ID.match(heading):
        raise _mistake(where, heading, "is not an id", "write ## like_this, lower case")
    if not know:
        raise _mistake(where, heading, "says not who knows it", "add `know: everyone` below it")
    if not text:
        raise _mistake(where, heading, "has no text", "write the fact below its settings")
    return Fact(id=heading, text=text, know=know, after=settings.get("after", ""), file=where)


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _mistake(where: str, heading: str, message: str, remedy: str) -> WorldError:
    return WorldError([Problem(where, heading, message, remedy)])
