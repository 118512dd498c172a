"""`biblioteca train npc|world|director`. Heavy imports wait inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_World = Annotated[str, typer.Option(help="a world's folder, or the name of one that ships")]
_Json = Annotated[bool, typer.Option("--json", help="print one JSON document")]
_Corpus = Annotated[Path, typer.Option(help="folder of the generated rows")]
_FirstLayer = Annotated[int, typer.Option(help="LoRA leaves the layers below it alone")]
STARTER = "biblioteca_eterna"
CORPUS = Path("runs/corpus")
DIRECTOR_TOKENS = 1000  # of its longest rows


def training_app() -> typer.Typer:
    """The group of training commands."""
    app = typer.Typer(no_args_is_help=True, help="Train bases and adapters.")
    app.command("npc")(train_npc)
    app.command("world")(train_world)
    app.command("director")(train_director)
    return app


def train_npc(
    name: Annotated[str, typer.Argument(help="the character's id")],
    world: _World = STARTER,
    method: Annotated[
        str, typer.Option(help="lora, qlora, dora, ia3, prompt, prefix, ptuning or full")
    ] = "lora",
    data: Annotated[
        list[Path] | None, typer.Option(help="JSON Lines instead of the character's own")
    ] = None,
    corpus: _Corpus = CORPUS,
    rank: int = 16,
    alpha: float = 32,
    targets: Annotated[str, typer.Option(help="projections, comma-separated")] = "q,k,v,o",
    first_layer: _FirstLayer = 0,
    dropout: float = 0.05,
    epochs: float = 3,
    lr: Annotated[float, typer.Option(help="peak learning rate; 0: the method's usual")] = 0.0,
    batch_size: int = 8,
    accumulate: int = 1,
    max_rows: Annotated[int, typer.Option(help="own rows used at most; 0: all")] = 0,
    replay: Annotated[float, typer.Option(help="general rows mixed in, as a share")] = 0.1,
    strength: Annotated[
        float, typer.Option(help="share of what a LoRA learned that is served: less forgets less")
    ] = 1.0,
    checkpointing: Annotated[bool, typer.Option(help="save memory, spend time")] = False,
    seed: int = 1,
    resume: Annotated[bool, typer.Option(help="go on from a killed run")] = False,
    parent: Annotated[
        Path | None,
        typer.Option(help="adapter to go on from, or the LoRA that a soft prompt is to lie on"),
    ] = None,
    promoted: Annotated[
        bool, typer.Option("--promote", help="make it live if it passes its gate")
    ] = False,
    from_feedback: Annotated[
        Path | None, typer.Option(help="lines marked in play: go on from the live adapter")
    ] = None,
    way: Annotated[str, typer.Option(help="with feedback: auto, dpo, kto or sft")] = "auto",
    dry_run: Annotated[bool, typer.Option(help="print parameters and memory, then stop")] = False,
    as_json: _Json = False,
) -> None:
    """Train a character's adapter from its dialogue; it waits as a candidate."""
    from npc_adapters.train import TrainConfig
    from roles import training
    from roles.world import World

    loaded = World.load(world)
    config = TrainConfig(
        method=method,
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        targets=_targets(targets),
        first_layer=first_layer,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        accumulate=accumulate,
        max_rows=max_rows,
        replay=replay,
        strength=strength,
        checkpointing=checkpointing,
        seed=seed,
    )
    if dry_run:
        _print_cost(training.base_folder(loaded, "npc"), config, as_json)
        return
    if from_feedback is not None:
        outcome = training.train_from_feedback(
            loaded, name, from_feedback, config, way, corpus=corpus, show=not as_json
        )
    else:
        outcome = training.train_npc(
            loaded,
            name,
            config,
            corpus=corpus,
            data=data or (),
            parent=parent,
            resume=resume,
            show=not as_json,
        )
    _print_outcome(outcome, as_json)
    if promoted:
        training.promote(loaded, name, corpus=corpus)


def train_world(
    out: Annotated[Path, typer.Argument(help="folder of the new base")],
    world: _World = STARTER,
    corpus: _Corpus = CORPUS,
    rank: int = 16,
    epochs: float = 1,
    lr: float = 0.0,
    max_rows: Annotated[int, typer.Option(help="rows used at most, of all together")] = 0,
    as_json: _Json = False,
) -> None:
    """Train one adapter on all characters and merge it: a base that knows the world.

    Name the new base under [tiers.npc] in world.toml, then train the characters on it.
    """
    from npc_adapters.train import TrainConfig
    from roles import training
    from roles.world import World

    config = TrainConfig(rank=rank, alpha=2 * rank, epochs=epochs, lr=lr, max_rows=max_rows)
    outcome = training.train_world(World.load(world), config, out, corpus=corpus, show=not as_json)
    _print_outcome(outcome, as_json)


def train_director(
    world: _World = STARTER,
    corpus: _Corpus = CORPUS,
    method: Annotated[str, typer.Option(help="as for npc")] = "qlora",
    rank: int = 16,
    targets: Annotated[str, typer.Option(help="projections, comma-separated")] = "q,k,v,o",
    first_layer: _FirstLayer = 0,
    dropout: float = 0.05,
    epochs: float = 2,
    lr: float = 0.0,
    batch_size: int = 8,
    max_rows: Annotated[int, typer.Option(help="rows used at most; 0: all")] = 0,
    resume: bool = False,
    promoted: Annotated[bool, typer.Option("--promote", help="make it live")] = False,
    dry_run: bool = False,
    as_json: _Json = False,
) -> None:
    """Train the director's adapter, over a base in 4 bit unless told otherwise."""
    from npc_adapters.train import TrainConfig
    from roles import training
    from roles.world import DIRECTOR, World

    loaded = World.load(world)
    config = TrainConfig(
        method=method,
        rank=rank,
        alpha=2 * rank,
        targets=_targets(targets),
        first_layer=first_layer,
        dropout=dropout,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        max_rows=max_rows,
        max_tokens=DIRECTOR_TOKENS,
    )
    if dry_run:
        _print_cost(training.base_folder(loaded, "director"), config, as_json)
        return
    outcome = training.train_director(
        loaded, config, corpus=corpus, resume=resume, show=not as_json
    )
    _print_outcome(outcome, as_json)
    if promoted:
        training.promote(loaded, DIRECTOR, corpus=corpus)


def _targets(text: str) -> tuple[str, ...]:
    """`q,k,v,o` as PEFT names them; full names are taken as they stand."""
    return tuple(t if "_" in t or t == "all-linear" else f"{t}_proj" for t in text.split(","))


def _print_cost(base: Path, config: object, as_json: bool) -> None:
    import json

    from npc_adapters.train import TrainConfig, cost_of

    assert isinstance(config, TrainConfig)
    cost = cost_of(base, config)
    if as_json:
        figures = {"trainable": cost.trainable, "total": cost.total, "share": cost.share}
        print(json.dumps({**figures, "memory_bytes": cost.memory_bytes}, indent=2))
    else:
        print(
            f"{config.method}: {cost.trainable:,} of {cost.total:,} parameters "
            f"({cost.share:.2%}) are trained; about {cost.memory_bytes / 2**20:.0f} MiB of memory"
        )


def _print_outcome(outcome: object, as_json: bool) -> None:
    import json

    from npc_adapters.train import Outcome

    assert isinstance(outcome, Outcome)
    figures = {key: value for key, value in outcome.report.items() if key != "history"}
    if as_json:
        print(json.dumps({"folder": str(outcome.folder), **figures}, indent=2))
    else:
        spent = f"{figures['seconds']:.0f} s on {figures['num_train_rows']} rows"
        if "valid_perplexity" in figures:  # preferences have none
            spent += (
                f", {figures['tokens_per_s']:.0f} tokens/s; "
                f"held-out perplexity {figures['valid_perplexity']:.2f}"
            )
        print(f"{outcome.folder}: {spent}")
