"""The public face of biblioteca, and its command line.

    from biblioteca import connect

    with connect() as client:
        for piece in client.say("ottavia", "Where is the lamp oil kept?"):
            print(piece, end="")

Names below load on first use, so that a game importing a client never pays for torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from protocol.client import AsyncClient, Client, connect
    from roles.world import World

_EXPORTS = {
    "AsyncClient": "protocol.client",
    "Client": "protocol.client",
    "World": "roles.world",
    "connect": "protocol.client",
}
__all__ = ["AsyncClient", "Client", "World", "connect", "main"]

# Each offers `register(app)`; they import nothing heavy until a command runs.
_COMMANDS = (
    "roles.cli",
    "roles.dialogues.cli",
    "engine.cli",
    "cluster.cli",
    "roles.offline",
    "books.cli",
    "protocol.cli",
    "tui.cli",
)


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'biblioteca' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: exit 0 on success, 1 on failure, 2 on bad usage.

    Every folder's error tree has an `exit_code`; such an error is shown as its one sentence.
    """
    import typer

    app = typer.Typer(name="biblioteca", no_args_is_help=True, help="AI characters for games.")
    app.callback()(lambda: None)  # keeps "biblioteca COMMAND" even while there is only one
    for module in _COMMANDS:
        import_module(module).register(app)
    try:
        app(args=arguments, standalone_mode=True)
    except Exception as error:
        exit_code = getattr(error, "exit_code", None)
        if exit_code is None:
            raise
        print(f"biblioteca: {error}", file=sys.stderr)
        sys.exit(exit_code)


if __name__ == "__main__":
    main()
