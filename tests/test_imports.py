"""What importing a part must not load: a game's client pays for no model library."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ["torch", "transformers", "peft", "numpy"]


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import biblioteca", [*HEAVY, "zmq", "typer", "textual"]),
        ("import protocol.codec", [*HEAVY, "zmq"]),
        ("import protocol.session", [*HEAVY, "zmq"]),
        ("import protocol.catalogue", [*HEAVY, "zmq", "msgpack"]),
        ("from biblioteca import connect, AsyncClient", [*HEAVY, "textual", "engine", "roles"]),
        ("import protocol.server", [*HEAVY, "engine", "roles", "prometheus_client"]),
        ("import protocol.cli", ["pydantic", "zmq", *HEAVY]),
    ],
)
def test_import_stays_light(statement: str, forbidden: list[str]) -> None:
    code = f"{statement}\nimport sys\nprint([m for m in {forbidden!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
