"""The check command's work: read scripts, play them here or on a server, report, update."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from roles.dialogues import goldens, report
from roles.dialogues.agreement import check_agreement
from roles.dialogues.errors import DialogueError
from roles.dialogues.expectations import Instruments
from roles.dialogues.hosting import hosted
from roles.dialogues.instruments import read_instruments
from roles.dialogues.runner import CONCURRENCY, Verdict, check
from roles.dialogues.selection import select
from roles.dialogues.source import Source, find_scripts, read_scripts
from roles.dialogues.stage import OpenStage, connected
from roles.world import World

log = logging.getLogger("biblioteca.roles")
FOLDER = "dialogues"
# An engine's thread gives the interpreter's lock away in each call of torch, and has to wait for so
# long until the event loop hands it back; Python's own 5 ms cost a check a sixth of its time.
_SWITCH_S = 0.001


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckConfig:
    """What to check and how.

    Attributes:
        scripts: folder or file; None is the world's own folder.
        expression: only scripts that it selects.
        seeds: runs per script, instead of what each says.
        connection: a server's connection file, where `connect` is true.
        update: rewrite goldens.
    """

    world: str
    scripts: Path | None = None
    expression: str = ""
    seeds: int | None = None
    concurrency: int = CONCURRENCY
    connect: bool = False
    connection: Path | None = None
    update: bool = False
    junit: Path | None = None


def scripts_of(world: World, path: Path | None = None, expression: str = "") -> list[Source]:
    """A world's scripts, checked against it.

    Raises:
        ScriptError: with every mistake in them.
        DialogueError: none is selected.
    """
    sources = read_scripts(find_scripts(path or world.root / FOLDER))
    check_agreement(sources, world)
    if expression:
        sources = select(sources, expression)
    if not sources:
        raise DialogueError(f"-k {expression!r} selects no script")
    return sources


async def run_check(config: CheckConfig, console: Console, *, verbose: bool = False) -> Verdict:
    """Check, and tell how it went.

    Returns the verdict; after an update, of the scripts with their new words.
    """
    world = World.load(config.world)
    sources = scripts_of(world, config.scripts, config.expression)
    async with _stages(world, config) as (open_stage, instruments):
        verdict = await check(
            sources,
            world,
            open_stage,
            instruments,
            seeds=config.seeds,
            concurrency=config.concurrency,
        )
    verdict = _update(verdict, console) if config.update else goldens.forgive_rounding(verdict)
    report.print_verdict(verdict, console, verbose=verbose)
    if config.junit is not None:
        report.write_junit(verdict, config.junit)
    return verdict


@asynccontextmanager
async def _stages(
    world: World, config: CheckConfig
) -> AsyncIterator[tuple[OpenStage, Instruments]]:
    if config.connect:
        yield connected(config.connection), read_instruments(world)
        return
    # Most lines are the characters': their engine shares no interpreter's lock with the games.
    async with hosted(world, own_process=["npc"]) as host:
        for engine in host.manager.house.engines:
            for name, why in engine.refused.items():
                log.warning("the %s engine could not take %s: %s", engine.tier, name, why)
        # This process does nothing else; a server that plays a gate's scripts keeps its settings.
        sys.setswitchinterval(_SWITCH_S)
        gc.collect()
        gc.freeze()
        yield host.stages(), host.instruments


def _update(verdict: Verdict, console: Console) -> Verdict:
    found = list(goldens.rewritings(verdict))
    report.print_rewritings(found, console)
    goldens.write(found)
    goldens.note(verdict.outcomes)
    console.print(f"{len(found)} goldens rewritten", highlight=False)
    return goldens.without_goldens(verdict)  # they are what was said, from now on
