from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from roles.errors import WorldError
from roles.world import World
from tests.roles.worlds_for_tests import write_world


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_world(tmp_path / "house")


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_world_loads_with_everyone_in_it(folder: Path) -> None:
    world = World.load(folder)
    assert world.agents == ("director", "anna", "ben", "salt_almanac")
    assert world.facts["spoons"].know == {"staff"}
    assert world.books["salt_almanac"].title == "The Salt Almanac"


def test_facts_are_known_by_faction_place_and_after_their_event(folder: Path) -> None:
    world = World.load(folder)
    anna, ben = world.scopes("anna"), world.scopes("ben")
    assert world.facts["spoons"].known_to(anna, set())
    assert not world.facts["spoons"].known_to(ben, set())
    assert not world.facts["key"].known_to(anna, set())
    assert world.facts["key"].known_to(anna, {"lamp_out"})


def test_directives_must_match_one_authored_shape_or_wait(folder: Path) -> None:
    schema = World.load(folder).directive_schema()
    good = {"do": "direct", "who": "anna", "mood": "afraid", "goal": "find the key"}
    jsonschema.validate({"do": "wait"}, schema)
    jsonschema.validate(good, schema)
    for bad in ({"do": "sing"}, {**good, "who": "nobody"}, {**good, "mood": "hungry"}, {}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


def test_tension_follows_the_authored_curve_in_straight_lines(folder: Path) -> None:
    pacing = World.load(folder).spec.pacing
    assert [pacing.wanted(m) for m in (-1, 0, 15, 30, 45, 99)] == [2, 2, 4.5, 7, 5, 3]


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("npcs/anna.toml", 'name = "Anna"', "", "npcs/anna.toml: name: is missing; add it"),
        ("npcs/anna.toml", "persona =", "personna =", "did you mean 'persona'?"),
        ("npcs/anna.toml", 'place = "hall"', 'place = "hal"', "did you mean 'hall'?"),
        ("npcs/anna.toml", "afraid =", "afriad =", "did you mean 'afraid'?"),
        ("npcs/anna.toml", '"One moment.", ', "", "fallback: has fewer than two"),
        ("npcs/anna.toml", "ben =", "bern =", "did you mean 'ben'?"),
        ("world.toml", 'quantization = "int8"', 'quantization = "int9"', "tiers.director.quanti"),
        ("world.toml", '"npc", mood', '"who", mood', "directives.direct.arguments"),
        ("world.toml", "emotions = [", "emotions = [[", "not valid TOML"),
        ("lore/house.md", "know: staff", "know: stuff", "did you mean 'staff'?"),
        ("lore/house.md", "after: lamp_out", "after: lamp", "did you mean 'lamp_out'?"),
        ("books/salt_almanac.md", "author: Ines Quarto\n", "", "author: is missing"),
    ],
)
def test_a_mistake_is_told_with_file_key_and_remedy(
    folder: Path, file: str, old: str, new: str, says: str
) -> None:
    change(folder / file, old, new)
    with pytest.raises(WorldError) as caught:
        World.load(folder)
    assert any(says in str(problem) for problem in caught.value.problems)
    assert all(problem.file and problem.remedy for problem in caught.value.problems)


def test_a_missing_base_is_told_apart_from_a_hub_id(folder: Path) -> None:
    world = World.load(folder)
    assert [p.key for p in world.model_problems()][:2] == ["tiers.director.base", "tiers.npc.base"]
    change(folder / "world.toml", "models/npc-base", "some-org/some-model")
    assert "tiers.npc.base" not in [p.key for p in World.load(folder).model_problems()]


def test_a_world_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(WorldError, match="no such folder"):
        World.load("/nowhere/at/all")
