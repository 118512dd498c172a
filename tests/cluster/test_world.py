from __future__ import annotations

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
from tests.roles.worlds_for_tests import write_world
from tests.tiny_models import tiny_adapter, tiny_base


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world with tiny models, every engine inline."""
    folder = write_world(tmp_path_factory.mktemp("house"))
    base = tiny_base(folder / "models" / "npc-base", max_position_embeddings=2048)
    tiny_base(folder / "models" / "director-base", max_position_embeddings=2048)
    tiny_adapter(folder / "models" / "adapters" / "anna", base)
    return folder


async def host(folder: Path) -> Manager:
    manager = Manager(World.load(folder), Store())
    await manager.start()
    await manager.wait_ready()
    return manager


async def spoken(manager: Manager) -> list[tuple[str, str]]:
    replies: list[SayReply] = [
        await say(manager, "Hello?", agent=agent, seed=5) for agent in ("anna", "ben")
    ]
    return [(reply.text, reply.adapter.name if reply.adapter else "") for reply in replies]


async def test_a_tier_on_a_server_says_the_same_and_a_full_one_is_busy(house: Path) -> None:
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
    file = house / "world.toml"
    before, npc, after = file.read_text(encoding="utf-8").partition("[tiers.npc]")
    after = after.replace('backend = "inline"', told, 1)
    file.write_text(before + npc + after, encoding="utf-8")

    there = await host(house)
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
