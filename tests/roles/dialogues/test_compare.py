from __future__ import annotations

from pathlib import Path

import pytest

from roles.dialogues.compare import compare, side
from roles.dialogues.compare_page import page
from roles.dialogues.errors import ComparisonError
from roles.dialogues.gate import reasons_against
from roles.world import World
from tests.roles.dialogues.conftest import WriteScripts
from tests.tiny_models import tiny_adapter

SCRIPTS = """\
name: anna_greets
scene: {present: [anna], place: hall}
turns:
  - say: Hello?
    expect: {fallback: false, exact: never these words}
---
name: ben_greets
scene: {present: [ben], place: hall}
turns:
  - say: Hello?
    expect: {fallback: false}
"""


async def test_another_adapter_changes_its_own_characters_lines_only(
    world: World, write_scripts: WriteScripts, tmp_path: Path
) -> None:
    base = Path(world.base_path(world.spec.tiers.npc.base))
    other = tiny_adapter(tmp_path / "ben", base, seed=9)
    own = world.npc_adapter("ben")
    assert own is not None
    told = await compare(side(str(own), world), side(str(other), world), write_scripts(SCRIPTS))
    assert [change.a.agent for change in told.changes] == ["ben"]
    assert told.changes[0].causes[0].startswith("the adapter of ben was")
    assert told.flips == ()
    ben = next(voice for voice in told.voices if voice.agent == "ben")
    assert (ben.lines, ben.changed) == (1, 1)
    assert ben.perplexity_a is not None
    assert ben.perplexity_a > 1
    assert 0 < ben.words_shift <= 1
    text = page(told)
    assert "ben_greets" in text
    assert "http" not in text
    assert "<script" not in text


async def test_a_world_that_breaks_an_expectation_flips_it(
    world: World, write_scripts: WriteScripts, tmp_path: Path
) -> None:
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in world.root.iterdir():
        (changed / file.name).symlink_to(file)
    (changed / "npcs").unlink()
    (changed / "npcs").mkdir()
    for file in (world.root / "npcs").iterdir():
        text = file.read_text(encoding="utf-8").replace("count every spoon", "lose every spoon")
        (changed / "npcs" / file.name).write_text(text, encoding="utf-8")
    scripts = write_scripts(
        SCRIPTS.replace("exact: never these words", "prompt: {contains: count}")
    )
    told = await compare(side(str(world.root), world), side(str(changed), world), scripts)
    assert [(flip.script, flip.key, flip.broken) for flip in told.flips] == [
        ("house::anna_greets", "prompt.contains", True)
    ]


def test_what_cannot_be_compared_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(ComparisonError, match="is nothing to compare"):
        side(str(tmp_path), world)
    nameless = tmp_path / "v2"
    nameless.mkdir()
    (nameless / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ComparisonError, match="whose adapter is it"):
        side(str(nameless), world)


async def test_the_gate_blocks_with_reasons_and_lets_good_adapters_pass(
    world: World, tmp_path: Path
) -> None:
    folder = world.root / "dialogues"
    folder.mkdir()
    text = SCRIPTS.replace("{fallback: false}", "{prompt: {contains: You are Ben}}")
    (folder / "house.yaml").write_text(text, encoding="utf-8")
    base = Path(world.base_path(world.spec.tiers.npc.base))
    candidate = tiny_adapter(tmp_path / "ben", base, seed=9)
    assert await reasons_against(world, "ben", candidate) == []
    assert await reasons_against(world, "anna", candidate) == []  # goldens don't bind others
    text = text.replace("You are Ben}", "You are Ben}, words: [900, 999]")
    (folder / "house.yaml").write_text(text, encoding="utf-8")
    (reason,) = await reasons_against(world, "ben", candidate)
    assert "house::ben_greets (0 of 1" in reason
    assert "words: are " in reason
    (candidate / "adapter_model.safetensors").unlink()
    (reason,) = await reasons_against(world, "ben", candidate)
    assert "the engine can't hold it" in reason
