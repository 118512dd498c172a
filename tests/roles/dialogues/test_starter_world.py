"""The starter world's own scripts, on its own models; and what happens when something drifts."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from roles.dialogues.checking import scripts_of
from roles.dialogues.goldens import forgive_rounding
from roles.dialogues.hosting import Hosted, hosted
from roles.dialogues.report import explain, failures
from roles.dialogues.runner import Verdict, check
from roles.dialogues.selection import select
from roles.dialogues.source import Source
from roles.world import World

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(1800)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def starter() -> AsyncIterator[Hosted]:
    """The starter world with its trained models."""
    async with hosted(World.load()) as host:
        yield host


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    """All its scripts."""
    return scripts_of(World.load())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def right(starter: Hosted, sources: list[Source]) -> Verdict:
    """Every script, played together in the world as it is.

    The rate of a script marked `weak` decides nothing: one run shows whether it leaks.
    """
    return await played(starter, [_run_once(one) if one.script.weak else one for one in sources])


async def played(host: Hosted, sources: list[Source], world: World | None = None) -> Verdict:
    world = world or host.world
    verdict = await check(sources, world, host.stages(world), host.instruments)
    return forgive_rounding(verdict)


def told(verdict: Verdict) -> str:
    return "\n\n".join(
        explain(outcome, *finding)
        for outcome in verdict.outcomes
        if not outcome.passed
        for finding in failures(outcome)
        if finding[2].severity != "warning"
    )


def failed(verdict: Verdict) -> list[str]:
    return [outcome.source.id for outcome in verdict.outcomes if not outcome.passed]


async def test_every_script_holds(right: Verdict) -> None:
    assert right.passed, told(right)


async def test_the_same_words_come_again_alone_and_together(
    starter: Hosted, sources: list[Source], right: Verdict
) -> None:
    some = [_run_once(one) for one in select(sources, "is_ or director or asking")]
    alone = await check(some, starter.world, starter.stages(), starter.instruments, concurrency=1)
    together = {outcome.source.id: outcome.runs[0].digest for outcome in right.outcomes}
    for outcome in alone.outcomes:
        assert outcome.runs[0].digest == together[outcome.source.id], outcome.source.id


async def test_scripts_cover_everyone(sources: list[Source]) -> None:
    world = World.load()
    agents = set().union(*(source.script.agents for source in sources))
    assert set(world.agents) <= agents
    tags = set().union(*(source.script.tags for source in sources))
    assert {"recall", "scopes", "offers", "group", "injection", "fallback", "save"} <= tags
    assert len(sources) >= 60


# --- mutations: each must be caught by a script that names it ----------------------------


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The starter world's text, to be changed; its models stay where they are."""
    root = World.load().root
    folder = tmp_path / root.name
    shutil.copytree(root, folder, ignore=shutil.ignore_patterns("models", "*.jsonl"))
    (folder / "models").symlink_to(root / "models")
    return folder


async def caught(host: Hosted, right: Verdict, changed: World, words: str) -> Verdict:
    """The verdict on a changed world by scripts that hold in the right one."""
    outcomes = {outcome.source.id: outcome for outcome in right.outcomes}
    some = select([outcome.source for outcome in right.outcomes], words)
    assert all(outcomes[source.id].passed for source in some), told(right)
    return await played(host, some, changed)


def edit(file: Path, change: Callable[[str], str]) -> None:
    before = file.read_text(encoding="utf-8")
    after = change(before)
    assert after != before
    file.write_text(after, encoding="utf-8")


async def test_another_characters_adapter_is_caught(starter: Hosted, right: Verdict) -> None:
    engine, world = starter.manager.house.engines["npc"], starter.world
    own, other = world.npc_adapter("sable"), world.npc_adapter("pim")
    assert own is not None
    assert other is not None
    await engine.serve("sable", other)
    try:
        verdict = await caught(starter, right, world, "sable::sable_words")
    finally:
        await engine.serve("sable", own)
    assert failed(verdict) == ["sable::sable_words"]
    assert "adapter was " in told(verdict)


async def test_a_dropped_lore_fact_is_caught(starter: Hosted, right: Verdict, copy: Path) -> None:
    edit(copy / "lore" / "library.md", lambda text: _without_section(text, "## cat"))
    verdict = await caught(starter, right, World.load(copy), "everyone_may_know")
    assert failed(verdict) == ["lore::everyone_may_know"]
    assert "fact 'cat' was not shown to the model" in told(verdict)


async def test_a_changed_seed_is_caught(starter: Hosted, sources: list[Source]) -> None:
    """At a low temperature some seeds say the same words: which ones depends on the machine."""
    (source,) = select(sources, "velluta::velluta_words")
    others = [
        source.script.model_copy(update={"seed": source.script.seed + step})
        for step in range(1, 13)
    ]
    verdict = await played(starter, [dataclasses.replace(source, script=one) for one in others])
    assert set(failed(verdict)) == {"velluta::velluta_words"}
    assert "sampler seed was " in told(verdict)


async def test_a_loosened_action_schema_is_caught(
    starter: Hosted, right: Verdict, copy: Path
) -> None:
    loose = "arguments = { door = {} }"
    edit(copy / "world.toml", lambda text: text.replace('arguments = { door = "text" }', loose))
    verdict = await caught(starter, right, World.load(copy), "open_takes_words_only")
    assert failed(verdict) == ["actions::open_takes_words_only"]
    assert "expected the error 'bad_request'" in told(verdict)


async def test_an_edited_persona_is_caught(starter: Hosted, right: Verdict, copy: Path) -> None:
    edit(
        copy / "npcs" / "sable.toml",
        lambda text: text.replace("you trade every answer for something", "you are generous"),
    )
    verdict = await caught(starter, right, World.load(copy), "is_sable")
    assert failed(verdict) == ["sable::is_sable"]
    assert "'you trade every answer for something' was not shown" in told(verdict)


async def test_a_shortened_book_is_caught(starter: Hosted, right: Verdict, copy: Path) -> None:
    (copy / "books" / "tide_tables.facts.yaml").unlink()  # it refers to the whole book
    edit(copy / "books" / "tide_tables.md", lambda text: text[: text.rindex("\n# ")] + "\n")
    verdict = await caught(starter, right, World.load(copy), "reading_tide_tables")
    assert failed(verdict) == ["tide_tables::reading_tide_tables"]
    assert "it has pages 1 to" in told(verdict)


def _run_once(source: Source) -> Source:
    script = source.script.model_copy(update={"seeds": 1})
    return dataclasses.replace(source, script=script)


def _without_section(text: str, heading: str) -> str:
    before, _, rest = text.partition(f"{heading}\n")
    return f"{before}## {rest.partition('## ')[2]}"
