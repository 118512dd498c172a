"""A thousand characters, few slots: what do misses cost, and do others feel them?

    python bench/thousand.py --adapters 1000 --slots 32 --json

Characters are asked for by a Zipf law; 16 lines are spoken at any time. The same number of
lines is spoken with 16 adapters, then with ever more characters than the slots hold. Then all rows
but one speak on while visitors come one after another for two tokens, first such that have their
slots, then such that must be loaded: what the others' gaps grow by is what loading costs them.
The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_VISITED = 3  # times that each of the two kinds of visitors is measured


def main() -> None:
    """Register, speak, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--adapters", type=int, default=1000, help="registered characters")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--rows", type=int, default=16, help="lines spoken at once")
    parser.add_argument("--lines", type=int, default=96, help="lines per measurement")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--host-mb", type=int, default=2048, help="host memory for adapters")
    parser.add_argument("--work", type=Path, help="keeps the random models (default: temporary)")
    parser.add_argument("--json", action="store_true", help="print the JSON document only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        report = measure(arguments, arguments.work or Path(temporary))
    if not arguments.json:
        for row in report["runs"] + report["visits"]:
            print(row)
    print(json.dumps(report))


def measure(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """All runs over one engine: the working set grows from 16 to every character."""
    from bench.tavern import SHAPE
    from bench.tavern_models import make_models
    from engine.config import EngineConfig
    from engine.engine import build_engine

    make_models(work, 16, shape=SHAPE)
    engine = build_engine(
        EngineConfig(
            base=str(work / "base"),
            quantization="int8",
            threads=arguments.threads,
            adapter_slots=arguments.slots,
            max_rows=arguments.rows,
            host_bytes=arguments.host_mb << 20,
        )
    )
    began = time.perf_counter()
    for number in range(arguments.adapters):
        folder = variant(work, number)
        engine.install_adapter(f"npc{number}", engine.read_adapter(str(folder)), False)
    registered_s = time.perf_counter() - began
    sizes = [16, arguments.slots, 2 * arguments.slots, 4 * arguments.slots, arguments.adapters]
    runs = []
    for size in sorted({min(size, arguments.adapters) for size in sizes}):
        speak(engine, size, arguments.rows, seed=1)  # what the slots hold after a while
        runs.append(speak(engine, size, arguments.lines, seed=2))
    visits = []
    for number in range(2 * _VISITED):
        visits.append(visit(engine, arguments, loaded=number % 2 == 1, seed=number))
    return {"registered_s": registered_s, "slots": arguments.slots, "runs": runs, "visits": visits}


def variant(work: Path, number: int) -> Path:
    """Adapter folders of distinct content: copies of 16 random ones with another alpha."""
    source, folder = work / f"adapter{number % 16}", work / "thousand" / str(number)
    if not folder.is_dir():
        folder.mkdir(parents=True)
        weights = "adapter_model.safetensors"
        try:
            os.link(source / weights, folder / weights)
        except OSError:
            shutil.copy(source / weights, folder / weights)
        config = json.loads((source / "adapter_config.json").read_text())
        config["lora_alpha"] = 32 + number / 1000
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def line(engine: Any, name: str, npc: int, words: int, tokens: int, chance: random.Random) -> None:
    """Ask for a line of fixed length."""
    from engine.requests import GenerationRequest, SamplingParams

    prompt = " ".join(f"w{chance.randrange(10, 40000)}" for _ in range(words))
    sampling = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    engine.add_request(
        GenerationRequest(request_id=name, prompt=prompt, adapter=f"npc{npc}", sampling=sampling)
    )


def speak(engine: Any, size: int, lines: int, seed: int) -> dict[str, float]:
    """Ask `lines` characters out of the first `size`, by a Zipf law, and time every step."""
    chance = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(size)]
    asked = chance.choices(range(size), weights, k=lines)
    before = engine.stats()
    for number, npc in enumerate(asked):
        line(engine, f"{seed}/{size}/{number}", npc, 40, 32, chance)
    began, gaps = time.perf_counter(), Gaps()
    while engine.has_work():
        gaps.take(engine.step())
    took, after = time.perf_counter() - began, engine.stats()
    return {
        "characters": size,
        "tokens_per_s": lines * 32 / took,
        "misses": after.adapter_misses - before.adapter_misses,
        "evictions": after.adapter_evictions - before.adapter_evictions,
        **gaps.told(),
    }


def visit(
    engine: Any, arguments: argparse.Namespace, *, loaded: bool, seed: int
) -> dict[str, float]:
    """All rows but one speak 200 tokens; visitors come by, `loaded` for it or already there."""
    chance, residents = random.Random(seed), arguments.rows - 1
    guests = list(range(residents, arguments.slots - 1))
    for npc in [*range(residents), *guests]:  # each in its slot
        line(engine, f"before {seed}/{npc}", npc, 4, 1, chance)
    while engine.has_work():
        engine.step()
    if loaded:
        first = arguments.slots + seed * 100
        guests = [npc % arguments.adapters for npc in range(first, first + 100)]
    for npc in range(residents):
        line(engine, f"resident {seed}/{npc}", npc, 4, 200, chance)
    while engine.stats().num_waiting or engine.stats().num_running < residents:
        engine.step()
    for _ in range(3):
        engine.step()
    before, gaps, visits = engine.stats(), Gaps("resident"), 0
    while engine.stats().num_running:
        if engine.stats().num_running + engine.stats().num_waiting == residents:
            line(engine, f"guest {seed}/{visits}", guests[visits % len(guests)], 4, 2, chance)
            visits += 1
        gaps.take(engine.step())
        if gaps.finished:
            break
    while engine.has_work():
        engine.step()
    misses = engine.stats().adapter_misses - before.adapter_misses
    return {"visits": visits, "misses": misses, **gaps.told()}


class Gaps:
    """Times between two tokens of a line, of lines whose names begin with `kind`."""

    def __init__(self, kind: str = "") -> None:
        self._kind, self._last, self._gaps = kind, dict[str, float](), list[float]()
        self.finished = False

    def take(self, events: list[Any]) -> None:
        """Look at a step's events, just now."""
        from engine.requests import Delta, Finished

        now = time.perf_counter()
        for event in events:
            if not event.request_id.startswith(self._kind):
                continue
            if isinstance(event, Delta):
                if event.request_id in self._last:
                    self._gaps.append(now - self._last[event.request_id])
                self._last[event.request_id] = now
            self.finished = self.finished or isinstance(event, Finished)

    def told(self) -> dict[str, float]:
        """In milliseconds."""
        gaps = sorted(self._gaps)
        return {
            "median_gap_ms": gaps[len(gaps) // 2] * 1e3,
            "p99_gap_ms": gaps[int(len(gaps) * 0.99)] * 1e3,
            "longest_gap_ms": gaps[-1] * 1e3,
        }


if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    sys.path.insert(0, str(ROOT))
    main()
