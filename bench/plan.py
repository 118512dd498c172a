"""A town of up to a million talking characters, simulated over a plan's replicas.

    python bench/plan.py --talkers 1000000 --seconds 20            # a computed 8B on H100 cards
    python bench/plan.py --table npc-base --talkers 2000 --routing random

Discrete events: every talker pauses, speaks a line to its own character, pauses again. A replica
steps all of its rows together (`Table.step`), stands still for every new prompt, keeps adapters
in slots and conversations in KV; a line that finds no room is told "busy" and tries again. Routed
by character, a conversation's prompt is cached where it was last; at random it seldom is. Step
times come from a measured table, or, without one, from a roofline (Williams et al. 2009): weights
and KV read once per step at the card's bandwidth. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import sys
from collections import OrderedDict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cluster.plan import Demand, Table, plan, read_table, talks_kept  # noqa: E402

_RETRY_MS = 500.0
_LOAD_MS = 5.0  # of an adapter from host memory into a slot


def main() -> None:
    """Simulate, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--table", help="measured times; without it, 8B in bf16 on an H100, computed"
    )
    parser.add_argument("--talkers", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--pause-s", type=float, default=15.0)
    parser.add_argument("--memory-gb", type=float, default=80.0, help="of a replica; 0: no limit")
    parser.add_argument("--replicas", type=int, help="default: what the plan says")
    parser.add_argument("--routing", choices=["character", "random"], default="character")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    table = read_table(arguments.table) if arguments.table else roofline()
    demand = Demand(
        npcs=arguments.talkers,
        players=arguments.talkers,
        pause_s=arguments.pause_s,
        slots=64,
        memory_bytes=int(arguments.memory_gb * 1e9),
    )
    made = plan(table, demand)
    num = arguments.replicas or made.replicas
    town = Town(table, demand, made.rows, num, arguments.routing, random.Random(arguments.seed))
    told = town.run(arguments.seconds * 1000)
    print(f"{table.name} on {table.machine}: {num} replicas of {made.rows} rows")
    for key, value in told.items():
        print(f"  {key}: {value}")
    print(json.dumps({"plan": asdict(made), "replicas": num, "simulated": told}))


def roofline() -> Table:
    """An 8B model in bf16 on an H100 (3.35 TB/s, 990 TFLOP/s at half of its peak), computed."""
    weights, bandwidth, flops = 16e9, 3.35e12, 495e12
    kv = 2 * 32 * 8 * 128 * 2
    steps = tuple(
        (rows, 1e3 * max((weights + rows * 1024 * kv) / bandwidth, rows * weights / flops) + 1.0)
        for rows in (1, 8, 16, 32, 64, 128)
    )
    return Table(
        name="8B",
        machine="H100, computed from a roofline, not measured",
        base_bytes=int(weights),
        adapter_bytes=84 << 20,
        kv_bytes_per_token=kv,
        prompt_ms_per_token=1e3 * weights / flops,
        step_ms=steps,
    )


@dataclass
class Line:
    """A line being spoken, or waiting for a row."""

    talker: int
    asked: float
    prompt_ms: float
    ready: float


@dataclass
class Replica:
    """Rows that advance together; virtual time counts tokens of each row."""

    table: Table
    rows: int
    slots: int
    talks: int
    at: float = 0.0
    tokens: float = 0.0
    stall_until: float = 0.0
    version: int = 0
    running: list[tuple[float, int, Line]] = field(default_factory=list)
    waiting: list[Line] = field(default_factory=list)
    adapters: OrderedDict[int, None] = field(default_factory=OrderedDict)
    cached: OrderedDict[int, None] = field(default_factory=OrderedDict)

    @property
    def live(self) -> int:
        """Lines on it, running and waiting."""
        return len(self.running) + len(self.waiting)

    def advance(self, now: float) -> None:
        """Let the rows run up to now."""
        start = max(self.at, self.stall_until)
        if now > start and self.running:
            self.tokens += (now - start) / self.table.step(len(self.running))
        self.at = now

    def admit(self, line: Line, now: float, reply: int) -> float:
        """Give a line a row; returns when its first word comes."""
        self.stall_until = max(self.stall_until, now, line.ready) + line.prompt_ms
        heapq.heappush(self.running, (self.tokens + reply, line.talker, line))
        return self.stall_until + self.table.step(len(self.running))

    def next_end(self) -> float:
        """When the first of its lines ends, if nothing else happens."""
        left = max(self.running[0][0] - self.tokens, 0.0)
        return max(self.at, self.stall_until) + left * self.table.step(len(self.running))

    def holds(self, adapter: int) -> bool:
        """Whether an adapter is in a slot; from now on it is."""
        return touch(self.adapters, adapter, self.slots)

    def remembers(self, talker: int) -> bool:
        """Whether a conversation's KV is here; from now on it is."""
        return touch(self.cached, talker, self.talks)


def touch(recent: OrderedDict[int, None], key: int, size: int) -> bool:
    """Make a key the newest of at most `size`; returns whether it was among them."""
    known = key in recent
    recent[key] = None
    recent.move_to_end(key)
    if len(recent) > size:
        recent.popitem(last=False)
    return known


class Town:
    """Talkers, replicas and the events between them."""

    def __init__(
        self, table: Table, demand: Demand, rows: int, num: int, routing: str, chance: random.Random
    ) -> None:
        self._table, self._demand, self._rows = table, demand, rows
        self._routing, self._chance = routing, chance
        talks = talks_kept(table, demand)
        self._replicas = [Replica(table, rows, demand.slots, talks) for _ in range(num)]
        for talker in range(demand.players):  # as after a long time, not as at the first line
            self._replicas[self._home(talker)].remembers(talker)
        self._events: list[tuple[float, int, int]] = []
        self._asked: dict[int, float] = {}
        self._first_words: list[float] = []
        self._counts = {"lines": 0, "busy": 0, "kv_hits": 0, "adapter_hits": 0, "asked": 0}

    def run(self, until: float) -> dict[str, Any]:
        """Simulate so many milliseconds, the first third to settle; returns what was seen."""
        pause = self._demand.pause_s * 1000
        for talker in range(self._demand.players):
            self._events.append((self._chance.expovariate(1 / pause), talker, -1))
        heapq.heapify(self._events)
        settled = False
        while self._events and self._events[0][0] < until:
            now, number, version = heapq.heappop(self._events)
            if not settled and now > until / 3:
                settled = True
                self._first_words.clear()
                self._counts = dict.fromkeys(self._counts, 0)
            if version < 0:
                self._ask(number, now)
            elif self._replicas[number].version == version:
                self._end(number, now)
        return self._report(until * 2 / 3)

    def _ask(self, talker: int, now: float) -> None:
        asked = self._asked.setdefault(talker, now)
        place = self._route(talker)
        replica = self._replicas[place]
        if replica.live >= 2 * self._rows:
            self._counts["busy"] += 1
            heapq.heappush(self._events, (now + _RETRY_MS, talker, -1))
            return
        del self._asked[talker]
        self._counts["asked"] += 1
        kept = replica.remembers(talker)
        self._counts["kv_hits"] += kept
        held = replica.holds(talker)
        self._counts["adapter_hits"] += held
        tokens = self._demand.prompt_tokens + (0 if kept else self._demand.context_tokens // 2)
        line = Line(
            talker, asked, tokens * self._table.prompt_ms_per_token, now + (0 if held else _LOAD_MS)
        )
        replica.advance(now)
        replica.waiting.append(line)
        self._fill(place, now)

    def _route(self, talker: int) -> int:
        """Its own replica unless that is full, then another; or any."""
        num = len(self._replicas)
        if self._routing == "random":
            return self._chance.randrange(num)
        home = self._home(talker)
        if self._replicas[home].live < self._rows:
            return home
        second = (home + 1 + talker % max(num - 1, 1)) % num
        return min((home, second), key=lambda place: self._replicas[place].live)

    def _home(self, talker: int) -> int:
        return talker * 2654435761 % (1 << 32) % len(self._replicas)  # Knuth's hash

    def _end(self, place: int, now: float) -> None:
        replica = self._replicas[place]
        replica.advance(now)
        _, talker, _ = heapq.heappop(replica.running)
        self._counts["lines"] += 1
        pause = self._chance.expovariate(1 / (self._demand.pause_s * 1000))
        heapq.heappush(self._events, (now + pause, talker, -1))
        self._fill(place, now)

    def _fill(self, place: int, now: float) -> None:
        """Give free rows to waiting lines, and note when the next one ends."""
        replica = self._replicas[place]
        while replica.waiting and len(replica.running) < self._rows:
            line = replica.waiting.pop(0)
            first = replica.admit(line, now, self._demand.reply_tokens)
            self._first_words.append(first - line.asked)
        replica.version += 1
        if replica.running:
            heapq.heappush(self._events, (replica.next_end(), place, replica.version))

    def _report(self, span_ms: float) -> dict[str, Any]:
        words = sorted(self._first_words) or [0.0]
        asked = max(self._counts["asked"], 1)
        return {
            "lines_per_s": round(self._counts["lines"] / span_ms * 1000, 1),
            "first_word_p50_ms": round(words[len(words) // 2], 1),
            "first_word_p95_ms": round(words[len(words) * 95 // 100], 1),
            "first_word_p99_ms": round(words[len(words) * 99 // 100], 1),
            "kv_hit_rate": round(self._counts["kv_hits"] / asked, 3),
            "adapter_hit_rate": round(self._counts["adapter_hits"] / asked, 3),
            "busy_answers_per_line": round(self._counts["busy"] / asked, 4),
        }


if __name__ == "__main__":
    main()
