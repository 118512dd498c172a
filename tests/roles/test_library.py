from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from protocol import administration as admin
from protocol.errors import Refusal
from roles.manager import Manager
from tests.roles.test_manager import ask, say
from tests.tiny_models import tiny_adapter


async def adapters(manager: Manager, **fields: Any) -> list[admin.AdapterInfo]:
    reply = (await ask(manager, "adapters", admin.AdaptersRequest(**fields)))[0]
    assert isinstance(reply, admin.AdaptersReply)
    return reply.adapters


async def test_each_adapter_is_listed_with_who_speaks_through_it(manager: Manager) -> None:
    listed = {info.name: info for info in await adapters(manager)}
    assert {name: info.agents for name, info in listed.items()} == {
        "anna": ["anna"],
        "ben": ["ben"],
    }


async def test_a_swap_takes_effect_with_the_next_line_and_back(manager: Manager) -> None:
    own = await say(manager, "Hello?", seed=1, ephemeral=True)
    await adapters(manager, op="swap", agent="anna", name="ben")
    swapped = await say(manager, "Hello?", seed=1, ephemeral=True)
    assert swapped.adapter is not None
    assert swapped.adapter.name == "ben"
    assert swapped.text != own.text
    await adapters(manager, op="swap", agent="anna", name="anna")
    assert (await say(manager, "Hello?", seed=1, ephemeral=True)).text == own.text


async def test_a_changed_folder_is_a_new_version_once_loaded(
    manager: Manager, world_folder: Path, tmp_path: Path
) -> None:
    models = tmp_path / "own"
    shutil.copytree(world_folder / "models", models)
    (world_folder / "models").unlink()
    models.rename(world_folder / "models")
    manager.house.engines["npc"].adapters.pop("ben")
    before = await adapters(manager, op="load", name="ben")
    folder = world_folder / "models" / "adapters" / "ben"
    shutil.rmtree(folder)
    tiny_adapter(folder, world_folder / "models" / "npc-base", seed=9)
    after = await adapters(manager, op="load", name="ben")
    assert after[0].digest != before[0].digest
    assert after[0].version == before[0].version + 1


async def test_a_failed_load_leaves_the_old_adapter_speaking(
    manager: Manager, tmp_path: Path
) -> None:
    with pytest.raises(Refusal) as caught:
        await adapters(manager, op="load", name="nobody")
    assert caught.value.code == "conflict"
    assert (await say(manager, "Hello?")).adapter is not None
    failed = [info for info in await adapters(manager) if info.error]
    assert [info.name for info in failed] == ["nobody"]
