"""How many replicas, and how much memory, a number of characters and players asks for.

Everything follows from a table of measured times of one replica (bench/steps.py): the time of a
step by how many rows it holds, and what a prompt's token costs. A line occupies a row from its
prompt to its last token; rows share each other's steps and stand still for each other's prompts.
"""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from cluster.errors import PlanError

TABLES = Path(__file__).parent / "tables"
_UTILISATION = 0.7  # of what a replica can do: above it, queues grow out of hand
_ROOM = 0.8  # of the KV memory to count on: homes are uneven, and some lines go elsewhere
_KEYS = (
    "name",
    "machine",
    "base_bytes",
    "adapter_bytes",
    "kv_bytes_per_token",
    "prompt_ms_per_token",
    "step_ms",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """What was measured of one replica.

    Attributes:
        name: of the base; `machine` says on what, in words.
        base_bytes: memory of a replica that holds the base and nothing else.
        adapter_bytes: of one adapter in a slot.
        kv_bytes_per_token: of a conversation.
        prompt_ms_per_token: of prefill.
        step_ms: (rows, milliseconds of one step), rows rising.
    """

    name: str
    machine: str
    base_bytes: int
    adapter_bytes: int
    kv_bytes_per_token: int
    prompt_ms_per_token: float
    step_ms: tuple[tuple[int, float], ...]

    @property
    def max_rows(self) -> int:
        """The most rows that were measured."""
        return self.step_ms[-1][0]

    def step(self, rows: int) -> float:
        """Milliseconds of a step, straight lines between what was measured."""
        if rows <= self.step_ms[0][0]:
            return self.step_ms[0][1]
        for (rows0, ms0), (rows1, ms1) in pairwise(self.step_ms):
            if rows <= rows1:
                return ms0 + (ms1 - ms0) * (rows - rows0) / (rows1 - rows0)
        raise PlanError(f"{rows} rows were not measured; the table ends at {self.max_rows}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """What the game asks for.

    Attributes:
        npcs: characters with an adapter of their own.
        players: who talk at the same time.
        pause_s: from the end of a player's line to the next one.
        prompt_tokens: new ones of a turn; what is cached costs nothing.
        reply_tokens: of a line.
        chatter: lines that characters say among themselves, per player's line.
        context_tokens: of a conversation that stays cached.
        slots: adapters ready on each replica.
        memory_bytes: that a replica may take; 0 is as much as keeps every conversation cached.
        pace_ms: slowest pace of a stream, per token; 250 words a minute are about 180.
    """

    npcs: int
    players: int
    pause_s: float = 15.0
    prompt_tokens: int = 80
    reply_tokens: int = 40
    chatter: float = 0.0
    context_tokens: int = 640
    slots: int = 16
    memory_bytes: int = 0
    pace_ms: float = 100.0

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        for name in ("npcs", "players", "prompt_tokens", "reply_tokens", "slots"):
            if getattr(self, name) < 1:
                raise PlanError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("pause_s", "chatter", "pace_ms"):
            if getattr(self, name) < 0:
                raise PlanError(f"{name} is {getattr(self, name)}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What it takes.

    Attributes:
        lines_per_s: spoken when everybody talks.
        rows: on each replica, at most.
        replica_lines_per_s: what one replica can do at that many rows.
        first_word_ms: of a line that finds a free row, without the network.
        pace_ms: between tokens at full rows.
        cached: whether every conversation's KV finds room; if not, none is counted on.
        replica_bytes, total_bytes: memory.
        disk_bytes: all adapters, on each node that keeps them.
    """

    lines_per_s: float
    rows: int
    replicas: int
    replica_lines_per_s: float
    first_word_ms: float
    pace_ms: float
    cached: bool
    replica_bytes: int
    total_bytes: int
    disk_bytes: int


def read_table(name: str | Path) -> Table:
    """A table that ships with the package, by name, or a file.

    Raises:
        PlanError: there is none, or it lacks something.
    """
    path = Path(name)
    if not path.is_file():
        path = TABLES / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in TABLES.glob("*.json")))
        raise PlanError(f"there is no table {name!s}; measure one (bench/steps.py) or use: {known}")
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        steps = tuple((int(rows), float(ms)) for rows, ms in told["step_ms"])
        return Table(**{key: told[key] for key in _KEYS if key != "step_ms"}, step_ms=steps)
    except (ValueError, KeyError, TypeError) as error:
        raise PlanError(f"{path} is no table of measured times: {error!r}") from error


def line_ms(table: Table, demand: Demand, rows: int, *, cached: bool = True) -> float:
    """How long a line occupies its row while `rows` are busy.

    In that time every row's prompt is computed once (rows stand still for one another), and the
    reply's tokens come one per step. A conversation that isn't cached is computed from its
    beginning, on average half of a context.
    """
    prompt = demand.prompt_tokens + (0 if cached else demand.context_tokens / 2)
    return rows * prompt * table.prompt_ms_per_token + demand.reply_tokens * table.step(rows)


def talks_kept(table: Table, demand: Demand) -> int:
    """Conversations whose KV one replica can hold; every player's, without a memory limit.

    Raises:
        PlanError: the base and its adapters alone are more than the memory.
    """
    if not demand.memory_bytes:
        return demand.players
    left = demand.memory_bytes - table.base_bytes - _adapter_bytes(table, demand)
    kept = left // (demand.context_tokens * table.kv_bytes_per_token)
    if kept < 1:
        raise PlanError(
            f"a replica of {demand.memory_bytes / 1e9:g} GB cannot hold {table.name} "
            f"({table.base_bytes / 1e9:.1f} GB), {demand.slots} adapters and one conversation"
        )
    return kept


def plan(table: Table, demand: Demand) -> Plan:
    """The fewest replicas that keep the pace.

    Where a replica's memory is limited, either enough of them keep every conversation cached, or
    every line is planned as if its conversation were lost: a cache that is somewhat too small
    is worth little, since what it drops makes work, and work drives lines to other replicas
    (bench/plan.py shows it).

    Raises:
        PlanError: not even one row keeps it, or a replica's memory is too small.
    """
    kept = talks_kept(table, demand)
    plans = [_plan(table, demand, kept, cached=True)]
    if plans[0].replicas > 1 and demand.memory_bytes:
        with contextlib.suppress(PlanError):  # then only the caches make the pace possible
            plans.append(_plan(table, demand, kept, cached=False))
    return min(plans, key=lambda made: made.replicas)


def _plan(table: Table, demand: Demand, kept: int, *, cached: bool) -> Plan:
    rows = _most_rows(table, demand, min(kept, table.max_rows), cached)
    busy_ms = line_ms(table, demand, rows, cached=cached)
    capacity = rows * 1000 / busy_ms
    lines = demand.players * (1 + demand.chatter) / (demand.pause_s + busy_ms / 1000)
    replicas = max(math.ceil(lines / (_UTILISATION * capacity)), 1)
    if cached and demand.memory_bytes and kept < demand.players:
        replicas = max(replicas, math.ceil(demand.players / (_ROOM * kept)))
    talks = min(max(math.ceil(demand.players / replicas), rows), kept)
    kv_bytes = talks * demand.context_tokens * table.kv_bytes_per_token
    replica_bytes = table.base_bytes + _adapter_bytes(table, demand) + kv_bytes
    return Plan(
        lines_per_s=lines,
        rows=rows,
        replicas=replicas,
        replica_lines_per_s=capacity,
        first_word_ms=demand.prompt_tokens * table.prompt_ms_per_token + table.step(rows),
        pace_ms=busy_ms / demand.reply_tokens,
        cached=cached,
        replica_bytes=replica_bytes,
        total_bytes=replicas * replica_bytes,
        disk_bytes=demand.npcs * table.adapter_bytes,
    )


def _most_rows(table: Table, demand: Demand, limit: int, cached: bool) -> int:
    """The most rows that still keep the pace. Raises: PlanError if not even one does."""
    slowest = demand.pace_ms * demand.reply_tokens
    keeps = [n for n in range(1, limit + 1) if line_ms(table, demand, n, cached=cached) <= slowest]
    if not keeps:
        raise PlanError(
            f"{table.name} on {table.machine} takes "
            f"{line_ms(table, demand, 1, cached=cached) / 1e3:.1f} s for a line; a pace of "
            f"{demand.pace_ms:g} ms per token asks for a smaller base, a faster machine or "
            "shorter prompts"
        )
    return keeps[-1]


def _adapter_bytes(table: Table, demand: Demand) -> int:
    return min(demand.slots, demand.npcs) * table.adapter_bytes
