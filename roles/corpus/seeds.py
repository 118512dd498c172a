"""Lines that a writer wrote by hand: `npcs/NAME.jsonl`, woven into generated conversations."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from roles.errors import GrammarError

_REPLY = re.compile(r"\[(?P<mood>[a-z_]+)\] (?P<words>[^\n]+)(?:\n(?P<action>> .+))?", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seed:
    """One exchange.

    Attributes:
        asked: the player's words, without the speaker's name.
        facts, goal, offers: the notes beside it.
    """

    asked: str
    mood: str
    words: str
    action: str = ""
    facts: tuple[str, ...] = ()
    goal: str = ""
    offers: tuple[str, ...] = ()


def read_seeds(path: Path) -> list[Seed]:
    """The seed lines of a character; none if it has no file.

    Raises:
        GrammarError: a row is not `instruction`, `input`, `output` with `[mood] words`.
    """
    if not path.exists():
        return []
    seeds = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            seeds.append(_seed(row["instruction"], row.get("input", ""), row["output"]))
        except (ValueError, KeyError, TypeError) as error:
            raise GrammarError(f"{path}:{number}: {error!r}") from error
    return seeds


def _seed(said: str, notes: str, output: str) -> Seed:
    match = _REPLY.fullmatch(output)
    if match is None:
        raise ValueError(f"output {output!r} is not '[mood] words'")
    noted: dict[str, list[str]] = {"Fact": [], "Goal": [], "Actions": [], "Mood": []}
    for line in notes.splitlines():
        key, _, text = line.partition(": ")
        noted[key].append(text)
    speaker, colon, words = said.partition(": ")
    return Seed(
        asked=words if colon and speaker.isalpha() else said,
        mood=match["mood"],
        words=match["words"],
        action=match["action"] or "",
        facts=tuple(noted["Fact"]),
        goal="".join(noted["Goal"]).removesuffix("."),
        offers=tuple(_offers("".join(noted["Actions"]).removesuffix("."))),
    )


def _offers(text: str) -> list[str]:
    return re.findall(r"[a-z_]+\([^)]*\)", text)
