"""A world: a folder that a writer can edit, read and checked as a whole.

world.toml            title, tiers, emotions, places, actions, directives, events, pacing
npcs/NAME.toml        one character (NAME.txt, NAME.jsonl beside it are for training)
lore/*.md             facts and who may know them
books/NAME.md         one book, with front matter
models/               bases, adapters, students
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

from engine.bases import find_folder
from engine.errors import BaseModelError
from roles.errors import Problem, WorldError
from roles.lore import EVERYONE, Fact, read_facts
from roles.problems import nearest, parse, read_front_matter, read_toml, shown
from roles.regard import OF_MOODS
from roles.schema import BookFile, Call, NpcFile, WorldFile

WORLDS = Path(__file__).parent / "worlds"
STARTER = "biblioteca_eterna"
DIRECTOR = "director"
NOTHING: Mapping[str, Collection[str]] = MappingProxyType({})
_HUB_ID = re.compile(r"^[\w-][\w.-]*/[\w.-]+$")
_ID = re.compile(r"^[a-z][a-z0-9_]*$")


@dataclass(frozen=True, kw_only=True)
class World:
    """A world whose files have been read and agree with one another.

    Attributes:
        npcs: characters by id, in the order of their ids; books likewise.
        facts: every fact of the lore, by id.
        files: SHA-256 of each file that was read, by its path inside the world.
    """

    root: Path
    spec: WorldFile
    npcs: Mapping[str, NpcFile]
    books: Mapping[str, BookFile]
    facts: Mapping[str, Fact]
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path = STARTER) -> World:
        """Read a world from its folder, or by the name of one that ships with the package.

        Models are not looked at: `model_problems` does that.

        Raises:
            WorldError: with every mistake in its files.
        """
        root = find_world(path)
        problems: list[Problem] = []
        spec: WorldFile | None = None
        npcs: dict[str, NpcFile] = {}
        books: dict[str, BookFile] = {}
        facts: dict[str, Fact] = {}
        for file in _files(root):
            try:
                match file.parent.name if file.parent != root else "world":
                    case "world":
                        spec = parse(WorldFile, read_toml(file, root), shown(file, root))
                    case "npcs":
                        npc = _id(file, root)
                        npcs[npc] = parse(NpcFile, read_toml(file, root), shown(file, root))
                    case "books":
                        book, (table, _, _) = _id(file, root), read_front_matter(file, root)
                        books[book] = parse(BookFile, table, shown(file, root))
                    case "lore":
                        _add_facts(facts, read_facts(file, root))
            except WorldError as error:
                problems += error.problems
        if spec is None or problems:
            raise WorldError(problems)
        files = {shown(file, root): file_digest(file) for file in _files(root)}
        world = cls(root=root, spec=spec, npcs=npcs, books=books, facts=facts, files=files)
        if problems := list(_disagreements(world)):
            raise WorldError(problems)
        return world

    @property
    def agents(self) -> tuple[str, ...]:
        """Ids of everyone who can be spoken to, the director first."""
        return (DIRECTOR, *self.npcs, *self.books)

    def base_path(self, name: str) -> str:
        """A base as an engine takes it: an absolute folder, or a hub id.

        A GGUF file is read and an adapter's folder merged when it is asked for the first time.

        Raises:
            BaseModelError: it can't be read or merged.
        """
        folder = (self.root / name).resolve()
        if folder.exists():
            return str(find_folder(str(folder)))
        if name.endswith(".gguf"):
            return str(find_folder(name))
        return name if is_hub_id(name) else str(folder)

    def npc_adapter(self, npc: str) -> Path | None:
        """A character's adapter folder: the one its file names, or its own in `models/`."""
        named = self.npcs[npc].adapter
        if named is not None:
            return (self.root / named).resolve()
        folder = self.root / "models" / "adapters" / npc
        return folder if folder.is_dir() else None

    @property
    def encoder(self) -> Path | None:
        """Folder of the sentence encoder for memories, or None where the world has none."""
        named = self.spec.memory.encoder
        return None if named is None else (self.root / named).resolve()

    def student(self, book: str) -> Path | None:
        """A book's student folder, or None where it has none (yet)."""
        named, tier = self.books[book].student, self.spec.tiers.book
        if named is not None:
            return (self.root / named).resolve()
        folder = self.root / tier.base / book if tier is not None else None
        return folder if folder is not None and folder.is_dir() else None

    def scopes(self, npc: str, place: str = "") -> frozenset[str]:
        """Every scope a character has in a place; facts that `know` one of them are its own."""
        spec = self.npcs[npc]
        return frozenset({EVERYONE, npc, *spec.scopes, place or spec.place})

    def regard_of(self, mood: str) -> float:
        """How a line in this mood moves what its speaker feels for whom it answers."""
        return self.spec.regard.get(mood, OF_MOODS.get(mood, 0.0))

    def arguments_schema(
        self, call: Call, without: Mapping[str, Collection[str]] = NOTHING
    ) -> dict[str, Any]:
        """An action's or directive's arguments as a JSON Schema of an object; `without`: by kind
        of argument, values that are not to be had."""
        properties = {name: self._argument(kind, without) for name, kind in call.arguments.items()}
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    def directive_schema(self, without: Mapping[str, Collection[str]] = NOTHING) -> dict[str, Any]:
        """One JSON Schema for whatever the director may answer, `wait` included.

        Args:
            without: values that are not to be had now, by kind ("npc", "event"); a directive
                that is left without a choice is none.
        """
        shapes = [_directive_shape("wait", {})]
        for name, call in self.spec.directives.items():
            properties = self.arguments_schema(call, without)["properties"]
            if all(kind.get("enum", True) for kind in properties.values()):
                shapes.append(_directive_shape(name, properties))
        return {"anyOf": shapes}

    def directive_lines(self) -> list[str]:
        """The directives as the director's prompt lists them, one line each."""
        calls = self.spec.directives.items()
        lines = [f"{name}({', '.join(call.arguments)}): {call.description}" for name, call in calls]
        return ["wait(): nothing calls for a directive", *lines]

    def model_problems(self) -> list[Problem]:
        """What `models/` lacks: bases, adapters and students that files name."""
        problems = []
        tiers = self.spec.tiers
        for tier in ("director", "npc", "book"):
            spec = getattr(tiers, tier)
            if spec is None or spec.server is not None:
                continue
            if message := self._no_base(spec.base):
                make = "distill --all" if tier == "book" else "build"
                remedy = f"make it with `biblioteca {make}`, or name a folder or hub id"
                problems.append(Problem("world.toml", f"tiers.{tier}.base", message, remedy))
            if spec.adapter and not (self.root / spec.adapter).is_dir():
                problems.append(_no_adapter("world.toml", f"tiers.{tier}.adapter", spec.adapter))
        if self.encoder is not None and not (self.encoder / "model.safetensors").is_file():
            remedy = "put a sentence encoder such as all-MiniLM-L6-v2 there, or remove the line"
            message = f"there is no model.safetensors in {self.encoder}"
            problems.append(Problem("world.toml", "memory.encoder", message, remedy))
        for npc, npc_spec in self.npcs.items():
            folder = self.npc_adapter(npc)
            if folder is not None and not folder.is_dir():
                problems.append(_no_adapter(f"npcs/{npc}.toml", "adapter", str(npc_spec.adapter)))
        return problems

    def _no_base(self, name: str) -> str:
        """Why a base is not to be had here; "" where it is, or may be on the hub."""
        try:
            path = self.base_path(name)
        except BaseModelError as error:
            return str(error)
        return "" if Path(path).is_dir() or is_hub_id(name) else f"there is no folder {path}"

    def _argument(
        self, kind: str | dict[str, Any], without: Mapping[str, Collection[str]]
    ) -> dict[str, Any]:
        if isinstance(kind, dict):
            return kind
        choices = {
            "npc": list(self.npcs),
            "book": list(self.books),
            "place": list(self.spec.places),
            "emotion": list(self.spec.emotions),
            "event": list(self.spec.events),
        }
        if kind in choices:
            gone = without.get(kind, ())
            return {"enum": [choice for choice in choices[kind] if choice not in gone]}
        if kind == "text":
            return {"type": "string", "minLength": 1, "maxLength": 120}
        return {"type": kind}


def find_world(path: str | Path) -> Path:
    """The folder of a world, given as a folder or as the name of one in the package.

    Raises:
        WorldError: there is no such folder, or it holds no world.toml.
    """
    for root in (Path(path), WORLDS / str(path)):
        if (root / "world.toml").is_file():
            return root.resolve()
    bundled = ", ".join(sorted(file.parent.name for file in WORLDS.glob("*/world.toml")))
    message = "is missing" if Path(path).is_dir() else "there is no such folder"
    remedy = f"name a folder with a world.toml, or one that ships with biblioteca: {bundled}"
    raise WorldError([Problem(f"{path}/world.toml", "", message, remedy)])


def is_hub_id(name: str) -> bool:
    """Whether a base's name can only be a hub id, `org/name`, and not a folder of the world."""
    return bool(_HUB_ID.match(name)) and not name.startswith("models/")


def _directive_shape(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    properties = {"do": {"const": name}, **arguments}
    required = list(properties)
    shape = {"type": "object", "properties": properties, "required": required}
    return {**shape, "additionalProperties": False}


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return sha256(path.read_bytes()).hexdigest()


def _files(root: Path) -> Iterator[Path]:
    yield root / "world.toml"
    for folder, pattern in (("npcs", "*.toml"), ("lore", "*.md"), ("books", "*.md")):
        yield from sorted((root / folder).glob(pattern))


def _id(file: Path, root: Path) -> str:
    if not _ID.match(file.stem) or file.stem in {DIRECTOR, "player", EVERYONE}:
        message = f"{file.stem!r} cannot be an id"
        remedy = "name the file in lower case with underscores, not director, player or everyone"
        raise WorldError([Problem(shown(file, root), "", message, remedy)])
    return file.stem


def _add_facts(facts: dict[str, Fact], new: list[Fact]) -> None:
    for fact in new:
        if fact.id in facts:
            message = f"is also in {facts[fact.id].file}"
            raise WorldError([Problem(fact.file, fact.id, message, "give one another id")])
        facts[fact.id] = fact


def _no_adapter(file: str, key: str, value: str) -> Problem:
    remedy = "train it with `biblioteca train`, or remove the line"
    return Problem(file, key, f"there is no folder {value!r}", remedy)


def _disagreements(world: World) -> Iterator[Problem]:
    """Names in one file that no other file knows."""
    spec = world.spec
    if not world.npcs:
        yield Problem("npcs", "", "holds no character", "write npcs/NAME.toml")
    for clash in sorted(set(world.npcs) & set(world.books)):
        yield Problem(f"books/{clash}.md", "", "has a character's id", "rename one of the files")
    for mood in spec.regard:
        if mood not in spec.emotions:
            remedy = nearest(mood, spec.emotions)
            yield Problem("world.toml", f"regard.{mood}", "is no emotion", remedy)
    for npc, table in world.npcs.items():
        file = f"npcs/{npc}.toml"
        for place in (table.place, *table.places):
            if place not in spec.places:
                key = "place" if place == table.place else "places"
                yield Problem(file, key, f"is {place!r}", nearest(place, spec.places))
        for mood in (table.mood, *(mood for mood in table.fallback if mood != "any")):
            if mood not in spec.emotions:
                key = "mood" if mood == table.mood else f"fallback.{mood}"
                yield Problem(file, key, f"{mood!r} is no emotion", nearest(mood, spec.emotions))
        for other in table.attitudes:
            if other not in world.npcs and other != "player":
                remedy = nearest(other, [*world.npcs, "player"])
                yield Problem(file, f"attitudes.{other}", "is no character", remedy)
    yield from _unknown_scopes(world)


def _unknown_scopes(world: World) -> Iterator[Problem]:
    scopes = {EVERYONE, *world.npcs, *world.spec.places}
    scopes |= {scope for npc in world.npcs.values() for scope in npc.scopes}
    for fact in world.facts.values():
        for scope in sorted(fact.know - scopes):
            message = f"{fact.id}: nobody is in {scope!r}"
            yield Problem(fact.file, "know", message, nearest(scope, scopes))
        if fact.after and fact.after not in world.spec.events:
            message = f"{fact.id}: there is no event {fact.after!r}"
            yield Problem(fact.file, "after", message, nearest(fact.after, world.spec.events))
