"""Which rows train and judge whom.

Rows come from what a writer puts into `npcs/NAME.txt` and `npcs/NAME.jsonl`, and from the corpus
that the world's grammar writes (`runs/corpus`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from books.prompt import BOOK_HEAD
from npc_adapters.data import Row, read_rows, split_rows, with_system
from npc_adapters.errors import TrainingError
from npc_adapters.tokenizer import CONTROL_TOKENS
from roles.prompt import npc_system
from roles.world import World

CORPUS = Path("runs/corpus")


@dataclass(frozen=True, kw_only=True)
class RowSet:
    """Rows to learn from and rows held out."""

    train: list[Row]
    valid: list[Row]


def corpus_rows(stem: str, split: str, corpus: Path) -> list[Row]:
    """The rows of a file that the grammar wrote; none if it wrote none. Raises: DataError."""
    path = corpus / f"{stem}.{split}.jsonl"
    if not path.exists():
        return []
    return read_rows([path], control_tokens=CONTROL_TOKENS).require_sound()


def npc_rows(world: World, npc: str, *, corpus: Path = CORPUS, data: Sequence[Path] = ()) -> RowSet:
    """A character's rows: given files alone, or else its own files and the corpus.

    A writer's talks come first; a tenth of them is held out.

    Raises:
        TrainingError: no such character, or nothing to learn from.
        DataError: faulty rows.
    """
    if npc not in world.npcs:
        raise TrainingError(f"no character {npc!r}; there are: {', '.join(world.npcs)}")
    spec = world.npcs[npc]
    system = npc_system(spec.name, spec.role, spec.persona)
    files = list(data) or own_files(world, npc)
    train = read_rows(files, control_tokens=CONTROL_TOKENS).require_sound() if files else []
    valid: list[Row] = []
    if not data:
        talks, valid = split_rows([row for row in train if row.path.endswith(".txt")])
        lines = [row for row in train if not row.path.endswith(".txt")]
        train = [*talks, *lines, *corpus_rows(f"npc-{npc}", "train", corpus)]
        valid = _by_turns(valid, corpus_rows(f"npc-{npc}", "valid", corpus))
    if not train:
        where = world.root / "npcs" / f"{npc}.txt"
        raise TrainingError(f"{npc} has nothing to learn from: write {where}, or give --data FILE")
    return RowSet(train=with_system(train, system), valid=with_system(valid, system))


def _by_turns(some: list[Row], others: list[Row]) -> list[Row]:
    """Rows of both by turns, so that the first of them are of either kind."""
    pairs = zip_longest(some, others)
    return [row for pair in pairs for row in pair if row is not None]


def own_files(world: World, npc: str) -> list[Path]:
    """What a writer wrote for a character: talks and single lines."""
    files = (world.root / "npcs" / f"{npc}{suffix}" for suffix in (".txt", ".jsonl"))
    return [file for file in files if file.exists()]


def general_rows(split: str, corpus: Path = CORPUS, limit: int | None = 2000) -> list[Row]:
    """Dialogue of nobody in particular: for the base, against forgetting, and to measure it."""
    rows = corpus_rows("base", split, corpus)
    return [row for row in rows if not row.messages[0].text.startswith(BOOK_HEAD)][:limit]


def mix_rows(rows: list[Row], limit: int) -> list[Row]:
    """As many rows as the limit says (0: all), the first of each kind, a writer's before others.

    A fifth of them are such in which somebody acts, a third such that want a noted fact or name:
    of rows as they come too few do either to learn it.
    """
    if not 0 < limit < len(rows):
        return rows
    acting = [row for row in rows if _acts(row)]
    noted = [row for row in rows if row.facts and not _acts(row)]
    chosen = acting[: limit // 5] + noted[: limit // 3]
    taken = set(map(id, chosen))
    return chosen + [row for row in rows if id(row) not in taken][: limit - len(chosen)]


def _acts(row: Row) -> bool:
    return any("\n> " in reply for reply in row.replies)


def has_rows(world: World, npc: str, corpus: Path) -> bool:
    """Whether a character has anything to learn from."""
    return bool(own_files(world, npc)) or (corpus / f"npc-{npc}.train.jsonl").exists()
