from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.cluster.postgres import Postgres, postgres
from tests.roles.worlds_for_tests import write_world
from tests.tiny_models import tiny_adapter, tiny_base


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_adapter(tmp_path_factory.mktemp("adapters") / "voice", base, seed=3)


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world with tiny models, every engine inline."""
    folder = write_world(tmp_path_factory.mktemp("house"))
    base = tiny_base(folder / "models" / "npc-base", max_position_embeddings=2048)
    tiny_base(folder / "models" / "director-base", max_position_embeddings=2048)
    tiny_adapter(folder / "models" / "adapters" / "anna", base)
    return folder


@pytest.fixture(scope="session")
def database() -> Iterator[Postgres]:
    with (
        TemporaryDirectory(prefix="biblioteca-postgres-") as folder,
        postgres(Path(folder)) as made,
    ):
        yield made
