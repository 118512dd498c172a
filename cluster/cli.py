"""Commands of this folder; heavy imports wait inside the functions."""

from __future__ import annotations

import json
from typing import Annotated

import typer

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def register(app: typer.Typer) -> None:
    """Add this folder's commands to the command line."""
    cluster = typer.Typer(help="Try a Ray cluster on this machine.", no_args_is_help=True)
    cluster.command()(up)
    cluster.command()(status)
    cluster.command()(down)
    app.add_typer(cluster, name="cluster")
    app.command()(plan)


def up(
    nodes: Annotated[int, typer.Option(min=1, help="Node processes.")] = 3,
    cpus: Annotated[int, typer.Option(min=1, help="Cores that each node gives.")] = 1,
    as_json: _Json = False,
) -> None:
    """Start a cluster of node processes on loopback; `down` ends it."""
    from cluster.trial import up as start

    trial = start(nodes, cpus)
    if as_json:
        print(json.dumps({"address": trial.address, "pid": trial.pid}))
    else:
        print(f"{nodes} nodes at {trial.address}; in world.toml: replicas.address = ", end="")
        print(f'"{trial.address}"')


def status(as_json: _Json = False) -> None:
    """The nodes and replicas of the cluster at hand (a trial, or RAY_ADDRESS)."""
    from cluster.trial import status as look

    found = look()
    if as_json:
        print(json.dumps(found))
        return
    print(f"{found['address']}: {found['free_cpus']:g} cores, {found['free_gpus']:g} cards free")
    for node in found["nodes"]:
        state = "alive" if node["alive"] else "gone"
        print(f"  node {node['node'][:12]} at {node['address']}: {node['cpus']:g} cores, {state}")
    for replica in found["replicas"]:
        print(f"  replica {replica}")


def down(as_json: _Json = False) -> None:
    """End the cluster that `up` started, and no other."""
    from cluster.trial import down as stop

    trial = stop()
    print(json.dumps({"address": trial.address}) if as_json else f"{trial.address} is down")


def plan(
    npcs: Annotated[int, typer.Option(help="Characters with an adapter of their own.")],
    players: Annotated[int, typer.Option(help="Who talk at the same time.")],
    base: Annotated[
        str, typer.Option(help="Table of measured times: a name that ships, or a file.")
    ] = "npc-base",
    pause_s: Annotated[float, typer.Option(help="Between a player's lines.")] = 15.0,
    prompt_tokens: Annotated[int, typer.Option(help="New ones of a turn.")] = 80,
    reply_tokens: Annotated[int, typer.Option(help="Of a line.")] = 40,
    chatter: Annotated[float, typer.Option(help="Lines among characters, per player's.")] = 0.0,
    pace_ms: Annotated[float, typer.Option(help="Slowest pace of a stream, per token.")] = 100.0,
    slots: Annotated[int, typer.Option(help="Adapters ready on each replica.")] = 16,
    memory_gb: Annotated[float, typer.Option(min=0, help="Of a replica; 0: no limit.")] = 0.0,
    as_json: _Json = False,
) -> None:
    """How many replicas and how much memory a game asks for, from measured times."""
    from dataclasses import asdict

    from cluster.plan import Demand, read_table
    from cluster.plan import plan as make

    table = read_table(base)
    demand = Demand(
        npcs=npcs,
        players=players,
        pause_s=pause_s,
        prompt_tokens=prompt_tokens,
        reply_tokens=reply_tokens,
        chatter=chatter,
        pace_ms=pace_ms,
        slots=slots,
        memory_bytes=int(memory_gb * 1e9),
    )
    made = make(table, demand)
    if as_json:
        print(json.dumps({"table": table.name, "machine": table.machine, **asdict(made)}))
        return
    gb = 1e9
    print(f"measured: {table.name} on {table.machine}")
    print(f"  {made.replicas} replicas of {made.rows} rows for {made.lines_per_s:.1f} lines/s")
    print(f"  each speaks {made.replica_lines_per_s:.2f} lines/s, planned at 70 % of that")
    print(f"  first word after {made.first_word_ms:.0f} ms, then {made.pace_ms:.0f} ms per token")
    print(f"  {'every' if made.cached else 'hardly any'} conversation stays cached")
    print(f"  {made.replica_bytes / gb:.2f} GB each, {made.total_bytes / gb:.2f} GB in all")
    print(f"  {made.disk_bytes / gb:.2f} GB of adapters in each node's store")
