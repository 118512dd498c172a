from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.backend import InlineBackend
from engine.config import EngineConfig
from protocol.errors import Code, Refusal
from protocol.messages import SayReply
from roles.manager import Manager
from roles.store import Store
from roles.world import World
from tests.cluster.openai_server import OpenAIServer
from tests.roles.test_manager import say


async def host(folder: Path) -> Manager:
    manager = Manager(World.load(folder), Store())
    manager.house.deadline_ms = 60_000  # no line falls back just because the machine is busy
    await manager.start()
    await manager.wait_ready()
    return manager


async def spoken(manager: Manager) -> list[tuple[str, str]]:
    replies: list[SayReply] = [
        await say(manager, "Hello?", agent=agent, seed=5, ephemeral=True)
        for agent in ("anna", "ben")
    ]
    return [(reply.text, reply.adapter.name if reply.adapter else "") for reply in replies]


def with_npcs_on(house: Path, folder: Path, told: str) -> Path:
    """The same world in another folder, its characters' tier elsewhere."""
    moved = folder / "moved"
    shutil.copytree(house, moved)
    file = moved / "world.toml"
    before, npc, after = file.read_text(encoding="utf-8").partition("[tiers.npc]")
    after = after.replace('backend = "inline"', told, 1)
    file.write_text(before + npc + after, encoding="utf-8")
    return moved


async def test_a_tier_on_a_server_says_the_same_and_a_full_one_is_busy(
    house: Path, tmp_path: Path
) -> None:
    here = await host(house)
    words = await spoken(here)
    await here.close()

    config = EngineConfig(
        base=str(house / "models" / "npc-base"), quantization="int8", threads=1, context_tokens=1024
    )
    server = OpenAIServer(InlineBackend(config))
    await server.backend.start()
    await server.backend.wait_ready()
    await server.backend.load_adapter("anna", house / "models" / "adapters" / "anna")
    url = await server.start()
    told = f'backend = "openai"\nserver = {{ url = "{url}", model = "base", dialect = "vllm" }}'
    there = await host(with_npcs_on(house, tmp_path, told))
    assert await spoken(there) == words
    assert [name for _, name in words] == ["anna", ""]
    server.full = True
    with pytest.raises(Refusal, match="too many requests") as refused:
        await say(there, "Hello?")
    assert refused.value.code == Code.BUSY
    assert refused.value.retry_ms
    assert there.house.lines_being_spoken == []
    server.full = False
    assert (await say(there, "And now?")).text
    await there.close()
    await server.close()
    await server.backend.close()
