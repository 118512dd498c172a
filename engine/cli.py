"""Commands of this folder; heavy imports wait inside the functions."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Add this folder's commands to the command line."""
