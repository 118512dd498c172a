"""Measures one replica for the planner: a step by its rows, a prompt's token, its memory.

    python bench/steps.py --base roles/worlds/biblioteca_eterna/models/npc-base \
        --adapters roles/worlds/biblioteca_eterna/models/adapters --out cluster/tables/npc-base.json

Every row speaks through an adapter of its own, as far as there are any. Times are medians over
the steps of a full batch, engine alone in its process. The last line is the table as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_TOKENS = 24


def main() -> None:
    """Measure, write, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--base", required=True, help="model folder")
    parser.add_argument("--adapters", type=Path, help="folder of adapter folders")
    parser.add_argument("--quantization", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--name", help="of the table (default: the base's folder)")
    parser.add_argument("--machine", help="what it was measured on, in words")
    parser.add_argument("--out", type=Path, help="write the table there")
    arguments = parser.parse_args()
    table = measure(arguments)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(table))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One engine, one batch size after the other."""
    from engine.bases import find_folder
    from engine.config import EngineConfig
    from engine.engine import build_engine

    folders = sorted(arguments.adapters.glob("*/adapter_config.json")) if arguments.adapters else []
    config = EngineConfig(
        base=arguments.base,
        quantization=arguments.quantization,
        threads=arguments.threads,
        max_rows=max(arguments.rows),
        adapter_slots=max(len(folders), 1),
    )
    engine = build_engine(config)
    names, sizes = [], [0]
    for file in folders:
        folder = file.parent
        if folder.name != "director":  # of another base
            info = engine.install_adapter(folder.name, engine.read_adapter(str(folder)), False)
            names.append(info.name)
            sizes.append(info.size_bytes)
    base_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    steps, prompts = [], []
    run(engine, names, max(arguments.rows), "warm")  # C kernels compile, memory is touched
    for rows in arguments.rows:
        step_ms, prompt_ms = run(engine, names, rows, "timed")
        steps.append([rows, round(step_ms, 3)])
        prompts.append(prompt_ms)
    told = json.loads((find_folder(arguments.base) / "config.json").read_text(encoding="utf-8"))
    heads = told.get("num_key_value_heads") or told["num_attention_heads"]
    size = told.get("head_dim") or told["hidden_size"] // told["num_attention_heads"]
    return {
        "name": arguments.name or Path(arguments.base).name,
        "machine": arguments.machine
        or f"{platform.processor() or platform.machine()}, "
        f"{arguments.threads} thread(s), {arguments.quantization}",
        "base_bytes": base_bytes,
        "adapter_bytes": max(sizes),
        "kv_bytes_per_token": 2 * told["num_hidden_layers"] * heads * size * 4,
        "prompt_ms_per_token": round(statistics.median(prompts), 4),
        "step_ms": steps,
    }


def run(engine: Any, names: list[str], rows: int, label: str) -> tuple[float, float]:
    """Milliseconds of a decoding step with so many rows, and of one token of a prompt."""
    from engine.requests import GenerationRequest, SamplingParams

    sampling = SamplingParams(max_tokens=_TOKENS, temperature=0.6, ignore_eos=True)
    for row in range(rows):
        prompt = f"{label} {rows} {row}: " + "What is kept behind the third shelf? " * 6
        adapter = names[row % len(names)] if names else None
        engine.add_request(
            GenerationRequest(
                request_id=f"{label}/{rows}/{row}",
                prompt=prompt,
                adapter=adapter,
                sampling=sampling,
            )
        )
    times, prompt_s, prompt_tokens = [], 0.0, 0
    while engine.has_work():
        before, began = engine.stats(), time.perf_counter()
        engine.step()
        took = time.perf_counter() - began
        after = engine.stats()
        if new := after.num_prompt_tokens - before.num_prompt_tokens:
            prompt_s += took
            prompt_tokens += new
        elif after.num_completion_tokens - before.num_completion_tokens == rows:
            times.append(took)
    return statistics.median(times) * 1e3, prompt_s * 1e3 / prompt_tokens


if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    sys.path.insert(0, str(ROOT))
    main()
