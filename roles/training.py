"""A world's models from its rows: who is trained on which base, and where it lands.

models/npc-base                           what characters share: an adapter on their base
models/book-base                          what books are distilled from
models/adapters/NAME                      live adapters: one per character, and the director's
models/judge                              tells the characters apart
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import BaseModelError
from engine.requests import SamplingParams
from npc_adapters.card import AdapterCard
from npc_adapters.data import split_rows
from npc_adapters.errors import TrainingError
from npc_adapters.store import AdapterLibrary
from roles.dialogues.gate import scripts_gate
from roles.leaning import towards_notes
from roles.offers import reply_grammar
from roles.rows import CORPUS, RowSet, corpus_rows, general_rows, has_rows, mix_rows, npc_rows
from roles.world import DIRECTOR, World

if TYPE_CHECKING:
    from npc_adapters.evaluate import Trial
    from npc_adapters.train import Outcome, TrainConfig

WORLD = "world"  # the adapter of all characters together
TALK = "talk"  # the adapter under them


def library(world: World) -> AdapterLibrary:
    """Where a world's adapters live."""
    return AdapterLibrary(world.root / "models" / "adapters")


def base_folder(world: World, tier: str) -> Path:
    """The local folder of a tier's base.

    Raises:
        TrainingError: it is not there, or only named by its hub id.
    """
    name = getattr(world.spec.tiers, tier).base
    try:
        folder = Path(world.base_path(name))
    except BaseModelError as error:
        raise TrainingError(str(error)) from error
    if not (folder / "config.json").is_file():
        raise TrainingError(
            f"the {tier} base {name!r} is no local folder; run `biblioteca build`, "
            "or download it and name its folder in world.toml"
        )
    return folder


def train_npc(
    world: World,
    npc: str,
    config: TrainConfig,
    *,
    corpus: Path = CORPUS,
    data: Sequence[Path] = (),
    parent: Path | None = None,
    resume: bool = False,
    show: bool = True,
) -> Outcome:
    """Train a character's adapter; it waits as a candidate until it is promoted."""
    from npc_adapters.train import train_adapter

    rows = npc_rows(world, npc, corpus=corpus, data=data)
    return train_adapter(
        name=npc,
        base=base_folder(world, "npc"),
        rows=mix_rows(rows.train, config.max_rows),
        valid=rows.valid,
        out=library(world).candidate(npc),
        config=config,
        replay=general_rows("train", corpus) if config.replay else (),
        parent=parent,
        resume=resume,
        show=show,
    )


def train_talk(
    base: str, config: TrainConfig, out: Path, *, corpus: Path = CORPUS, show: bool = True
) -> Outcome:
    """The layer under all characters: an adapter that talks as prompts ask, as nobody yet.

    Args:
        base: the base under it, by any name that a world may give it.
        out: the adapter's folder, which is a base itself: it is merged when it is loaded.
    """
    from engine.bases import find_folder
    from npc_adapters.bases import name_base
    from npc_adapters.train import train_adapter

    outcome = train_adapter(
        name=TALK,
        base=find_folder(base),
        rows=mix_rows(general_rows("train", corpus, limit=None), config.max_rows),
        valid=general_rows("valid", corpus),
        out=out,
        config=config,
        show=show,
    )
    name_base(out, base)
    return outcome


def train_world(
    world: World, config: TrainConfig, out: Path, *, corpus: Path = CORPUS, show: bool = True
) -> Outcome:
    """The layer between base and characters: one adapter of them all, merged into a new base.

    Args:
        out: folder of the new base; name it in world.toml, then train the characters on it.
    """
    from npc_adapters.blend import merge_adapter
    from npc_adapters.train import train_adapter

    each = [
        npc_rows(world, npc, corpus=corpus) for npc in world.npcs if has_rows(world, npc, corpus)
    ]
    rows = RowSet(
        train=[r for s in each for r in s.train], valid=[r for s in each for r in s.valid]
    )
    for part in (rows.train, rows.valid):
        random.Random(config.seed).shuffle(part)
    base = base_folder(world, "npc")
    outcome = train_adapter(
        name=WORLD,
        base=base,
        rows=rows.train,
        valid=rows.valid,
        out=library(world).candidate(WORLD),
        config=config,
        replay=general_rows("train", corpus) if config.replay else (),
        show=show,
    )
    merge_adapter(base, outcome.folder, out)
    return outcome


def train_director(
    world: World,
    config: TrainConfig,
    *,
    corpus: Path = CORPUS,
    resume: bool = False,
    show: bool = True,
) -> Outcome:
    """Train the director's adapter.

    Raises:
        TrainingError: the corpus has no director's rows.
    """
    from npc_adapters.train import train_adapter

    train = corpus_rows("director", "train", corpus)
    if not train:
        raise TrainingError(f"{corpus}/director.train.jsonl is missing; run `biblioteca build`")
    return train_adapter(
        name=DIRECTOR,
        base=base_folder(world, "director"),
        rows=train,
        valid=corpus_rows("director", "valid", corpus),
        out=library(world).candidate(DIRECTOR),
        config=config,
        resume=resume,
        show=show,
    )


def trials(world: World, npcs: Sequence[str], corpus: Path = CORPUS) -> dict[str, Trial]:
    """What characters are judged on; without a corpus, a tenth of their own rows."""
    from npc_adapters.evaluate import Trial

    found = {}
    for npc in npcs:
        rows = npc_rows(world, npc, corpus=corpus)
        train, valid = (rows.train, rows.valid) if rows.valid else split_rows(rows.train)
        found[npc] = Trial(held_out=valid, train=train)
    return found


def evaluate(
    world: World, *, corpus: Path = CORPUS, num_rows: int = 40, threads: int = 2
) -> dict[str, Any]:
    """Judge all characters' live adapters; keeps the judge, the report and the swap matrix.

    Returns:
        `characters`: figures by character; `matrix`; `judge_accuracy` on held-out talks;
        `matrix_png`: where the heat map lies.
    """
    from npc_adapters.evaluate import draw_matrix, evaluate_adapters

    found = library(world)
    adapters = {npc: found.live(npc) for npc in world.npcs if found.live(npc).is_dir()}
    if not adapters:
        raise TrainingError(f"{world.spec.title} has no adapter yet; run `biblioteca train npc`")
    figures, whole = evaluate_adapters(
        base_folder(world, "npc"),
        adapters,
        trials(world, list(adapters), corpus),
        general_rows("valid", corpus),
        sampling=sampling(world),
        held_to=reply_grammar(world.spec.emotions, ()),
        leaning=towards_notes,
        num_rows=num_rows,
        threads=threads,
    )
    folder = world.root / "models" / "judge"
    whole.pop("judge").save(folder)
    draw_matrix(whole["matrix"], folder / "swap_matrix.png")
    return {"characters": figures, **whole, "matrix_png": str(folder / "swap_matrix.png")}


def sampling(world: World) -> SamplingParams:
    """How the npc tier picks words, as players hear it."""
    table = world.spec.tiers.npc.sampling.model_dump(exclude_none=True)
    return SamplingParams(**{"max_tokens": 96, "temperature": 0.7, **table})


def promote(
    world: World,
    npc: str,
    *,
    folder: Path | None = None,
    corpus: Path = CORPUS,
    force_reason: str = "",
    scripts: bool = True,
) -> AdapterCard:
    """Make a candidate live through its gate, and tell a running server.

    Args:
        scripts: play the dialogue scripts it speaks in, too; not while a world is being built,
            when its other models are still missing.

    Raises:
        StoreError: damaged, unfit, or refused by the gate; the live one stays.
    """
    from roles.gate import gate

    checks = [gate(world, corpus)]
    if scripts:
        checks.append(scripts_gate(world))
    tier = "director" if npc == DIRECTOR else "npc"
    card = library(world).promote(
        npc, folder, base=base_folder(world, tier), checks=checks, force_reason=force_reason
    )
    tell_server(npc)
    return card


def tell_server(npc: str) -> bool:
    """Ask a running server, if there is one, to take a character's adapter anew.

    The line being spoken ends on the old one. Returns whether a server did.
    """
    import asyncio

    from protocol.administration import AdaptersRequest
    from protocol.async_client import AsyncClient
    from protocol.connection import default_path
    from protocol.errors import ProtocolError

    async def ask() -> None:
        async with AsyncClient(default_path()) as client:
            await client.request("adapters", AdaptersRequest(op="load", name=npc))

    if not default_path().exists():
        return False
    try:
        asyncio.run(asyncio.wait_for(ask(), timeout=10))
    except (ProtocolError, OSError, TimeoutError):
        return False  # a stale connection file: nobody is there to be told
    return True


def train_from_feedback(
    world: World,
    npc: str,
    path: Path,
    config: TrainConfig,
    way: str = "auto",
    *,
    corpus: Path = CORPUS,
    show: bool = True,
) -> Outcome:
    """Go on from a character's live adapter with the lines judged in play (`feedback.jsonl`).

    What is replayed is half the character's own rows, against drift, and half general ones.

    Raises:
        DataError: nothing usable in the file.
        StoreError: the character has no live adapter.
    """
    from npc_adapters.feedback import read_feedback, train_on_feedback

    found = library(world)
    found.verify(found.live(npc))
    has_own = has_rows(world, npc, corpus)
    own = npc_rows(world, npc, corpus=corpus).train if has_own else []
    return train_on_feedback(
        name=npc,
        base=base_folder(world, "npc"),
        live=found.live(npc),
        judged=read_feedback(path, npc),
        out=found.candidate(npc),
        config=config,
        way=way,
        replay=[*own, *general_rows("train", corpus, limit=len(own))],
        show=show,
    )
