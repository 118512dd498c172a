"""Commands of this folder; heavy imports wait inside the functions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this folder's commands to the command line."""
    app.command()(console)


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
