from __future__ import annotations

from pathlib import Path

import pytest

from roles.errors import WorldError
from roles.scaffold import scaffold
from roles.world import STARTER, WORLDS, World


def test_a_new_world_is_a_valid_one(tmp_path: Path) -> None:
    files = scaffold(tmp_path / "my_inn")
    world = World.load(tmp_path / "my_inn")
    assert world.spec.title == "My Inn"
    assert world.agents == ("director", "marta", "accounts")
    assert set(world.facts) == {"well", "cellar", "coins"}
    assert all(path.is_file() for path in files)
    # What a new world lacks is the student of its book, and it says how to get one.
    lacks = world.model_problems()
    assert [problem.key for problem in lacks] == ["tiers.book.base"]
    assert "biblioteca distill --all" in lacks[0].remedy


def test_a_new_world_talks_like_the_one_that_ships(tmp_path: Path) -> None:
    scaffold(tmp_path / "inn")
    tiers = World.load(tmp_path / "inn").spec.tiers, World.load(WORLDS / STARTER).spec.tiers
    assert tiers[0].npc.sampling == tiers[1].npc.sampling


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(WorldError, match="is not empty"):
        scaffold(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
