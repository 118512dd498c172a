"""Commands of the offline side: evaluate, adapters, build. Heavy imports wait inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from roles.training_cli import training_app

_World = Annotated[str, typer.Option(help="a world's folder, or the name of one that ships")]
_Json = Annotated[bool, typer.Option("--json", help="print one JSON document")]
_Corpus = Annotated[Path, typer.Option(help="folder of the generated rows")]
STARTER = "biblioteca_eterna"
CORPUS = Path("runs/corpus")

evaluate_app = typer.Typer(no_args_is_help=True, help="Judge what was trained.")
adapters_app = typer.Typer(no_args_is_help=True, help="The library of a world's adapters.")


def register(app: typer.Typer) -> None:
    """Add the offline side's commands to the command line."""
    evaluate_app.command("npc")(evaluate_npc)
    for command in (list_adapters, show, add, remove, promote, rollback, blend, merge, diff):
        adapters_app.command(command.__name__.removesuffix("_adapters"))(command)
    app.add_typer(training_app(), name="train")
    app.add_typer(evaluate_app, name="evaluate")
    app.add_typer(adapters_app, name="adapters")
    app.command()(build)
    app.command()(import_card)


def evaluate_npc(
    name: Annotated[str | None, typer.Argument(help="the character's id")] = None,
    all_of_them: Annotated[bool, typer.Option("--all", help="every character")] = False,
    world: _World = STARTER,
    corpus: _Corpus = CORPUS,
    rows: Annotated[int, typer.Option(help="held-out rows per character, at most")] = 40,
    threads: int = 2,
    as_json: _Json = False,
) -> None:
    """Judge adapters: perplexity against every other's, voice, lore, forgetting, variety."""
    import json

    from npc_adapters.errors import UsageError
    from roles import training
    from roles.world import World

    if (name is None) == (not all_of_them):
        raise UsageError("name one character, or say --all")
    loaded = World.load(world)
    result = training.evaluate(loaded, corpus=corpus, num_rows=rows, threads=threads)
    if name is not None:
        if name not in result["characters"]:
            raise UsageError(f"{name} has no adapter; there are: {', '.join(result['characters'])}")
        result["characters"] = {name: result["characters"][name]}
    if as_json:
        print(json.dumps(result, indent=2))
        return
    from roles.tables import print_figures

    print_figures(result["characters"])
    print(f"judge: {result['judge_accuracy']:.0%} right on held-out talks")
    print(f"swap matrix: {result['matrix_png']}")


def list_adapters(world: _World = STARTER, as_json: _Json = False) -> None:
    """List the live adapters."""
    import json

    from roles.tables import print_cards
    from roles.training import library
    from roles.world import World

    cards = library(World.load(world)).cards()
    if as_json:
        print(json.dumps([card.model_dump() for card in cards], indent=2))
    else:
        print_cards(cards)


def show(name: str, world: _World = STARTER) -> None:
    """Print an adapter's card and what happened to it, as JSON."""
    import json

    from npc_adapters.card import read_card
    from roles.training import library
    from roles.world import World

    found = library(World.load(world))
    card = read_card(found.live(name))
    print(json.dumps({"card": card.model_dump(), "log": found.log(name)}, indent=2))


def add(
    name: str, folder: Path, world: _World = STARTER, corpus: _Corpus = CORPUS, force: str = ""
) -> None:
    """Take an adapter folder into the library, through the gate (or --force REASON)."""
    _promote(world, name, folder, corpus, force)


def promote(
    name: str,
    world: _World = STARTER,
    corpus: _Corpus = CORPUS,
    force: Annotated[str, typer.Option(help="go live in spite of the gate; say why")] = "",
) -> None:
    """Make a candidate live, if it passes its character's gate."""
    _promote(world, name, None, corpus, force)


def _promote(world: str, name: str, folder: Path | None, corpus: Path, force: str) -> None:
    from roles import training
    from roles.world import World

    card = training.promote(
        World.load(world), name, folder=folder, corpus=corpus, force_reason=force
    )
    print(f"{name} is live: {card.digest[:12]}")


def rollback(name: str, world: _World = STARTER) -> None:
    """Bring back the adapter that was live before, in a running server too."""
    from roles import training
    from roles.world import World

    loaded = World.load(world)
    card = training.library(loaded).rollback(name)
    training.tell_server(name)
    print(f"{name} is back at {card.digest[:12]}")


def remove(name: str, world: _World = STARTER) -> None:
    """Take a live adapter out; it stays in the history."""
    from roles.training import library
    from roles.world import World

    library(World.load(world)).remove(name)
    print(f"{name} is out; `adapters rollback {name}` brings it back")


def blend(
    name: Annotated[str, typer.Argument(help="of the result")],
    parts: Annotated[list[str], typer.Argument(help="ADAPTER=WEIGHT, at least two")],
    how: Annotated[str, typer.Option(help="exact, linear, ties, dare_linear or svd")] = "exact",
    world: _World = STARTER,
) -> None:
    """Mix adapters into a candidate."""
    from npc_adapters.blend import blend_adapters
    from roles import training
    from roles.world import World

    loaded = World.load(world)
    found = training.library(loaded)
    folders = {part: found.live(part) for part in (text.partition("=")[0] for text in parts)}
    weights = [_weight(text) for text in parts]
    out = found.candidate(name)
    base = training.base_folder(loaded, "npc")
    blend_adapters(base, list(folders.values()), weights, out, name=name, how=how)
    print(f"{out}: promote it with `biblioteca adapters promote {name}`")


def merge(name: str, out: Path, world: _World = STARTER) -> None:
    """Write a copy of the base with one adapter merged in, for single-character games."""
    from npc_adapters.blend import merge_adapter
    from roles import training
    from roles.world import World

    loaded = World.load(world)
    merge_adapter(training.base_folder(loaded, "npc"), training.library(loaded).live(name), out)
    print(out)


def diff(first: str, second: str, world: _World = STARTER) -> None:
    """Compare two live adapters, module by module, as JSON."""
    import json

    from npc_adapters.blend import compare_adapters
    from roles.training import library
    from roles.world import World

    found = library(World.load(world))
    print(json.dumps(compare_adapters(found.live(first), found.live(second)), indent=2))


def build(
    world: Annotated[str, typer.Argument(help="a world's folder, or one that ships")] = STARTER,
    minutes: Annotated[float, typer.Option(help="about how long all trainings may take")] = 80,
    fresh: Annotated[bool, typer.Option(help="also redo what is there already")] = False,
    only: Annotated[str, typer.Option(help="steps, comma-separated")] = "",
    corpus: _Corpus = CORPUS,
) -> None:
    """Rebuild a world's models from its text: corpus, bases, adapters, students, judge."""
    from roles.build import build_world
    from roles.world import World

    steps = tuple(step for step in only.split(",") if step)
    build_world(World.load(world), corpus=corpus, minutes=minutes, fresh=fresh, only=steps)


def _weight(part: str) -> float:
    from npc_adapters.errors import UsageError

    _, _, number = part.partition("=")
    try:
        return float(number)
    except ValueError as error:
        raise UsageError(f"{part!r} is no ADAPTER=WEIGHT, such as pim=0.7") from error


def import_card(
    card: Annotated[Path, typer.Argument(help="Character Card V2 or V3, JSON or PNG")],
    world: _World = STARTER,
    place: Annotated[str, typer.Option(help="where it stands [default: the first place]")] = "",
) -> None:
    """Turn a character card into a character of a world."""
    from roles.character_card import read_card, write_character
    from roles.world import World

    loaded = World.load(world)
    where = place or next(iter(loaded.spec.places))
    for path in write_character(read_card(card), loaded.root, where):
        print(path)
