from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from roles.errors import WorldError
from roles.world import World
from tests.roles.worlds_for_tests import write_world

BROKEN: list[dict[str, Any]] = tomllib.loads(
    (Path(__file__).parent / "broken_worlds.toml").read_text(encoding="utf-8")
)["broken"]


def damage(folder: Path, broken: dict[str, Any]) -> None:
    path = folder / broken["change"]
    if broken.get("removed"):
        path.unlink()
    elif "hex" in broken:
        path.write_bytes(bytes.fromhex(broken["hex"]))
    elif "text" in broken:
        path.write_text(broken["text"], encoding="utf-8")
    else:
        text = path.read_text(encoding="utf-8")
        assert broken["old"] in text
        path.write_text(text.replace(broken["old"], broken["new"], 1), encoding="utf-8")


@pytest.mark.parametrize("broken", BROKEN, ids=[entry["about"] for entry in BROKEN])
def test_every_mistake_names_file_key_and_remedy(tmp_path: Path, broken: dict[str, Any]) -> None:
    folder = write_world(tmp_path / "house")
    damage(folder, broken)
    with pytest.raises(WorldError) as caught:
        World.load(folder)
    problems = caught.value.problems
    assert all(problem.file and problem.message and problem.remedy for problem in problems)
    assert any(
        problem.file.removeprefix(f"{folder}/") == broken["file"]
        and problem.key == broken["key"]
        and broken["remedy"] in problem.remedy
        for problem in problems
    ), "\n".join(map(str, problems))


def test_there_are_thirty_of_them() -> None:
    assert len(BROKEN) >= 30
    assert len({entry["about"] for entry in BROKEN}) == len(BROKEN)


def test_validate_reports_all_mistakes_at_once_as_json(tmp_path: Path) -> None:
    import typer

    from roles import cli

    folder = write_world(tmp_path / "house")
    damage(folder, {"change": "npcs/anna.toml", "old": 'name = "Anna"', "new": ""})
    damage(folder, {"change": "npcs/ben.toml", "old": 'name = "Ben"', "new": ""})
    app = typer.Typer()
    cli.register(app)
    result = CliRunner().invoke(app, ["validate", str(folder), "--json"])
    assert result.exit_code == 2
    document = json.loads(result.stdout)
    assert not document["ok"]
    assert [problem["file"] for problem in document["problems"]] == [
        "npcs/anna.toml",
        "npcs/ben.toml",
    ]
