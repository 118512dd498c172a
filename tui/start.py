"""From the command line to a running console: what it shows, and what it writes down."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tui.app import ConsoleApp
from tui.demo import Demo
from tui.errors import ConsoleError
from tui.link import LiveLink
from tui.recording import Recorder, ReplayLink, read_recording
from tui.session import Link, Session

_NICENESS = 10
_HUNG_UP = 129  # what shells report for a process that SIGHUP ended


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsoleConfig:
    """What `biblioteca console` was asked for.

    Attributes:
        connect: connection file, or None for the usual place.
        demo: world to start first, or None.
        record: file to write what is seen to.
        replay: recording to look at instead of a server.
        speed: of the replay; 0 shows all of it at once.
        keys: TOML file with other keys.
        theme: name of a theme.
    """

    connect: Path | None = None
    demo: str | None = None
    record: Path | None = None
    replay: Path | None = None
    speed: float = 1.0
    keys: Path | None = None
    theme: str = "lamplight"


def start(config: ConsoleConfig) -> None:
    """Run the console until it is closed.

    Raises:
        ConsoleError: the options don't go together, one of their files can't be used, or there
            is no terminal.
    """
    if sum((config.replay is not None, config.demo is not None, config.connect is not None)) > 1:
        raise ConsoleError("--connect, --demo and --replay exclude each other; choose one")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConsoleError(
            "the console needs a terminal for its input and output; "
            "`biblioteca --help` lists its actions as plain commands"
        )
    with ExitStack() as stack:
        link = _link(config, stack)
        recorder = None
        if config.record is not None:
            recorder = Recorder(config.record)
            stack.callback(recorder.close)
        app = ConsoleApp(Session(link, recorder), keys=config.keys, theme=config.theme)

        def hang_up() -> None:
            stack.close()
            os._exit(_HUNG_UP)

        app.hang_up = hang_up
        app.run()


def _link(config: ConsoleConfig, stack: ExitStack) -> Link:
    """What the options ask to look at."""
    if config.replay is not None:
        return ReplayLink(read_recording(config.replay), str(config.replay), config.speed)
    if config.demo is not None:
        demo = stack.enter_context(Demo(config.demo))
        return LiveLink(demo.connection, demo.why)
    if hasattr(os, "nice"):  # not on Windows
        os.nice(_NICENESS)  # the game and its server come first where cores are scarce
    return LiveLink(config.connect)
