from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from textwrap import dedent

import pytest

from roles.dialogues.hosting import Hosted, hosted
from roles.dialogues.source import Source, read_file
from roles.world import World

WriteScripts = Callable[[str], list[Source]]


@pytest.fixture
def write_scripts(tmp_path: Path) -> WriteScripts:
    """Writes YAML to a file and reads it as scripts."""

    def write(text: str) -> list[Source]:
        file = tmp_path / "scripts" / "house.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(dedent(text), encoding="utf-8")
        return read_file(file)

    return write


@pytest.fixture
def world(world_folder: Path) -> World:
    """The small world."""
    return World.load(world_folder)


@pytest.fixture
async def host(world: World) -> AsyncIterator[Hosted]:
    """The small world on tiny random models, in this process."""
    async with hosted(world) as ready:
        yield ready
