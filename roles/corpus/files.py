"""The corpus files that trainings read: rows as JSON Lines, by kind, split by hash."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from npc_adapters.data import Row as TrainingRow
from npc_adapters.data import read_rows, split_rows
from roles.corpus.book import book_row
from roles.corpus.cast import invent
from roles.corpus.cast_talk import Cast
from roles.corpus.draw import Draw
from roles.corpus.intents import WEIGHTED
from roles.corpus.pacing import Pacing
from roles.corpus.seeds import read_seeds
from roles.corpus.source import Source, load_source
from roles.corpus.talk import Conversation, Row
from roles.errors import GrammarError
from roles.prompt import npc_system
from roles.world import World

# Rows at scale 1: about eighteen million tokens for the base at vocabulary 2048.
_BASE_ROWS = 42_000
_BOOK_SHARE = 0.14
_VALID_ROWS = 400
_DIRECTOR_ROWS = 9000
# Enough for two or three minutes of adapter training on a CPU.
_NPC_ROWS = 1500
_NPC_VALID_ROWS = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class CorpusFile:
    """A file written: how many rows, and characters of text in them."""

    path: Path
    num_rows: int
    num_characters: int


def write_corpus(
    world: Path, output: Path, *, seed: int = 1, scale: float = 1.0
) -> list[CorpusFile]:
    """Write every corpus of a world.

    Args:
        world: the world's folder.
        output: where `npc-NAME.{train,valid}.jsonl` go, and `{base,director}.{train,valid}.jsonl`
            if the world has a language (grammar/words.yaml) of its own.
        seed: same seed, same rows.
        scale: share of the full number of training rows.

    Raises:
        GrammarError: the world's grammar cannot be read.
    """
    source = load_source(world / "grammar")
    loaded = World.load(world)
    output.mkdir(parents=True, exist_ok=True)
    written = []
    if (world / "grammar" / "words.yaml").exists():
        written += _write_bases(source, loaded, output, seed, scale)
    cast = Cast(source, loaded)
    for npc in cast.world.npcs:
        seeds = read_seeds(world / "npcs" / f"{npc}.jsonl")
        for split, count in (
            ("train", int(_NPC_ROWS * scale)),
            ("valid", max(int(_NPC_VALID_ROWS * scale), 10)),
        ):
            rows = cast.rows(npc, seeds, seed, count, held_out=split == "valid")
            written.append(write_rows(output / f"npc-{npc}.{split}.jsonl", rows))
    return written


def _write_bases(
    source: Source, world: World, output: Path, seed: int, scale: float
) -> list[CorpusFile]:
    """The rows that bases learn from; a world on another's bases has none of its own."""
    pacing = Pacing(source, world)
    written = []
    num_valid = max(int(_VALID_ROWS * scale), 150)
    for side in ("train", "valid"):
        valid = side == "valid"
        num_base, num_director = int(_BASE_ROWS * scale), int(_DIRECTOR_ROWS * scale)
        base = base_rows(source, seed, num_valid if valid else num_base, held_out=valid)
        ticks = pacing.rows(seed, num_valid if valid else num_director, held_out=valid)
        talks = invented_talks(world.root / "grammar" / "talks", held_out=valid)
        written.append(write_rows(output / f"base.{side}.jsonl", woven(talks, base)))
        written.append(write_rows(output / f"director.{side}.jsonl", ticks))
    return written


def invented_talks(folder: Path, *, held_out: bool) -> list[Row]:
    """Talks written by hand with characters of no world (`System: NAME | ROLE | PERSONA`), from
    all .txt files of a folder, in no file's order."""
    files = sorted(folder.glob("*.txt"))
    if not files:
        return []
    train, valid = split_rows(read_rows(files).require_sound())
    for part in (train, valid):
        random.Random(0).shuffle(part)
    return [_invented(row) for row in (valid if held_out else train)]


def _invented(row: TrainingRow) -> Row:
    head, *rest = row.messages
    parts = head.text.split(" | ")
    if head.role != "system" or len(parts) != 3:
        raise GrammarError(
            f"{row.path}:{row.line}: a talk here must begin with System: NAME | ROLE | PERSONA"
        )
    messages = [{"role": m.role, "content": m.text} for m in (npc_system(*parts), *rest)]
    return {"messages": messages, "kind": "written", "agent": None}


def woven(written: list[Row], generated: Iterator[Row]) -> Iterator[Row]:
    """Written rows by turns with generated ones: a training that takes a file's first rows takes
    the written ones."""
    for row in written:
        yield row
        yield from islice(generated, 1)
    yield from generated


def write_rows(path: Path, rows: Iterator[Row]) -> CorpusFile:
    """Write rows as JSON Lines."""
    num_rows = num_characters = 0
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            num_rows += 1
            num_characters += sum(len(m["content"]) for m in row["messages"])
    return CorpusFile(path=path, num_rows=num_rows, num_characters=num_characters)


def base_rows(source: Source, seed: int, count: int, *, held_out: bool) -> Iterator[Row]:
    """Rows of invented characters and books: what the npc base learns from."""
    side = "valid" if held_out else "train"
    for index in range(count):
        draw = Draw(source.grammar, f"{seed}:base:{side}:{index}", held_out=held_out)
        roll = draw.rng.random()
        if roll < _BOOK_SHARE:
            yield book_row(draw, source.stock.relations)
        else:
            yield invented_talk(draw, source)


def invented_talk(draw: Draw, source: Source) -> Row:
    """A conversation with an invented character."""
    character = invent(draw, source.voices)
    you = draw.choice(["Visitor", "Player", "Traveller", "Stranger", *draw.phrases("first", 8)])
    talk = Conversation(draw, source.stock, character, you)
    intents, weights = list(WEIGHTED), list(WEIGHTED.values())
    for intent in draw.rng.choices(intents, weights, k=draw.choice([3, 4, 4, 5])):
        talk.add(intent(talk))
    return talk.row("npc", None)
