"""Commands of this folder; heavy imports wait inside the functions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from protocol.connection import Address
    from protocol.messages import Body
    from roles.saves import Saves

_World = Annotated[str, typer.Argument(help="a world's folder, or the name of one that ships")]
_Json = Annotated[bool, typer.Option("--json", help="print one JSON document")]
_Connection = Annotated[
    Path | None, typer.Option(help="the server's connection file [default: the usual place]")
]
_State = Annotated[Path | None, typer.Option(help="folder of the running game and its saves")]
_OfWorld = Annotated[str, typer.Option("--world", help="whose saves")]
_Store = Annotated[
    str,
    typer.Option(
        envvar="BIBLIOTECA_STORE", help="URL of a PostgreSQL database that gateways share"
    ),
]
_Game = Annotated[str, typer.Option(help="its name there [default: the world's folder]")]
STARTER = "biblioteca_eterna"


def register(app: typer.Typer) -> None:
    """Add this folder's commands to the command line."""
    app.command()(serve)
    app.command()(play)
    app.command()(agents)
    app.command()(inspect)
    app.command()(validate)
    app.command()(new)
    app.command(name="reload")(reload_world)
    saves = typer.Typer(help="List and read save slots.", no_args_is_help=True)
    saves.command(name="list")(list_saves)
    saves.command(name="show")(show_save)
    saves.command(name="get")(get_save)
    saves.command(name="put")(put_save)
    app.add_typer(saves, name="saves")


def serve(
    world: _World = STARTER,
    connection: _Connection = None,
    state: _State = None,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="work; control and telemetry take the next two; 0: any free")
    ] = 0,
    keys: Annotated[Path | None, typer.Option(help="folder of the server's keys")] = None,
    log_format: Annotated[
        Literal["text", "json"], typer.Option(help="json: one JSON object per line")
    ] = "text",
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        typer.Option(help="debug: also one line per request"),
    ] = "info",
    store: _Store = "",
    game: _Game = "",
    other: Annotated[
        list[str] | None,
        typer.Option(help="host:port of a gateway that serves when this one can't; repeatable"),
    ] = None,
) -> None:
    """Host a world and write a connection file for its clients; SIGTERM ends it."""
    import asyncio

    from protocol import logs
    from protocol.connection import default_path
    from roles.serve import ServeConfig
    from roles.serve import serve as serve_world

    logs.configure(log_format, log_level)
    config = ServeConfig(
        world=world,
        state=state,
        connection=connection or default_path(),
        host=host,
        ports=(port, port + 1, port + 2) if port else (0, 0, 0),
        keys=keys,
        store=store,
        game=game,
        others=tuple(map(_address, other or [])),
    )
    asyncio.run(serve_world(config))


def play(
    world: _World = STARTER,
    script: Annotated[Path | None, typer.Option(help="steps to play first (TOML)")] = None,
    seed: Annotated[int | None, typer.Option(help="of every line; same seed, same words")] = None,
    connect: Annotated[bool, typer.Option(help="use the server that runs already")] = False,
    demo: Annotated[bool, typer.Option(help="play the world's demo.toml first")] = False,
    turn: Annotated[
        int, typer.Option("--round", min=1, help="of the demo: demo.toml, demo_2.toml and so on")
    ] = 1,
    state: _State = None,
) -> None:
    """Play a small text game against a server it starts itself."""
    import asyncio

    from rich.console import Console

    from roles.play import PlayConfig
    from roles.play import play as play_world
    from roles.script import ROUND_S, demo_of
    from roles.world import find_world

    if demo:
        script = demo_of(find_world(world), turn)
    config = PlayConfig(
        world=world,
        script=script,
        connect=connect,
        seed=seed,
        state=state,
        begin_s=(turn - 1) * ROUND_S,
    )
    asyncio.run(play_world(config, Console(highlight=False)))


def agents(connection: _Connection = None, as_json: _Json = False) -> None:
    """List who is hosted, and how each fares."""
    from rich.console import Console

    from protocol.administration import AgentsReply, AgentsRequest
    from roles.screen import Screen

    reply = _request(connection, "agents", AgentsRequest())
    assert isinstance(reply, AgentsReply)
    if as_json:
        print(reply.model_dump_json(indent=2))
        return
    Screen(Console(), {info.agent: info for info in reply.agents}).listing()


def inspect(
    agent: Annotated[str, typer.Argument(help="an agent, for its last line, or a line's id")],
    connection: _Connection = None,
    as_json: _Json = False,
) -> None:
    """Show what a model was shown for a line, and why."""
    import re

    from rich.console import Console

    from protocol.administration import InspectReply, InspectRequest
    from roles.screen import show_inspection

    line = agent if re.fullmatch(r"l\d+", agent) else None
    body = InspectRequest(line=line, agent=None if line else agent)
    reply = _request(connection, "inspect", body)
    assert isinstance(reply, InspectReply)
    if as_json:
        print(reply.model_dump_json(indent=2))
        return
    show_inspection(reply, Console(highlight=False))


def validate(world: _World = STARTER, as_json: _Json = False) -> None:
    """Check a world's files; every mistake is told with file, key and remedy."""
    import json
    import sys
    from dataclasses import asdict

    from roles.errors import WorldError
    from roles.world import World

    warnings = []
    try:
        loaded = World.load(world)
        problems, warnings = [], loaded.model_problems()
    except WorldError as error:
        problems = list(error.problems)
    if as_json:
        document = {
            "ok": not problems,
            "problems": [asdict(problem) for problem in problems],
            "warnings": [asdict(problem) for problem in warnings],
        }
        print(json.dumps(document, indent=2))
    else:
        for problem in problems:
            print(f"error: {problem}")
        for problem in warnings:
            print(f"warning: {problem}")
        if not problems:
            people, books, facts = len(loaded.npcs), len(loaded.books), len(loaded.facts)
            print(f"{loaded.spec.title}: {people} characters, {books} books, {facts} facts: ok")
    sys.exit(2 if problems else 0)


def new(folder: Annotated[Path, typer.Argument(help="a folder that isn't there yet")]) -> None:
    """Start a world: a few commented files to change."""
    from roles.scaffold import scaffold

    for path in scaffold(folder):
        print(path)
    print(f"next: biblioteca validate {folder} && biblioteca play {folder}")


def reload_world(connection: _Connection = None, as_json: _Json = False) -> None:
    """Have a running server read its world's files again; a broken edit changes nothing."""
    from protocol.administration import ReloadReply, ReloadRequest

    reply = _request(connection, "reload", ReloadRequest())
    assert isinstance(reply, ReloadReply)
    if as_json:
        print(reply.model_dump_json(indent=2))
        return
    for change in reply.changes:
        print(f"{change.change}: {change.file} {change.about}".rstrip())
    if not reply.changes:
        print("nothing has changed")


def list_saves(
    world: _OfWorld = STARTER,
    state: _State = None,
    store: _Store = "",
    game: _Game = "",
    as_json: _Json = False,
) -> None:
    """List the save slots."""
    import json

    kept = _saves(world, state, store, game)
    infos = kept.all()
    if as_json:
        print(json.dumps([info.model_dump() for info in infos], indent=2))
        return
    for info in infos:
        print(f"{info.slot}  {info.saved_at}  {info.size_bytes:,} bytes  {info.note}".rstrip())
    if not infos:
        print(f"no saves in {kept.folder}")


def show_save(
    slot: Annotated[str, typer.Argument(help="the slot")],
    world: _OfWorld = STARTER,
    state: _State = None,
    store: _Store = "",
    game: _Game = "",
) -> None:
    """Read a slot as JSON: conversations, memories, timeline, settings."""
    import json

    found = _saves(world, state, store, game).export(slot)
    print(json.dumps(found, indent=2, ensure_ascii=False))


def get_save(
    slot: Annotated[str, typer.Argument(help="the slot")],
    file: Annotated[Path, typer.Argument(help="where to write it")],
    world: _OfWorld = STARTER,
    state: _State = None,
    store: _Store = "",
    game: _Game = "",
) -> None:
    """Write a slot's file, for another machine or another store."""
    import shutil

    kept = _saves(world, state, store, game)
    kept.about(slot)  # says whether there is one
    shutil.copyfile(kept.file(slot), file)
    print(file)


def put_save(
    slot: Annotated[str, typer.Argument(help="the slot")],
    file: Annotated[Path, typer.Argument(help="a save's file")],
    world: _OfWorld = STARTER,
    state: _State = None,
    store: _Store = "",
    game: _Game = "",
) -> None:
    """Make a save's file from elsewhere a slot of this game."""
    info = _saves(world, state, store, game).put(slot, file)
    print(f"{info.slot}  {info.saved_at}  {info.size_bytes:,} bytes  {info.note}".rstrip())


def _saves(world: str, state: Path | None, store: str, game: str) -> Saves:
    from roles.serve import open_store, state_folder
    from roles.shared import saves_of
    from roles.world import World

    loaded = World.load(world)
    folder = state or state_folder(loaded)
    if not store:
        from roles.saves import Saves

        return Saves(folder / "saves")
    return saves_of(open_store(folder, store, game or loaded.root.name))


def _address(text: str) -> Address:
    """A gateway's endpoints from `host:port`: work, and the next two ports."""
    from protocol.connection import Address

    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_534:
        raise typer.BadParameter(f"{text!r} is not host:port", param_hint="--other")
    work, control, telemetry = (f"tcp://{host}:{int(port) + n}" for n in range(3))
    return Address(work=work, control=control, telemetry=telemetry)


def _request(connection: Path | None, kind: str, body: Body) -> Body:
    """Ask a running server one thing."""
    import asyncio

    from protocol.async_client import AsyncClient

    async def ask() -> Body:
        async with AsyncClient(connection) as client:
            reply: Body = await client.request(kind, body)
            return reply

    return asyncio.run(ask())
