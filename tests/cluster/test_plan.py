from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.errors import PlanError
from cluster.plan import TABLES, Demand, Table, line_ms, plan, read_table


def table(**settings: object) -> Table:
    told: dict[str, object] = {
        "name": "tiny",
        "machine": "a test",
        "base_bytes": 1_000_000,
        "adapter_bytes": 1000,
        "kv_bytes_per_token": 10,
        "prompt_ms_per_token": 0.1,
        "step_ms": ((1, 10.0), (4, 16.0)),
        **settings,
    }
    return Table(**told)  # type: ignore[arg-type]  # a test's own table


def test_steps_between_measurements_lie_on_the_line() -> None:
    assert [table().step(rows) for rows in (1, 2, 3, 4)] == [10.0, 12.0, 14.0, 16.0]
    with pytest.raises(PlanError, match="5 rows were not measured"):
        table().step(5)


def test_a_line_is_its_steps_and_everybodys_prompts() -> None:
    demand = Demand(npcs=1, players=1, prompt_tokens=100, reply_tokens=20, context_tokens=200)
    assert line_ms(table(), demand, 2) == 2 * 100 * 0.1 + 20 * 12
    assert line_ms(table(), demand, 2, cached=False) == 2 * 200 * 0.1 + 20 * 12


def test_twice_the_players_need_twice_the_replicas() -> None:
    few, many = (plan(table(), Demand(npcs=50, players=n)) for n in (1000, 2000))
    assert few.replicas > 10
    assert many.replicas in (2 * few.replicas - 1, 2 * few.replicas)
    assert few.lines_per_s <= 0.7 * few.replicas * few.replica_lines_per_s
    assert few.disk_bytes == 50 * 1000
    assert few.total_bytes == few.replicas * few.replica_bytes


def test_rows_keep_the_pace() -> None:
    slow = plan(table(), Demand(npcs=1, players=9, prompt_tokens=40, reply_tokens=40, pace_ms=12))
    assert slow.rows == 1
    assert slow.pace_ms <= 12
    with pytest.raises(PlanError, match="asks for a smaller base"):
        plan(table(), Demand(npcs=1, players=9, pace_ms=5))


def test_short_memory_asks_for_more_replicas() -> None:
    roomy = Demand(npcs=16, players=1000)
    tight = Demand(npcs=16, players=1000, memory_bytes=1_016_000 + 10 * 640 * 10)
    assert plan(table(), roomy).cached
    assert plan(table(), tight).replicas > plan(table(), roomy).replicas
    assert plan(table(), tight).replica_bytes <= tight.memory_bytes
    with pytest.raises(PlanError, match="cannot hold tiny"):
        plan(table(), Demand(npcs=16, players=9, memory_bytes=1_016_000))


def test_a_demand_that_means_nothing_is_refused() -> None:
    with pytest.raises(PlanError, match="players is 0"):
        Demand(npcs=1, players=0)


def test_tables_that_ship_can_be_read_and_others_are_named(tmp_path: Path) -> None:
    for file in TABLES.glob("*.json"):
        assert read_table(file.stem).step(1) > 0
    with pytest.raises(PlanError, match="there is no table nothing"):
        read_table("nothing")
    (tmp_path / "half.json").write_text(json.dumps({"name": "half"}), encoding="utf-8")
    with pytest.raises(PlanError, match="no table of measured times"):
        read_table(tmp_path / "half.json")
