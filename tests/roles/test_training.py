from __future__ import annotations

import base64
import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from npc_adapters.card import base_digest, read_card
from npc_adapters.errors import DataError, StoreError, TrainingError
from npc_adapters.train import TrainConfig
from roles import training
from roles.character_card import read_card as read_character
from roles.character_card import write_character
from roles.errors import WorldError
from roles.gate import candidate_figures, shortfalls
from roles.rows import mix_rows, npc_rows
from roles.schema import GateTable
from roles.world import DIRECTOR, World
from tests.roles.worlds_for_tests import write_world
from tests.tiny_models import tiny_base

torch.set_num_threads(1)
QUICK = TrainConfig(rank=4, alpha=8, epochs=3, lr=1e-2, batch_size=8, max_tokens=400, replay=0.0)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """The small world with an npc base of its own and sixty lines for Anna."""
    folder = write_world(tmp_path / "house")
    tiny_base(folder / "models" / "npc-base", max_position_embeddings=1024)
    rows = (
        {"instruction": f"Guest: Spoon {i}?", "output": f"[calm] Spoon {i} is counted."}
        for i in range(60)
    )
    (folder / "npcs" / "anna.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return World.load(folder)


def test_lines_become_a_live_character_and_bad_lines_do_not(world: World, tmp_path: Path) -> None:
    nowhere = tmp_path / "no corpus"
    training.train_npc(world, "anna", QUICK, corpus=nowhere, show=False)
    figures = candidate_figures(world, "anna", training.library(world).candidate("anna"), nowhere)
    assert figures["perplexity_ratio"] < 0.9
    card = training.promote(world, "anna", corpus=nowhere, scripts=False, force_reason="a test")
    live = training.library(world).live("anna")

    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"instruction": "Guest: Hi.", "output": "<|end|>"}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:1: output"):
        training.train_npc(world, "anna", QUICK, corpus=nowhere, data=[bad], show=False)

    noise = tmp_path / "noise.jsonl"
    noise.write_text("\n".join(json.dumps(row) for row in _noise()))
    training.train_npc(world, "anna", QUICK, corpus=nowhere, data=[noise], show=False)
    with pytest.raises(StoreError, match="anna does not pass its gate: perplexity_ratio"):
        training.promote(world, "anna", corpus=nowhere, scripts=False)
    assert read_card(live) == card

    training.promote(world, "anna", corpus=nowhere, scripts=False, force_reason="to go back")
    assert read_card(live) != card
    training.library(world).rollback("anna")
    assert read_card(live) == card


def _noise() -> list[dict[str, str]]:
    return [{"instruction": f"Guest: {i}?", "output": chr(0x21 + i) * 30} for i in range(40)]


def test_an_unknown_character_or_one_without_lines_is_named(world: World, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no character 'zed'"):
        npc_rows(world, "zed", corpus=tmp_path)
    with pytest.raises(TrainingError, match=r"write .*ben\.txt"):
        npc_rows(world, "ben", corpus=tmp_path)
    with pytest.raises(TrainingError, match="director base"):
        training.base_folder(world, "director")


def test_rows_are_shown_as_live_requests_are(world: World, tmp_path: Path) -> None:
    row = npc_rows(world, "anna", corpus=tmp_path).train[0]
    assert row.messages[0].text.startswith("You are Anna, the keeper of the house.")
    assert row.messages[1].text == "Guest: Spoon 0?"


def test_a_writers_talks_come_first_and_a_tenth_is_held_out(world: World, tmp_path: Path) -> None:
    talks = [f"Guest: Is this cup {i}?\n[calm] It is cup {i}.\n---\n" for i in range(20)]
    (world.root / "npcs" / "anna.txt").write_text("".join(talks), encoding="utf-8")
    rows = npc_rows(world, "anna", corpus=tmp_path)
    assert len(rows.valid) == 2
    assert all(row.path.endswith("anna.txt") for row in rows.train[:18] + rows.valid)
    assert rows.train[18].messages[1].text == "Guest: Spoon 0?"


CARD = {
    "spec": "chara_card_v2",
    "data": {
        "name": "Captain Rook",
        "description": "{{char}} is a pirate.",
        "personality": "Loud.",
        "scenario": "",
        "first_mes": "Ahoy, {{user}}!",
        "mes_example": "<START>\n{{user}}: Who are you?\n{{char}}: Captain Rook!\n",
    },
}


def png(keyword: bytes, text: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + b"\0\0\0\0"

    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"\0" * 13) + chunk(b"tEXt", keyword + b"\0" + text)
    )


def test_of_the_rows_a_fifth_act_and_a_fifth_say_noted_facts(world: World, tmp_path: Path) -> None:
    def row(number: int) -> dict[str, object]:
        acts, noted = number % 10 == 8, number % 10 == 9
        said = [
            ("user", f"Guest: {number}?"),
            ("assistant", f"[calm] {number}." + "\n> nod {}" * acts),
        ]
        messages = [{"role": role, "content": text} for role, text in said]
        return {"messages": messages, "copy": [str(number)] * noted}

    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row(number)) for number in range(100)), encoding="utf-8")
    rows = npc_rows(world, "anna", data=[file]).train
    mixed = mix_rows(rows, 20)
    numbers = sorted(int(one.replies[0].split()[1].split(".")[0]) for one in mixed)
    assert [n for n in numbers if n % 10 == 8] == [8, 18, 28, 38]
    assert [n for n in numbers if n % 10 == 9] == [9, 19, 29, 39, 49, 59]
    assert [n for n in numbers if n % 10 < 8] == [0, 1, 2, 3, 4, 5, 6, 7, 10, 11]
    assert mix_rows(rows, 0) == rows


@pytest.mark.parametrize(
    ("spec", "keyword"), [("chara_card_v2", b"chara"), ("chara_card_v3", b"ccv3")]
)
def test_a_card_becomes_a_character_with_training_rows(
    world: World, tmp_path: Path, spec: str, keyword: bytes
) -> None:
    document = json.dumps(CARD | {"spec": spec}).encode()
    (tmp_path / "card.json").write_bytes(document)
    (tmp_path / "card.png").write_bytes(png(keyword, base64.b64encode(document)))
    card = read_character(tmp_path / "card.png")
    assert card == read_character(tmp_path / "card.json")
    assert card.greeting == "Ahoy, the player!"
    write_character(card, world.root, "hall")
    again = World.load(world.root)
    assert again.npcs["captain_rook"].persona == "Captain Rook is a pirate. Loud."
    rows = npc_rows(again, "captain_rook", corpus=tmp_path).train
    assert rows[0].replies == ["[calm] Captain Rook!"]
    with pytest.raises(WorldError, match="is there already"):
        write_character(card, world.root, "hall")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{}", "is None, not one of"),
        (b"nonsense", "neither JSON nor a PNG"),
        (png(b"other", b"x"), "without a character card"),
        (png(b"chara", b"!"), "not base64"),
        (json.dumps(CARD | {"data": {}}).encode(), "data.name"),
    ],
)
def test_what_is_no_card_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "card"
    path.write_bytes(content)
    with pytest.raises(WorldError, match=words):
        read_character(path)


def test_the_gate_names_each_figure_that_falls_short() -> None:
    limits = GateTable(max_perplexity_ratio=0.75, min_lore_agreement=0.8, max_broken=0.1)
    figures = {"perplexity_ratio": 0.8, "lore_agreement": 0.9, "broken": 0.1, "distinct_2": 0.0}
    assert shortfalls(figures, limits) == ["perplexity_ratio is 0.800, wanted at most 0.75"]
    assert shortfalls({"lore_agreement": 0.5}, limits) == [
        "lore_agreement is 0.500, wanted at least 0.8"
    ]


def test_a_layer_of_all_characters_is_merged_and_the_next_lies_on_it(
    world: World, tmp_path: Path
) -> None:
    nowhere = tmp_path / "no corpus"
    base = training.base_folder(world, "npc")
    out = world.root / "models" / "npc-world"
    once = replace(QUICK, epochs=1)
    training.train_world(world, once, out, corpus=nowhere, show=False)
    assert base_digest(out) != base_digest(base)
    text = (world.root / "world.toml").read_text()
    (world.root / "world.toml").write_text(text.replace("models/npc-base", "models/npc-world"))
    layered = World.load(world.root)
    own = training.train_npc(layered, "anna", once, corpus=nowhere, show=False)
    assert own.card.base_digest == base_digest(out)


@pytest.mark.parametrize("name", ["biblioteca_eterna", "iron_carnival", "outpost_kestrel"])
def test_shipped_adapters_fit_the_base_they_ship_with(name: str) -> None:
    shipped = World.load(name)
    found = training.library(shipped)
    assert found.names()
    for agent in found.names():
        tier = "director" if agent == DIRECTOR else "npc"
        found.verify(found.live(agent), training.base_folder(shipped, tier))
