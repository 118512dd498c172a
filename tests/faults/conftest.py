from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.gateway import Gateway
from tests.faults.house import House
from tests.tiny_models import tiny_adapter, tiny_base

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of these are slow: `make test-faults` runs them, `make test` their short forms."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with Gateway(tmp_path) as running:
        yield running


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny random models, as the small world names them; and what no server should take."""
    folder = tmp_path_factory.mktemp("models")
    base = tiny_base(folder / "npc-base", max_position_embeddings=2048)
    for seed, npc in enumerate(("anna", "ben")):
        tiny_adapter(folder / "adapters" / npc, base, seed=seed)
    other = tiny_base(folder / "other-base", hidden_size=32, head_dim=8)
    tiny_adapter(folder / "wrong-shape", other)
    return folder


@pytest.fixture(scope="module")
def house(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One served world for the tests of a file; each leaves it as it was."""
    with House(tmp_path_factory.mktemp("house"), models) as running:
        yield running
