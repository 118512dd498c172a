"""Commands of this folder; heavy imports wait inside the functions."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

keys = typer.Typer(no_args_is_help=True, help="Keys of the server and of its clients.")
Folder = Annotated[
    Path | None,
    typer.Option("--keys", help="the key folder; by default biblioteca/keys under XDG_CONFIG_HOME"),
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document")]


def register(app: typer.Typer) -> None:
    """Add this folder's commands to the command line."""
    app.add_typer(keys, name="keys")
    app.command()(conform)


def _folder(folder: Path | None) -> Path:
    from protocol.keys import default_folder

    return folder or default_folder()


def _show(document: Any, as_json: bool, lines: Iterable[str]) -> None:
    typer.echo(json.dumps(document) if as_json else "\n".join(lines))


def _row(entry: Any) -> str:
    return (
        f"{entry.name:20} {entry.role:8} {entry.public_key}{'  revoked' if entry.revoked else ''}"
    )


@keys.command()
def init(folder: Folder = None, as_json: AsJson = False) -> None:
    """Make the server's and the owner's keys; those that exist are kept."""
    from protocol.keys import KeyStore

    store = KeyStore.init(_folder(folder))
    document = {"folder": str(store.folder), "server_key": store.server.public}
    lines = [f"keys in {store.folder}", f"the server's public key is {store.server.public}"]
    _show(document, as_json, lines)


@keys.command()
def add(
    name: Annotated[str, typer.Argument(help="what the key is called in lists and logs")],
    role: Annotated[str, typer.Option(help="player, game or admin")] = "player",
    out: Annotated[
        Path | None, typer.Option(help="write the client's connection file here")
    ] = None,
    server: Annotated[
        Path | None, typer.Option(help="the server's connection file, to take the addresses from")
    ] = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Make a client's key and let it in, at once, without a restart."""
    from protocol.client import make_body
    from protocol.connection import read_connection, write_private
    from protocol.keys import KeyStore, new_pair
    from protocol.operation import KeysRequest

    store, pair = KeyStore(_folder(folder)), new_pair()
    fields = {"op": "add", "name": name, "role": role, "public_key": pair.public}
    request = make_body("keys", fields)
    assert isinstance(request, KeysRequest)
    connection = None
    if out is not None:  # before the key is added: it fails where there is no server
        mine = {"client_key": pair, "server_key": store.server.public, "pid": 0}
        connection = read_connection(server).model_copy(update=mine)
    entry = store.answer(request).keys[0]
    if connection is not None and out is not None:
        write_private(out, connection.model_dump())
    document = {**entry.model_dump(), "secret": pair.secret}
    where = f"written to {out}" if out else f"public {pair.public}\nsecret {pair.secret}"
    _show(document, as_json, [f"{name} may come in as {role}", where])


@keys.command(name="list")
def list_keys(folder: Folder = None, as_json: AsJson = False) -> None:
    """List who may come in, and as what."""
    from protocol.keys import KeyStore

    entries = KeyStore(_folder(folder)).entries()
    _show([entry.model_dump() for entry in entries], as_json, map(_row, entries))


@keys.command()
def revoke(
    name: Annotated[str, typer.Argument(help="whose key")],
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Shut a key out; its sessions end at once."""
    from protocol.keys import KeyStore

    entry = KeyStore(_folder(folder)).revoke(name)
    _show(entry.model_dump(), as_json, [_row(entry)])


def conform(
    connect: Annotated[
        Path | None, typer.Option(help="check the server that wrote this connection file")
    ] = None,
    client: Annotated[
        str | None, typer.Option(help="check this client program; see protocol/conformance")
    ] = None,
    agent: Annotated[str | None, typer.Option(help="the character to speak to")] = None,
    as_json: AsJson = False,
) -> None:
    """Check that a server (by default the running one), or a client, follows SPEC.md."""
    from protocol.connection import read_connection

    if client is not None:
        from protocol.conformance import scripted_server

        results = list(scripted_server.run(shlex.split(client)))
    else:
        from protocol.conformance import server_checks

        results = list(server_checks.run(read_connection(connect), agent))
    document = [{"check": name, "failed": wrong} for name, wrong in results]
    lines = [
        f"{'ok  ' if wrong is None else 'FAIL'} {name} {wrong or ''}" for name, wrong in results
    ]
    num_failed = sum(wrong is not None for _, wrong in results)
    _show(document, as_json, [*lines, f"{len(results) - num_failed} of {len(results)} hold"])
    if num_failed:
        raise typer.Exit(1)
