"""Collects dialogue scripts with pytest: `pytest WORLD/dialogues` plays them as one batch.

A YAML file is a script file where a folder above it holds a world.toml and the folder itself, or
one above it, is called "dialogues". Each script is an item; the first one that runs plays all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from roles.dialogues.runner import Outcome
    from roles.dialogues.source import Source

FOLDER = "dialogues"
_OUTCOMES: pytest.StashKey[dict[tuple[Path, str], Outcome]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add this plugin's options."""
    group = parser.getgroup("dialogues")
    group.addoption("--dialogue-seeds", type=int, default=None, help="runs per dialogue script")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A script file, if this is one."""
    if file_path.suffix != ".yaml" or FOLDER not in file_path.parts[:-1]:
        return None
    if (root := world_of(file_path)) is None:
        return None
    collected: ScriptFile = ScriptFile.from_parent(parent, path=file_path)
    collected.world = root
    return collected


def world_of(file: Path) -> Path | None:
    """The nearest folder above a file that holds a world.toml."""
    return next((folder for folder in file.parents if (folder / "world.toml").is_file()), None)


class ScriptFile(pytest.File):
    """A YAML file of scripts."""

    world: Path

    def collect(self) -> Iterator[ScriptItem]:
        """Its scripts, once they are known to fit their world."""
        from roles.dialogues.agreement import check_agreement
        from roles.dialogues.source import read_file
        from roles.errors import RolesError
        from roles.world import World

        try:
            sources = read_file(self.path)
            check_agreement(sources, World.load(self.world))
        except RolesError as error:
            raise self.CollectError(str(error)) from None
        for source in sources:
            item: ScriptItem = ScriptItem.from_parent(self, name=source.script.name)
            item.source, item.world = source, self.world
            yield item


class ScriptFailure(Exception):
    """A script whose expectations don't hold."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.source.id)
        self.outcome = outcome


class ScriptItem(pytest.Item):
    """One script."""

    source: Source
    world: Path

    def runtest(self) -> None:
        """Fail if an expectation doesn't hold; the first item plays every selected script."""
        outcomes = self.config.stash.get(_OUTCOMES, None)
        if outcomes is None:
            outcomes = self.config.stash[_OUTCOMES] = _play(self.session)
        outcome = outcomes[self.world, self.source.id]
        if not outcome.passed:
            raise ScriptFailure(outcome)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Where, what, the words' diff, the prompt that led to it, what has changed since."""
        if not isinstance(excinfo.value, ScriptFailure):
            return super().repr_failure(excinfo, style)
        from roles.dialogues.report import explain, failures

        outcome = excinfo.value.outcome
        rate = f"{outcome.rate}, wanted {outcome.source.script.pass_rate:.0%}"
        found = [one for one in failures(outcome) if one[2].severity != "warning"]
        return "\n\n".join([rate, *(explain(outcome, *one) for one in found)])

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where the script stands."""
        return self.path, self.source.line("name") - 1, self.source.id


def _play(session: pytest.Session) -> dict[tuple[Path, str], Outcome]:
    """Play every selected script, those of one world as one batch."""
    import asyncio

    items = [item for item in session.items if isinstance(item, ScriptItem)]
    seeds = session.config.getoption("--dialogue-seeds")
    outcomes = {}
    for root in dict.fromkeys(item.world for item in items):
        sources = [item.source for item in items if item.world == root]
        for outcome in asyncio.run(_check(root, sources, seeds)):
            outcomes[root, outcome.source.id] = outcome
    return outcomes


async def _check(root: Path, sources: list[Source], seeds: int | None) -> tuple[Outcome, ...]:
    from roles.dialogues.goldens import forgive_rounding
    from roles.dialogues.hosting import hosted
    from roles.dialogues.runner import check
    from roles.world import World

    async with hosted(World.load(root)) as host:
        verdict = await check(sources, host.world, host.stages(), host.instruments, seeds=seeds)
    return forgive_rounding(verdict).outcomes
