"""Character cards, as role-players share them, as characters of a world.

Reads Character Card V2 and V3 (https://github.com/malfoyslastname/character-card-spec-v2 and
https://github.com/kwaroran/character-card-spec-v3), as JSON or inside a PNG, and writes
`npcs/NAME.toml`; example dialogue becomes training rows, `npcs/NAME.jsonl`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roles.errors import Problem, WorldError
from roles.prompt import one_line

_SPECS = ("chara_card_v2", "chara_card_v3")
_PNG = b"\x89PNG\r\n\x1a\n"
_KEYWORDS = ("ccv3", "chara")  # where V3 and V2 cards sit in a PNG, the newer one first
_MAX_PERSONA = 500  # characters: it is in every prompt


@dataclass(frozen=True, kw_only=True)
class CharacterCard:
    """What we take from a card."""

    name: str
    persona: str
    greeting: str
    dialogue: tuple[tuple[str, str], ...]


def read_card(path: Path) -> CharacterCard:
    """Read a card from a JSON or PNG file.

    Raises:
        WorldError: the file is missing, holds no card, or one of another version.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _fault(path, "", f"cannot be read: {error.strerror}") from error
    text = _png_text(path, content) if content.startswith(_PNG) else content
    try:
        card = json.loads(text)
    except ValueError as error:
        raise _fault(path, "", "is neither JSON nor a PNG with a card in it") from error
    if not isinstance(card, dict) or card.get("spec") not in _SPECS:
        found = card.get("spec") if isinstance(card, dict) else None
        raise _fault(path, "spec", f"is {found!r}, not one of {', '.join(_SPECS)}")
    return _card(path, card.get("data"))


def _png_text(path: Path, content: bytes) -> bytes:
    """The card in a PNG's tEXt chunks: base64 of its JSON."""
    found: dict[str, bytes] = {}
    at = len(_PNG)
    while at + 8 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        kind, body = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        if kind == b"tEXt":
            keyword, _, text = body.partition(b"\0")
            found[keyword.decode("latin-1").lower()] = text
        at += 12 + length
    for wanted in _KEYWORDS:
        if wanted in found:
            try:
                return base64.b64decode(found[wanted], validate=True)
            except binascii.Error as error:
                raise _fault(path, wanted, "is not base64") from error
    raise _fault(path, "", "is a PNG without a character card")


def _card(path: Path, data: Any) -> CharacterCard:
    if not isinstance(data, dict) or not str(data.get("name") or "").strip():
        raise _fault(path, "data.name", "is missing")
    name = one_line(str(data["name"]))

    def text(field: str) -> str:
        value = data.get(field) or ""
        if not isinstance(value, str):
            raise _fault(path, f"data.{field}", f"is {value!r}, not text")
        filled = re.sub(r"\{\{char\}\}|<BOT>", name, value, flags=re.IGNORECASE)
        return re.sub(r"\{\{user\}\}|<USER>", "the player", filled, flags=re.IGNORECASE)

    parts = (one_line(text(field)) for field in ("description", "personality", "scenario"))
    persona = " ".join(part for part in parts if part)
    if not persona:
        raise _fault(path, "data.description", "is empty, as is personality: nobody to play")
    return CharacterCard(
        name=name,
        persona=_shorten(persona),
        greeting=one_line(text("first_mes")),
        dialogue=_dialogue(text("mes_example"), name),
    )


def _shorten(text: str) -> str:
    """Whole sentences, as many as fit."""
    if len(text) <= _MAX_PERSONA:
        return text
    cut = text[:_MAX_PERSONA]
    end = max(cut.rfind(mark) for mark in (". ", "! ", "? "))
    return cut[: end + 1] if end > 0 else cut.rsplit(" ", 1)[0]


def _dialogue(text: str, name: str) -> tuple[tuple[str, str], ...]:
    """Pairs of what the player said and what the character answered."""
    pairs, said = [], ""
    for line in re.split(r"\n(?=\S+[^:\n]{0,40}: )|<START>", text):
        speaker, found, words = line.strip().partition(": ")
        if found and speaker == name and said:
            pairs.append((said, one_line(words)))
            said = ""
        elif found and speaker != name:
            said = one_line(words)
    return tuple(pairs)


def write_character(card: CharacterCard, world: Path, place: str) -> list[Path]:
    """Write a card as a character of a world; nothing is overwritten.

    Args:
        card: the character.
        world: the world's folder.
        place: id of the place where it stands.

    Returns:
        The files written: `npcs/NAME.toml`, and `npcs/NAME.jsonl` if the card has dialogue.

    Raises:
        WorldError: a character of that name is there already.
    """
    stem = re.sub(r"[^a-z0-9]+", "_", card.name.lower()).strip("_") or "guest"
    toml = world / "npcs" / f"{stem if stem[0].isalpha() else 'c_' + stem}.toml"
    if toml.exists():
        raise _fault(toml, "", "is there already; rename the card or the file")
    table = {
        "name": card.name,
        "role": "a guest",
        "persona": card.persona,
        "place": place,
        "greeting": card.greeting or "Good evening.",
    }
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items()]
    lines += ["[fallback]", 'any = ["One moment.", "Let me think."]', ""]
    toml.parent.mkdir(exist_ok=True)
    toml.write_text("\n".join(lines), encoding="utf-8")
    if not card.dialogue:
        return [toml]
    rows = (
        {"instruction": f"Player: {a}", "input": "", "output": f"[calm] {b}"}
        for a, b in card.dialogue
    )
    data = toml.with_suffix(".jsonl")
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    data.write_text(text, encoding="utf-8")
    return [toml, data]


def _fault(path: Path, key: str, message: str) -> WorldError:
    remedy = "give a Character Card V2 or V3, as JSON or PNG"
    return WorldError([Problem(str(path), key, message, remedy)])
