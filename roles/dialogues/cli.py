"""The commands check, record, replay and compare; heavy imports wait inside the functions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

STARTER = "biblioteca_eterna"
_World = Annotated[str, typer.Option("--world", "-w", help="a world's folder, or a bundled one")]
_Json = Annotated[bool, typer.Option("--json", help="print one JSON document")]
_Expression = Annotated[str, typer.Option("-k", help="only scripts like 'pim and not lore'")]
_Scripts = Annotated[
    Path | None, typer.Argument(help="folder of scripts, or one file [default: the world's]")
]


def register(app: typer.Typer) -> None:
    """Add this folder's commands to the command line."""
    app.command()(check)
    app.command()(record)
    app.command()(replay)
    app.command()(compare)


def check(
    scripts: _Scripts = None,
    world: _World = STARTER,
    update: Annotated[bool, typer.Option(help="show and rewrite the exact words")] = False,
    junit: Annotated[Path | None, typer.Option(help="write a JUnit XML report there")] = None,
    expression: _Expression = "",
    seeds: Annotated[int | None, typer.Option(min=1, help="runs per script")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="runs at once")] = 16,
    connect: Annotated[bool, typer.Option(help="play on the server that runs already")] = False,
    connection: Annotated[Path | None, typer.Option(help="its connection file")] = None,
    schema: Annotated[bool, typer.Option(help="print the scripts' JSON Schema, and end")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="name what passed")] = False,
    as_json: _Json = False,
) -> None:
    """Play dialogue scripts and see that every expectation holds; exit 1 if one does not."""
    import asyncio
    import json

    from rich.console import Console

    from roles.dialogues.checking import CheckConfig, run_check
    from roles.dialogues.script import json_schema

    if schema:
        typer.echo(json.dumps(json_schema(), indent=1))
        return
    config = CheckConfig(
        world=world,
        scripts=scripts,
        expression=expression,
        seeds=seeds,
        concurrency=concurrency,
        connect=connect or connection is not None,
        connection=connection,
        update=update,
        junit=junit,
    )
    console = Console(quiet=as_json, soft_wrap=True)
    verdict = asyncio.run(run_check(config, console, verbose=verbose))
    if as_json:
        from roles.dialogues.report import as_json as told

        typer.echo(json.dumps(told(verdict), ensure_ascii=False))
    if not verdict.passed:
        raise typer.Exit(1)


def record(
    file: Annotated[Path, typer.Argument(help="the recording to write")],
    world: _World = STARTER,
    connection: Annotated[Path | None, typer.Option(help="connection file to write")] = None,
    state: Annotated[Path | None, typer.Option(help="folder of the running game")] = None,
) -> None:
    """Host a world as `serve` does, writing down everything that clients make it say."""
    import asyncio

    from protocol import logs
    from protocol.connection import default_path
    from roles.serve import ServeConfig, serve

    logs.configure()
    where = connection or default_path()
    asyncio.run(serve(ServeConfig(world=world, state=state, connection=where, record=file)))


def replay(
    file: Annotated[Path, typer.Argument(help="a recording")],
    world: _World = STARTER,
    adapter: Annotated[
        list[str] | None, typer.Option(help="NPC=FOLDER: speak with that adapter instead")
    ] = None,
    as_test: Annotated[Path | None, typer.Option(help="write a script there, play nothing")] = None,
    as_json: _Json = False,
) -> None:
    """Play a recording again, offline; exit 1 with the first line that differs, and why."""
    import asyncio
    import json

    from rich.console import Console

    from roles.dialogues import replaying
    from roles.world import World

    loaded = World.load(world)
    if as_test is not None:
        replaying.write_script(file, loaded, as_test)
        typer.echo(f"{as_test} written; biblioteca check {as_test} --world {world} plays it")
        return
    played = asyncio.run(replaying.run_replay(file, loaded, _adapters(adapter or [])))
    if as_json:
        typer.echo(json.dumps(replaying.as_json(played), ensure_ascii=False))
    else:
        replaying.print_replay(played, Console(soft_wrap=True))
    if not played.passed:
        raise typer.Exit(1)


def compare(
    a: Annotated[str, typer.Argument(help="a world, an adapter's folder, or a base's")],
    b: Annotated[str, typer.Argument(help="another of the same kind")],
    world: _World = STARTER,
    scripts: Annotated[Path | None, typer.Option(help="folder [default: the world's]")] = None,
    agent: Annotated[str | None, typer.Option(help="whose adapters they are")] = None,
    html: Annotated[Path | None, typer.Option(help="write a page that opens offline")] = None,
    expression: _Expression = "",
    as_json: _Json = False,
) -> None:
    """Play all scripts with A and with B: which lines, expectations and voices differ."""
    import asyncio
    import json
    from dataclasses import asdict

    from rich.console import Console

    from roles.dialogues.checking import scripts_of
    from roles.dialogues.compare import compare as play_both
    from roles.dialogues.compare import side
    from roles.dialogues.compare_page import page, print_report
    from roles.world import World

    loaded = World.load(world)
    one, two = side(a, loaded, agent), side(b, loaded, agent)
    report = asyncio.run(play_both(one, two, scripts_of(one.world, scripts, expression)))
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(page(report), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(asdict(report), ensure_ascii=False))
    else:
        print_report(report, Console(soft_wrap=True))


def _adapters(pairs: list[str]) -> dict[str, Path]:
    """NPC=FOLDER options as a table."""
    found = {}
    for pair in pairs:
        npc, equals, folder = pair.partition("=")
        if not equals or not Path(folder).is_dir():
            raise typer.BadParameter(f"--adapter {pair!r}: write NPC=FOLDER with a folder that is")
        found[npc] = Path(folder)
    return found
