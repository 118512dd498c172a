from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.gateway import Gateway

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of these are slow: `make test-faults` runs them, `make test` their short forms."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with Gateway(tmp_path) as running:
        yield running
