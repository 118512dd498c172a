"""The gate: figures that an adapter must reach, as `[gate]` in world.toml sets them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from npc_adapters.evaluate import (
    GENERAL,
    judge_replies,
    perplexities,
    questions_of,
    swap_matrix,
)
from npc_adapters.judge import CharacterJudge
from npc_adapters.replies import write_replies
from npc_adapters.store import Check
from roles.leaning import towards_notes
from roles.offers import reply_grammar
from roles.rows import CORPUS, general_rows
from roles.schema import GateTable
from roles.training import base_folder, sampling, trials
from roles.world import DIRECTOR, World

_ROWS = 24  # held-out rows that a gate can afford


def gate(world: World, corpus: Path = CORPUS) -> Check:
    """A check for `promote`: (agent, candidate's folder) to the figures that fall short."""

    def check(agent: str, folder: Path) -> list[str]:
        if agent == DIRECTOR:
            figures = director_figures(world, folder)
        else:
            figures = candidate_figures(world, agent, folder, corpus)
        return shortfalls(figures, world.spec.gate)

    return check


def shortfalls(figures: Mapping[str, float], limits: GateTable) -> list[str]:
    """The figures that miss their limit; what was not measured can't."""
    found = []
    for key, limit in limits:
        side, _, name = key.partition("_")
        if name not in figures:
            continue
        value, most = figures[name], side == "max"
        if value > limit if most else value < limit:
            word = "at most" if most else "at least"
            found.append(f"{name} is {value:.3f}, wanted {word} {limit:g}")
    return found


def candidate_figures(
    world: World, npc: str, folder: Path, corpus: Path = CORPUS
) -> dict[str, float]:
    """Figures of one character's adapter folder, on few rows.

    Returns:
        `perplexity_ratio` (held-out, over the base's), `forgetting`, `broken`, `distinct_2`;
        `lore_agreement` and `recognised` where rows name facts and the world has a judge.
    """
    base = base_folder(world, "npc")
    rows = list(trials(world, [npc], corpus)[npc].held_out)[:_ROWS]
    general = general_rows("valid", corpus)[:_ROWS]
    with_general = {npc: rows, **({GENERAL: general} if general else {})}
    figures = perplexities(swap_matrix(base, {npc: folder}, with_general), npc)
    figures["perplexity_ratio"] = figures["perplexity"] / figures["base_perplexity"]
    replies = write_replies(
        base,
        {npc: folder},
        questions_of(rows, npc),
        sampling=sampling(world),
        held_to=reply_grammar(world.spec.emotions, ()),
        leaning=towards_notes,
    )
    figures |= judge_replies(npc, rows, replies, _judge(world, npc))
    if "lore" in figures:
        figures["lore_agreement"] = figures["lore"]
    return figures


def _judge(world: World, npc: str) -> CharacterJudge | None:
    """The world's judge, if it has one that knows this character."""
    folder = world.root / "models" / "judge"
    judge = CharacterJudge.load(folder) if any(folder.glob("*.safetensors")) else None
    return judge if judge and npc in judge.agents else None


def director_figures(world: World, folder: Path) -> dict[str, float]:
    """`sensible`: the share of `judging/director.yaml` that an adapter answers as accepted."""
    if not (world.root / "judging" / "director.yaml").is_file():
        return {}
    from engine.backend import InlineBackend
    from engine.config import EngineConfig
    from roles.judging import director_trials, judge

    tier = world.spec.tiers.director
    config = EngineConfig(
        base=str(base_folder(world, "director")),
        nf4_rounded=tier.nf4_rounded,
        threads=tier.threads,
        max_rank=64,
    )
    trials = director_trials(world)
    verdicts = asyncio.run(judge(InlineBackend(config), {DIRECTOR: folder}, trials))
    return {"sensible": sum(not verdict.fault for verdict in verdicts) / len(verdicts)}
