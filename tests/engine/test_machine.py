"""Random arrivals, cancels, expiries, swaps and evictions: nothing leaks, everything ends once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from engine.config import EngineConfig
from engine.engine import Engine, build_engine
from engine.requests import Constraint, Delta, Event, Finished, Started
from tests.engine.conftest import request, run

PERSONAS = ("I am the keeper of lamps. ", "I am the thief of pages, and I never sleep. ")
CONFIG: dict[str, Any] = {
    "max_rows": 3,
    "adapter_slots": 2,
    "prefill_tokens": 16,
    "host_bytes": 0,
    "cache_bytes": 60_000,
    "context_tokens": 128,
}


class EngineMachine(RuleBasedStateMachine):
    """Drives one tight engine; every finished line is compared with the same line alone."""

    base: Path
    paths: list[Path]
    quantization: str
    reference: Engine

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.count = 0
        self.live: set[str] = set()
        self.ended: dict[str, str] = {}
        self.asked: dict[str, Any] = {}
        self.words: dict[str, list[int]] = {}
        self.versions: dict[str, int] = {}
        self.engine = build_engine(
            EngineConfig(base=str(self.base), quantization=self.quantization, **CONFIG)  # type: ignore[arg-type]  # parametrised
        )
        self.engine._clock = lambda: self.now

    @initialize()
    def load(self) -> None:
        for name in ("a", "b", "c"):
            self.put(name, ord(name) - ord("a"))

    def put(self, name: str, number: int) -> None:
        adapter = self.engine.read_adapter(str(self.paths[number]))
        self.engine.install_adapter(name, adapter, False)
        self.versions[name] = number

    @rule(
        adapter=st.sampled_from([None, "a", "b", "c"]),
        persona=st.sampled_from(PERSONAS),
        line=st.text("xyz ", max_size=12),
        seed=st.integers(0, 3),
        temperature=st.sampled_from([0.0, 1.0]),
        priority=st.integers(0, 2),
        deadline_ms=st.sampled_from([None, None, 15.0]),
        regex=st.sampled_from([None, None, "[ab ]{4,9}"]),
    )
    def add(self, adapter: str | None, persona: str, line: str, **rest: Any) -> None:
        self.count += 1
        request_id = f"r{self.count}"
        regex = rest.pop("regex")
        constraint = Constraint(kind="regex", source=regex) if regex else None
        asked = request(
            request_id, persona + line, adapter=adapter, constraint=constraint, max_tokens=8, **rest
        )
        self.engine.add_request(asked)
        self.live.add(request_id)
        number = self.versions[adapter] if adapter else None
        self.asked[request_id] = (asked, number)

    @rule(which=st.integers(0, 5))
    def cancel(self, which: int) -> None:
        if self.live:
            self.engine.cancel(sorted(self.live)[which % len(self.live)])

    @rule(milliseconds=st.integers(1, 20))
    def wait(self, milliseconds: int) -> None:
        self.now += milliseconds / 1000

    @rule(name=st.sampled_from(["a", "b", "c"]), number=st.integers(0, 5))
    def swap(self, name: str, number: int) -> None:
        self.put(name, number)

    @rule(times=st.integers(1, 6))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.take(self.engine.step())

    def take(self, events: list[Event]) -> None:
        for event in events:
            assert event.request_id in self.live, f"{event} came after its end"
            if isinstance(event, Delta):
                self.words.setdefault(event.request_id, []).extend(event.token_ids)
            elif isinstance(event, Finished):
                self.live.remove(event.request_id)
                self.ended[event.request_id] = event.reason
                assert event.error is None
            else:
                assert isinstance(event, Started)

    @invariant()
    def nothing_is_held_but_by_running_lines(self) -> None:
        stats = self.engine.stats()
        assert stats.kv_slots_used == stats.num_running
        assert stats.num_running + stats.num_waiting == len(self.live)
        store, cache = self.engine._store, self.engine._prefixes
        held = [version for version in store._slots.values() if version is not None]
        assert len({id(version) for version in held}) == len(held)
        assert all(store._slots[v.slot] is v for v in held if v.slot is not None)
        assert sum(v.num_running for v in held) == sum(
            sequence.version is not None for sequence in self.engine._scheduler.running
        )
        assert cache.size_bytes <= CONFIG["cache_bytes"]
        assert cache.size_bytes == sum(saved.nbytes for saved in cache._kept.values())

    def teardown(self) -> None:
        while self.engine.has_work():
            self.take(self.engine.step())
        assert not self.live
        self.nothing_is_held_but_by_running_lines()
        for request_id, reason in self.ended.items():
            if reason in ("stop", "length"):
                asked, number = self.asked[request_id]
                again = request(  # without the deadline, which counts real time there
                    request_id,
                    asked.prompt,
                    adapter=None if number is None else f"n{number}",
                    max_tokens=8,
                    seed=asked.sampling.seed,
                    temperature=asked.sampling.temperature,
                    constraint=asked.sampling.constraint,
                )
                alone = run(self.reference, [again])[request_id]
                assert self.words.get(request_id, []) == alone


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_slots_and_rows_never_leak_and_every_request_ends_once_with_its_own_words(
    base: Path, adapters: list[Path], quantization: str
) -> None:
    # The reference has room for everything and reuses nothing.
    reference = build_engine(
        EngineConfig(base=str(base), quantization=quantization, cache_bytes=0, context_tokens=128)  # type: ignore[arg-type]  # parametrised
    )
    for number, path in enumerate(adapters):
        reference.install_adapter(f"n{number}", reference.read_adapter(str(path)), True)
    settled = {"base": base, "paths": adapters, "quantization": quantization}
    machine = type("Machine", (EngineMachine,), {**settled, "reference": reference})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=25,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],  # shrinking a failure would take minutes
            suppress_health_check=list(HealthCheck),
        ),
    )
