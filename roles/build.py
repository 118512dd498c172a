"""`biblioteca build`: every model of a world out of its text, step by step, timed.

    corpus        runs/corpus/*.jsonl, out of the world's grammar
    book-base     a tokenizer and a small base from scratch, on invented books and talk
    npc-base      a LoRA adapter that teaches the pretrained base to talk as characters are prompted
    director      its QLoRA adapter, on the pretrained base in 4 bit
    npcs          one LoRA adapter per character
    judge         figures of all characters, and the judge that tells them apart
    books         one distilled student per book

A step whose result exists is left out unless `fresh`; a killed step goes on where it was.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from rich.console import Console
from rich.table import Table

from engine.bases import SMOLLM2
from npc_adapters.bases import train_base
from npc_adapters.errors import StoreError, UsageError
from npc_adapters.methods import ALL_LINEAR, MLP
from npc_adapters.pretrain import PretrainConfig
from npc_adapters.train import TrainConfig, cost_of, free_memory
from roles import training
from roles.corpus import write_corpus
from roles.world import DIRECTOR, World

WORK = Path("runs/build")
MINUTES = 80.0  # what a build is made for; with fewer, everything is trained for less
_BOOK_BASE_SHARE = 0.3  # of the time that all trainings may take; the others have row counts
# How prompts are laid out, how noted facts are used, what is declined: of no character in
# particular.
TALK_LAYER = TrainConfig(
    rank=16,
    targets=ALL_LINEAR,
    epochs=1,
    max_rows=2400,
    max_valid=32,
    max_tokens=640,
    batch_size=4,
    accumulate=2,
    lr=5e-4,
    dropout=0.0,
    replay=0.0,
)
# Attention, which finds the noted fact and copies it, stays the base's. Much is replayed: whoever
# learns beside general talk forgets less at full strength than another at three quarters.
NPC_ADAPTER = TrainConfig(
    rank=6,
    alpha=12,
    targets=MLP,
    first_layer=12,
    epochs=2,
    max_rows=280,
    max_valid=16,
    batch_size=4,
    lr=8e-4,
    dropout=0.0,
    replay=0.55,
)
# Small batches: it learns what to do in many small steps.
DIRECTOR_ADAPTER = TrainConfig(
    method="qlora",
    rank=8,
    alpha=16,
    targets=ALL_LINEAR,
    epochs=1,
    max_rows=2400,
    batch_size=2,
    lr=8e-4,
    dropout=0.0,
    max_tokens=1000,
)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: whether its result is there, and how it is made."""

    name: str
    is_done: Callable[[], bool]
    run: Callable[[], None]


def build_world(
    world: World,
    *,
    corpus: Path,
    minutes: float = MINUTES,
    fresh: bool = False,
    only: Sequence[str] = (),
    console: Console | None = None,
) -> dict[str, float]:
    """Build a world's models.

    Args:
        world: the world.
        corpus: where the rows go.
        minutes: about how long all trainings may take together.
        fresh: redo what is there already.
        only: names of the steps to run; none means all.
        console: where the story of the build goes.

    Returns:
        Seconds by step, of those that ran.

    Raises:
        UsageError: an unknown step.
    """
    console = console or Console(highlight=False)
    steps = _steps(world, corpus, minutes, console)
    if unknown := set(only) - {step.name for step in steps}:
        names = ", ".join(step.name for step in steps)
        raise UsageError(f"no step {sorted(unknown)[0]!r}; there are: {names}")
    seconds: dict[str, float] = {}
    for step in steps:
        if only and step.name not in only:
            continue
        if not fresh and not only and step.is_done():
            console.print(f"{step.name}: is there already")
            continue
        console.rule(step.name)
        started = time.perf_counter()
        step.run()
        seconds[step.name] = time.perf_counter() - started
    _print_times(seconds, console)
    return seconds


def _steps(world: World, corpus: Path, minutes: float, console: Console) -> list[Step]:
    models = world.root / "models"
    found = training.library(world)
    return [
        Step(
            name="corpus",
            is_done=lambda: (corpus / "base.train.jsonl").exists(),
            run=lambda: _write_corpus(world, corpus, console),
        ),
        Step(
            name="book-base",
            is_done=lambda: (models / "book-base" / "config.json").exists(),
            run=lambda: _train_book_base(world, corpus, minutes, console),
        ),
        Step(
            name="npc-base",
            is_done=lambda: (models / "npc-base" / "adapter_config.json").exists(),
            run=lambda: _train_talk(world, corpus, minutes, console),
        ),
        Step(
            name="director",
            is_done=lambda: found.live(DIRECTOR).is_dir(),
            run=lambda: _train_director(world, corpus, minutes, console),
        ),
        Step(
            name="npcs",
            is_done=lambda: all(found.live(npc).is_dir() for npc in world.npcs),
            run=lambda: _train_npcs(world, corpus, minutes, console),
        ),
        Step(
            name="judge",
            is_done=lambda: (models / "judge" / "judge.safetensors").exists(),
            run=lambda: _judge(world, corpus, console),
        ),
        Step(
            name="books",
            is_done=lambda: all(world.student(book) for book in world.books),
            run=lambda: _distil_books(world, minutes, console),
        ),
    ]


def _write_corpus(world: World, corpus: Path, console: Console) -> None:
    for file in write_corpus(world.root, corpus):
        console.print(f"{file.path}: {file.num_rows} rows, {file.num_characters / 1e6:.1f}M chars")


def _pretraining(minutes: float) -> PretrainConfig:
    """As many tokens as the minutes allow, on every core that this process may use."""
    threads = num_cores()
    return PretrainConfig(
        tokens=1_000_000_000,
        minutes=minutes,
        tokens_per_batch=2048 * threads,
        threads=threads,
        lr=1.5e-3,
        outer_lr=0.4,
        copying=0.2,
        held=1.0,
        report_every=100,
    )


def num_cores() -> int:
    """Processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _train_book_base(world: World, corpus: Path, minutes: float, console: Console) -> None:
    """Its checkpoints go once it is there, so that the next build begins anew."""
    work = WORK / world.root.name / "book-base.work"
    train_base(
        train=[corpus / "base.train.jsonl"],
        valid=[corpus / "base.valid.jsonl"],
        out=world.root / "models" / "book-base",
        work=work,
        config=_pretraining(minutes * _BOOK_BASE_SHARE),
        report=console.print,
    )
    shutil.rmtree(work)


def _train_talk(world: World, corpus: Path, minutes: float, console: Console) -> None:
    """Invented characters only: this world's are the adapters' to learn."""
    rows = _scaled(TALK_LAYER.max_rows, minutes, at_least=40)
    config = replace(TALK_LAYER, max_rows=rows)
    out = world.root / "models" / "npc-base"
    report = training.train_talk(SMOLLM2, config, out, corpus=corpus).report
    console.print(f"held-out perplexity {report['valid_perplexity']:.2f}")


def _train_director(world: World, corpus: Path, minutes: float, console: Console) -> None:
    rows = _scaled(DIRECTOR_ADAPTER.max_rows, minutes, at_least=40)
    training.train_director(world, replace(DIRECTOR_ADAPTER, max_rows=rows), corpus=corpus)
    _promote(world, DIRECTOR, "director", corpus, console)


def _train_npcs(world: World, corpus: Path, minutes: float, console: Console) -> None:
    """Train characters side by side, then promote them through their gates."""
    config = replace(NPC_ADAPTER, max_rows=_scaled(NPC_ADAPTER.max_rows, minutes, at_least=40))
    context = get_context("spawn")  # a forked torch deadlocks in its thread pool
    with ProcessPoolExecutor(_num_workers(world, config), mp_context=context) as pool:
        waiting = {
            npc: pool.submit(_train_npc, world.root, npc, config, corpus) for npc in world.npcs
        }
        for npc, future in waiting.items():
            console.print(f"{npc}: {future.result()}")
    for npc in world.npcs:
        _promote(world, npc, "npc", corpus, console)


def _num_workers(world: World, config: TrainConfig) -> int:
    """Trainings at once: one per core, as many as memory holds (twice the estimate was seen)."""
    need = 2 * cost_of(training.base_folder(world, "npc"), config).memory_bytes
    return max(1, min(num_cores(), len(world.npcs), free_memory() // need))


def _promote(world: World, name: str, tier: str, corpus: Path, console: Console) -> None:
    """Promote a candidate, even one that fails its gate if what is live is of another base."""
    try:
        training.promote(world, name, corpus=corpus, scripts=False)
    except StoreError as error:
        console.print(f"{error}")
        found = training.library(world)
        try:
            found.verify(found.live(name), training.base_folder(world, tier))
        except StoreError:  # nothing is live, or nothing that the new base can carry
            why = "the first one on this base"
            training.promote(world, name, corpus=corpus, scripts=False, force_reason=why)
            console.print(f"{name} was promoted nevertheless: it is {why}")


def _train_npc(root: Path, npc: str, config: TrainConfig, corpus: Path) -> str:
    """Train one character in a process of its own, on one core; returns what came of it."""
    import torch

    torch.set_num_threads(1)
    report = training.train_npc(World.load(root), npc, config, corpus=corpus, show=False).report
    perplexity, seconds = report["valid_perplexity"], report["seconds"]
    return f"held-out perplexity {perplexity:.2f} after {seconds:.0f} s"


def _scaled(full: int, minutes: float, *, at_least: int) -> int:
    """A length of training for so many minutes in all, where `full` is for `MINUTES`."""
    return max(at_least, round(full * min(1.0, minutes / MINUTES)))


def _judge(world: World, corpus: Path, console: Console) -> None:
    from roles.tables import print_figures

    result = training.evaluate(world, corpus=corpus)
    print_figures(result["characters"])
    console.print(f"judge: {result['judge_accuracy']:.0%} right on held-out talks")


def _distil_books(world: World, minutes: float, console: Console) -> None:
    from books.distill import distill, read_volumes
    from books.recipe import Recipe, Workshop

    volumes = read_volumes(world.root / "books")
    recipe = Recipe(base=world.root / "models" / "book-base")
    teacher, first, student = (
        replace(schedule, steps=_scaled(schedule.steps, minutes, at_least=20))
        for schedule in (recipe.teacher, recipe.first, recipe.student)
    )
    recipe = replace(recipe, teacher=teacher, first=first, student=student)
    workshop = Workshop(
        students=world.root / "models" / "students",
        work=WORK / world.root.name / "books",
        jobs=num_cores(),
        threads=num_cores(),
    )
    for book, report in distill(volumes, list(volumes), recipe, workshop).items():
        console.print(f"{book}: {report['num_params']:,} parameters")


def _print_times(seconds: dict[str, float], console: Console) -> None:
    table = Table("step", "minutes")
    for name, spent in seconds.items():
        table.add_row(name, f"{spent / 60:.1f}")
    table.add_row("together", f"{sum(seconds.values()) / 60:.1f}")
    console.print(table)
