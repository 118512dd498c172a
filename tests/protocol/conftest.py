from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from protocol.server import Server, ServerConfig
from tests.protocol.fake_service import FakeService


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest_asyncio.fixture
async def server(service: FakeService, tmp_path: Path) -> AsyncIterator[Server]:
    running = Server(service, ServerConfig(world="A test", connection=tmp_path / "connection.json"))
    await running.start()
    yield running
    await running.close()
