from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol.conformance.scripted_server import SCENARIOS, play
from protocol.conformance.server_checks import CHECKS, Site
from tests.protocol.test_client import Hosted


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("conformance")
    host = Hosted(folder)
    yield Site(host.server.connection, "echo")
    host.stop()


@pytest.mark.parametrize("name", CHECKS)
def test_our_server_follows_the_spec(site: Site, name: str) -> None:
    CHECKS[name](site)


@pytest.mark.parametrize("name", SCENARIOS)
def test_our_client_follows_the_spec(name: str) -> None:
    play([sys.executable, "-m", "protocol.conformance.python_client"], name)
