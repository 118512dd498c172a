from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from protocol import administration as admin
from protocol import play
from protocol.errors import Refusal
from roles.manager import Manager
from tests.roles.test_manager import ask, say
from tests.roles.test_saves import hosted
from tests.tiny_models import tiny_adapter


async def adapters(manager: Manager, **fields: Any) -> list[admin.AdapterInfo]:
    reply = (await ask(manager, "adapters", admin.AdaptersRequest(**fields)))[0]
    assert isinstance(reply, admin.AdaptersReply)
    return reply.adapters


def own_models(world_folder: Path, tmp_path: Path) -> None:
    """Give the world models of its own instead of a link to those of all tests."""
    models = tmp_path / "own"
    shutil.copytree(world_folder / "models", models)
    (world_folder / "models").unlink()
    models.rename(world_folder / "models")


async def test_each_adapter_is_listed_with_who_speaks_through_it(manager: Manager) -> None:
    listed = {info.name: info for info in await adapters(manager)}
    assert {name: info.agents for name, info in listed.items()} == {
        "anna": ["anna"],
        "ben": ["ben"],
    }


async def test_an_adapter_that_only_lies_on_disk_is_listed_and_can_be_loaded(
    manager: Manager, world_folder: Path, tmp_path: Path
) -> None:
    own_models(world_folder, tmp_path)
    folder = world_folder / "models" / "adapters"
    tiny_adapter(folder / "spare", world_folder / "models" / "npc-base", seed=9)
    (folder / "spare" / "report.json").write_text('{"perplexity": 3.5}')
    (folder / "torn").mkdir()
    (folder / "torn" / "adapter_config.json").write_text("[")
    listed = {info.name: info for info in await adapters(manager)}
    spare = listed["spare"]
    assert (spare.resident, spare.agents, spare.metrics) == (False, [], {"perplexity": 3.5})
    assert "adapter_config.json" in listed["torn"].error
    (loaded,) = await adapters(manager, op="load", name="spare")
    assert (spare.rank, spare.tier) == (loaded.rank, loaded.tier)
    assert spare.size_bytes > 0
    await adapters(manager, op="unload", name="spare")
    assert "spare" in {info.name for info in await adapters(manager)}


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
    own_models(world_folder, tmp_path)
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


async def test_a_link_out_of_the_adapters_is_refused(
    manager: Manager, world_folder: Path, tmp_path: Path
) -> None:
    own_models(world_folder, tmp_path)
    folder = world_folder / "models" / "adapters" / "ben"
    folder.rename(tmp_path / "outside")
    folder.symlink_to(tmp_path / "outside")
    manager.house.engines["npc"].adapters.pop("ben")
    for op in ("load", "swap"):
        with pytest.raises(Refusal, match="leads out of") as caught:
            await adapters(manager, op=op, name="ben", agent="anna")
        assert caught.value.code == "conflict"


async def test_many_clients_swap_one_adapter_at_once(manager: Manager) -> None:
    own = (await say(manager, "Hello?", seed=1, ephemeral=True)).text
    swaps = [
        adapters(manager, op="swap", agent="anna", name=("ben", "anna")[number % 2])
        for number in range(64)
    ]
    said = [say(manager, "Hello?", seed=1, ephemeral=True, agent="ben") for _ in range(2)]
    await asyncio.gather(*swaps, *said)
    await adapters(manager, op="swap", agent="anna", name="anna")
    assert (await say(manager, "Hello?", seed=1, ephemeral=True)).text == own
    assert [info.running for info in await adapters(manager)] == [0, 0]


@pytest.fixture
async def kept(world_folder: Path, tmp_path: Path) -> AsyncIterator[Manager]:
    """A manager whose game is kept in tmp_path/state."""
    made = await hosted(world_folder, tmp_path / "state")
    yield made
    await made.close()


async def test_a_blend_speaks_lists_its_shares_and_can_be_swapped_in(kept: Manager) -> None:
    own = await say(kept, "Hello?", seed=1, ephemeral=True)
    (blend,) = await adapters(kept, op="blend", name="mix", weights={"anna": 0.5, "ben": 0.5})
    assert (blend.name, blend.metrics["anna"], blend.metrics["ben"]) == ("mix", 0.5, 0.5)
    heard = await say(kept, "Hello?", seed=1, ephemeral=True, adapter="mix")
    assert heard.text != own.text
    await adapters(kept, op="swap", agent="anna", name="mix")
    assert (await say(kept, "Hello?", seed=1, ephemeral=True)).text == heard.text
    (again,) = await adapters(kept, op="blend", name="mix", weights={"anna": 1.0})
    assert again.digest != blend.digest
    assert (await say(kept, "Hello?", seed=1, ephemeral=True)).text == own.text


async def test_a_blend_of_more_ranks_than_a_slot_holds_is_rounded_to_them(kept: Manager) -> None:
    engine = kept.house.engines["npc"]
    most = engine.table.max_rank
    shares = {"anna": 0.7, "ben": 0.3}
    engine.table = engine.table.model_copy(update={"max_rank": 5})
    (blend,) = await adapters(kept, op="blend", name="mix", weights=shares)
    assert blend.rank == 5
    assert 5 < blend.metrics["rank_of_parts"] <= most


async def test_a_blend_that_cannot_be_made_leaves_everything_as_it_was(kept: Manager) -> None:
    (blend,) = await adapters(kept, op="blend", name="mix", weights={"anna": 1.0})
    for weights in ({"nobody": 1.0}, {}, {"anna": 0.0}, {"mix": 0.5, "nobody": 0.5}):
        with pytest.raises(Refusal, match="weights"):
            await adapters(kept, op="blend", name="mix", weights=weights)
    with pytest.raises(Refusal, match="agent's own"):
        await adapters(kept, op="blend", name="ben", weights={"anna": 1.0})
    assert kept.house.blends == {"mix": {"anna": 1.0}}
    listed = {info.name: info.digest for info in await adapters(kept)}
    assert listed["mix"] == blend.digest


async def test_an_unloaded_blend_is_forgotten_unless_somebody_speaks_through_it(
    kept: Manager,
) -> None:
    for name in ("tried", "worn"):
        await adapters(kept, op="blend", name=name, weights={"anna": 0.5, "ben": 0.5})
    await adapters(kept, op="swap", agent="anna", name="worn")
    for name in ("tried", "worn"):
        await adapters(kept, op="unload", name=name)
    assert list(kept.house.blends) == ["worn"]
    assert not (await say(kept, "Hello?")).fallback


async def test_a_blend_of_blends_is_one_of_their_parts(kept: Manager) -> None:
    await adapters(kept, op="blend", name="mix", weights={"anna": 0.5, "ben": 0.5})
    await adapters(kept, op="blend", name="most", weights={"mix": 0.5, "anna": 0.5})
    assert kept.house.blends["most"] == {"anna": 0.75, "ben": 0.25}


async def test_a_blend_is_in_the_save_and_speaks_in_another_server(
    kept: Manager, world_folder: Path, tmp_path: Path
) -> None:
    await adapters(kept, op="blend", name="mix", weights={"anna": 0.5, "ben": 0.5})
    await adapters(kept, op="swap", agent="anna", name="mix")
    await ask(kept, "save", play.SaveRequest(slot="one"))
    first = await say(kept, "Hello?")
    shutil.copytree(tmp_path / "state" / "saves", tmp_path / "elsewhere" / "saves")
    other = await hosted(world_folder, tmp_path / "elsewhere")
    try:
        await ask(other, "restore", play.RestoreRequest(slot="one"))
        second = await say(other, "Hello?")
    finally:
        await other.close()
    assert second.adapter is not None
    assert (second.text, second.adapter.name) == (first.text, "mix")


async def test_a_swapped_in_adapter_that_is_gone_leaves_the_character_its_own(
    manager: Manager,
) -> None:
    manager.house.play.cast["anna"].part.adapter = "gone"
    reply = await say(manager, "Hello?")
    assert reply.adapter is not None
    assert reply.adapter.name == "anna"
    routing = manager.house.transcript.find(reply.line, None).routing
    assert "adapter gone can't be had; anna's own instead" in routing
