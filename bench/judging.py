"""How good are a world's models? Hand-written questions and situations, none from the corpus.

    python bench/judging.py [WORLD] [--tier npc|director] [--threads 2] [--show]

Prints every wrong answer (with --show, every answer); the last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from engine.backend import InlineBackend
from engine.config import EngineConfig
from roles.judging import Trial, Verdict, director_trials, judge, npc_trials
from roles.world import World


def judged(world: World, tier: str, threads: int, quantization: str) -> list[Verdict]:
    """Every trial of a tier, run on its model."""
    table = getattr(world.spec.tiers, tier)
    trials: list[Trial] = npc_trials(world) if tier == "npc" else director_trials(world)
    if tier == "npc":
        adapters = {npc: path for npc in world.npcs if (path := world.npc_adapter(npc))}
    else:
        adapters = {"director": world.root / table.adapter}
    config = EngineConfig(
        base=str(world.root / table.base),
        quantization=quantization,  # type: ignore[arg-type]  # argparse checks the choices
        threads=threads,
        adapter_slots=max(len(adapters), 1),
        max_rank=64,
        nf4_rounded=table.nf4_rounded,
    )
    return asyncio.run(judge(InlineBackend(config), adapters, trials))


def main() -> None:
    """Judge, print what is wrong, and sum up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("world", nargs="?", default="biblioteca_eterna")
    parser.add_argument("--tier", choices=["npc", "director"], default="npc")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quantization", default="auto", choices=["auto", "none", "int8", "bf16"])
    parser.add_argument("--show", action="store_true", help="print right answers, too")
    options = parser.parse_args()
    world = World.load(options.world)
    verdicts = judged(world, options.tier, options.threads, options.quantization)
    for verdict in verdicts:
        if verdict.fault or options.show:
            print(f"{verdict.trial.name}\n    {verdict.answer!r}\n    {verdict.fault}")
    right = sum(not verdict.fault for verdict in verdicts)
    report = {"tier": options.tier, "trials": len(verdicts), "right": right / len(verdicts)}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
