"""Commands of this folder; heavy imports wait inside the functions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this folder's commands to the command line."""
    app.command()(console)
    app.command()(request)


def request(
    kind: Annotated[str, typer.Argument(help="such as adapters, memory, director, say")],
    fields: Annotated[
        list[str] | None, typer.Argument(help="NAME=VALUE: op=swap agent=ottavia name=pim")
    ] = None,
    connect: Annotated[
        Path | None, typer.Option(help="the server's connection file [default: the usual place]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON document")] = False,
) -> None:
    """Send one request to a running server: whatever the console can do, without it."""
    from tui.request import send

    send(connect, kind, fields or [], as_json=as_json)


def console(
    connect: Annotated[
        Path | None, typer.Option(help="the server's connection file [default: the usual place]")
    ] = None,
    demo: Annotated[
        bool, typer.Option(help="start the starter world first, and talk to it")
    ] = False,
    world: Annotated[str, typer.Option(help="world that --demo starts")] = "biblioteca_eterna",
    record: Annotated[Path | None, typer.Option(help="write down everything that is seen")] = None,
    replay: Annotated[Path | None, typer.Option(help="look at a recording instead")] = None,
    speed: Annotated[float, typer.Option(help="of the replay; 0: all at once", min=0)] = 1.0,
    keys: Annotated[Path | None, typer.Option(help="other keys (TOML, docs/console.md)")] = None,
    theme: Annotated[
        str, typer.Option(help="lamplight, daylight, or one of Textual's")
    ] = "lamplight",
) -> None:
    """Look at what every character thinks, and change it while the game runs."""
    from tui.start import ConsoleConfig, start

    start(
        ConsoleConfig(
            connect=connect,
            demo=world if demo else None,
            record=record,
            replay=replay,
            speed=speed,
            keys=keys,
            theme=theme,
        )
    )
