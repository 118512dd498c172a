from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from roles.manager import Manager
from roles.store import Store
from roles.world import World
from tests.roles.worlds_for_tests import write_world
from tests.tiny_models import tiny_adapter, tiny_base

MakeManager = Callable[..., Manager]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder of tiny random models, as the small world names them."""
    folder = tmp_path_factory.mktemp("models")
    base = tiny_base(folder / "npc-base", max_position_embeddings=2048)
    tiny_base(folder / "director-base", seed=1, max_position_embeddings=2048)
    for seed, npc in enumerate(("anna", "ben")):
        tiny_adapter(folder / "adapters" / npc, base, seed=seed)
    return folder


@pytest.fixture
def world_folder(tmp_path: Path, models: Path) -> Path:
    """The small world with models."""
    folder = write_world(tmp_path / "house")
    (folder / "models").symlink_to(models)
    return folder


@pytest.fixture
async def manager(world_folder: Path) -> AsyncIterator[Manager]:
    """A manager of the small world, its engines ready."""
    made = Manager(World.load(world_folder), Store())
    made.house.deadline_ms = 60_000  # no line falls back just because the machine is busy
    await made.start()
    await made.wait_ready()
    yield made
    await made.close()
