"""How fast do N characters talk, each with an adapter of its own? Ours against what exists.

    python bench/tavern.py --npcs 16 --turns 3 --threads 4 --json

Every path runs in a child process of this one, on the same base, adapters and prompts. A base
of SmolLM2-135M's shape with random weights is made on demand; `--base` takes any other, whose
tokenizer is replaced by one that has a word per token, so that all paths see the same ids.
Peers that are not installed are left out. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PATHS = (
    "ours int8",
    "ours int8 base only",
    "ours fp32",
    "ours fp32 torch",
    "peft one at a time",
    "peft adapter_names",
    "transformers continuous batching",
    "llama.cpp q8_0 one decode per adapter",
    "llama.cpp q8_0 one batch, no adapters",
    "llama.cpp f32 one decode per adapter",
)
SHAPE = {  # SmolLM2-135M
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run: where the models lie, and who says how much."""

    base: str
    adapters: list[str]
    npcs: int
    turns: int
    persona_tokens: int
    line_tokens: int
    new_tokens: int
    threads: int
    arrivals_per_s: float
    vocabulary: int
    seed: int

    def words(self, *what: object, count: int) -> list[int]:
        """Token ids that are the same in every path."""
        chance = random.Random(repr((self.seed, what)))
        return [chance.randrange(10, self.vocabulary) for _ in range(count)]

    def prompt(self, npc: int) -> list[int]:
        """A character's persona and the first line said to it."""
        persona = self.words("persona", npc, count=self.persona_tokens - self.line_tokens)
        return persona + self.words("line", npc, 0, count=self.line_tokens)


@dataclass
class Clock:
    """When each token of each line came, in seconds."""

    asked: dict[str, float]
    tokens: dict[str, list[float]]
    began: float = 0.0

    def report(self, new_tokens: int) -> dict[str, float]:
        """Rates and waits over everything that was said."""
        first = [times[0] - self.asked[line] for line, times in self.tokens.items()]
        gaps = [b - a for t in self.tokens.values() for a, b in itertools.pairwise(t)]
        ended = max(times[-1] for times in self.tokens.values())
        total = new_tokens * len(self.tokens)
        # Decoding proper: while every line of a turn has had its first token.
        spans, spoken = 0.0, 0
        warm = [t[0] - self.asked[s] for s, t in self.tokens.items() if not s.endswith("/0")]
        for turn in {line.split("/")[1] for line in self.tokens}:
            times = [t for line, t in self.tokens.items() if line.split("/")[1] == turn]
            start, end = max(t[0] for t in times), max(t[-1] for t in times)
            spans += end - start
            spoken += sum(1 for t in times for at in t if at > start)
        gap = statistics.median(gaps) if gaps else 0.0
        return {
            "decode_tokens_per_s": spoken / spans if spans else 0.0,
            "whole_run_tokens_per_s": total / (ended - self.began),
            "first_token_p50_ms": statistics.median(first) * 1e3,
            "first_token_p95_ms": sorted(first)[math.ceil(0.95 * len(first)) - 1] * 1e3,
            "longest_gap_ms": max(gaps, default=0.0) * 1e3,
            "median_gap_ms": gap * 1e3,
            # Of later turns, whose persona and history are in the cache.
            "warm_first_token_steps": statistics.median(warm) / gap if warm and gap else 0.0,
        }


def main() -> None:
    """Run every path that can run here, and print a table and one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--base", type=Path, help="model folder (default: random, 135M)")
    parser.add_argument("--npcs", type=int, default=16, help="characters, one adapter each")
    parser.add_argument("--turns", type=int, default=1, help="lines each is asked for")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--persona", type=int, default=200, help="tokens of the first prompt")
    parser.add_argument("--line", type=int, default=30, help="tokens of each further line")
    parser.add_argument("--new", type=int, default=32, help="tokens of each reply")
    parser.add_argument("--arrivals", type=float, default=0.0, help="per second; 0: all at once")
    parser.add_argument("--only", nargs="*", choices=PATHS, help="paths to run (default: all)")
    parser.add_argument("--work", type=Path, help="keeps the random models (default: temporary)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the JSON document only")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument(
        "--llama-python", default=sys.executable, help="interpreter that has llama-cpp-python"
    )
    arguments = parser.parse_args()
    if arguments.child:
        run_child(arguments.child)
        return
    with tempfile.TemporaryDirectory() as temporary:
        plan = make_plan(arguments, arguments.work or Path(temporary))
        results = {}
        for path in arguments.only or PATHS:
            llama = path.startswith("llama")
            interpreter = arguments.llama_python if llama else sys.executable
            results[path] = spawn(interpreter, path, plan)
            if not arguments.json:
                show(path, results[path])
    print(json.dumps({"plan": asdict(plan), "results": results, "ratios": ratios(results)}))


def make_plan(arguments: argparse.Namespace, work: Path) -> Plan:
    """Make (or find) the models, and say what runs on them."""
    command = [sys.executable, "-c", "import bench.tavern_models as m; m.main()", str(work)]
    command += [str(arguments.npcs), str(arguments.base or ""), json.dumps(SHAPE)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    config = json.loads((work / "base" / "config.json").read_text())
    return Plan(
        base=str(work / "base"),
        adapters=[str(work / f"adapter{number}") for number in range(arguments.npcs)],
        npcs=arguments.npcs,
        turns=arguments.turns,
        persona_tokens=arguments.persona,
        line_tokens=arguments.line,
        new_tokens=arguments.new,
        threads=arguments.threads,
        arrivals_per_s=arguments.arrivals,
        vocabulary=config["vocab_size"],
        seed=arguments.seed,
    )


def spawn(interpreter: str, path: str, plan: Plan) -> dict[str, Any]:
    """One path in a process of its own: its report, or why it did not run."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(plan.threads), GOMP_SPINCOUNT="1000")
    request = json.dumps({"path": path, "plan": asdict(plan)})
    command = [interpreter, str(Path(__file__)), "--child", request]
    outcome = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    if outcome.returncode:
        return {"skipped": outcome.stderr.strip().splitlines()[-1]}
    found: dict[str, Any] = json.loads(outcome.stdout.strip().splitlines()[-1])
    return found


def show(path: str, result: dict[str, Any]) -> None:
    """One line of the table."""
    if "skipped" in result:
        print(f"{path:<38} skipped: {result['skipped'][:90]}", flush=True)
        return
    print(
        f"{path:<38} decode {result['decode_tokens_per_s']:7.1f} tok/s, "
        f"run {result['whole_run_tokens_per_s']:6.1f} tok/s, first token "
        f"{result['first_token_p50_ms']:6.0f}/{result['first_token_p95_ms']:6.0f} ms, "
        f"longest gap {result['longest_gap_ms']:6.0f} ms, {result['peak_memory_mb']:5.0f} MB",
        flush=True,
    )


def ratios(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Our decode rate over each other path's."""
    ours = results.get("ours int8", {}).get("decode_tokens_per_s")
    rates = {path: found.get("decode_tokens_per_s") for path, found in results.items()}
    return {path: ours / rate for path, rate in rates.items() if ours and rate}


def run_child(request: str) -> None:
    """Run one path in this process and print its report."""
    asked = json.loads(request)
    path, plan = asked["path"], Plan(**asked["plan"])
    runner: Callable[[Plan, str], Clock]
    if path.startswith("llama"):
        from bench.tavern_llama import run_llama as runner
    else:
        from bench.tavern_paths import RUNNERS

        runner = RUNNERS[path.split()[0]]
    clock = runner(plan, path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(clock.report(plan.new_tokens) | {"peak_memory_mb": peak}))


def new_clock() -> Clock:
    """A clock that starts now."""
    return Clock(asked={}, tokens={}, began=time.perf_counter())


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
