"""The connection file: how a client on the same machine finds a server (SPEC.md section 1.1)."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from protocol.errors import NoServerError
from protocol.messages import SPEC_VERSION, Body


class KeyPair(Body):
    """A CURVE key pair, Z85."""

    public: str
    secret: str


class Address(Body):
    """A server's three endpoints; "" for one it doesn't have."""

    work: str
    control: str = ""
    telemetry: str = ""


class Connection(Address):
    """Where a server listens, the keys to talk to it, and who serves when it can't.

    Attributes:
        others: servers of the same game with the same keys, tried in turn.
    """

    spec: str = SPEC_VERSION
    pid: int = 0
    world: str = ""
    others: list[Address] = Field(default_factory=list)
    server_key: str | None = None
    client_key: KeyPair | None = None

    @model_serializer(mode="wrap")
    def _without_empty_list(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """No empty `others`: clients of version 1.0 may read a file of plain fields only."""
        document: dict[str, Any] = write(self)
        if not self.others:
            document.pop("others", None)
        return document


def default_path() -> Path:
    """Where the connection file is unless told otherwise."""
    named = os.environ.get("BIBLIOTECA_CONNECTION")
    if named:
        return Path(named)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return Path(runtime) / "biblioteca" / "default.json"
    uid = os.getuid() if hasattr(os, "getuid") else 0
    return Path(tempfile.gettempdir()) / f"biblioteca-{uid}" / "default.json"


def write_private(path: Path, document: dict[str, Any]) -> None:
    """Write JSON whole or not at all, readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_connection(path: Path | None = None) -> Connection:
    """Read the connection file.

    Raises:
        NoServerError: there is none, or it is damaged.
    """
    path = path or default_path()
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return Connection.model_validate(document)
    except FileNotFoundError:
        raise NoServerError(
            f"no server has written {path}; start one with 'biblioteca serve'"
        ) from None
    except (OSError, UnicodeDecodeError, ValueError) as error:
        kind = "incomplete" if isinstance(error, ValidationError) else str(error)
        raise NoServerError(f"the connection file {path} can't be read: {kind}") from error
