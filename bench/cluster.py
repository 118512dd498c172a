"""What a cluster costs and brings: overhead, scaling, routing; all on this machine.

    python bench/cluster.py paths      # one replica: subprocess, Ray as served, Ray otherwise
    python bench/cluster.py scaling    # 1, 2, 4 replicas of one thread
    python bench/cluster.py routing    # by adapter and conversation, against at random

It starts a Ray of its own with as many cores as replicas ask for, and ends it. `paths` measures
three ways through Ray: reports of a moment in one stream per replica (what cluster/ does), one
streaming call per request on a plain actor, and the same through a Ray Serve deployment (left out
where `ray[serve]` is not installed). The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.cluster_peers import ActorPerRequest, ServePerRequest  # noqa: E402
from cluster.link import Placement  # noqa: E402
from cluster.pool import PoolConfig, RayBackend  # noqa: E402
from cluster.routing import Route, Seat, choose  # noqa: E402
from engine.backend import SubprocessBackend  # noqa: E402
from engine.config import EngineConfig  # noqa: E402
from engine.requests import (  # noqa: E402
    Delta,
    Finished,
    GenerationRequest,
    Message,
    SamplingParams,
    Segment,
)

STARTER = ROOT / "roles" / "worlds" / "biblioteca_eterna" / "models"
MODELS = {"base": STARTER / "npc-base", "adapters": STARTER / "adapters"}  # `--models` sets them
_TOKENS = 40


def main() -> None:
    """Measure one of the three, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=["paths", "scaling", "routing"])
    parser.add_argument("--lines", type=int, default=96, help="lines per measurement")
    parser.add_argument("--at-once", type=int, default=16, help="lines spoken at once, per replica")
    parser.add_argument("--singles", type=int, default=30, help="lines alone, for the first token")
    parser.add_argument("--paths", nargs="+", default=[], help="only these, by their names")
    parser.add_argument("--rounds", type=int, default=3, help="of all paths, one after another")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument(
        "--models", type=Path, help="a folder with base/ and adapters, as thousand.py --work keeps"
    )
    arguments = parser.parse_args()
    if arguments.models:
        MODELS.update(base=arguments.models / "base", adapters=arguments.models)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as store:
        report = asyncio.run(
            {"paths": paths, "scaling": scaling, "routing": routing}[arguments.what](
                arguments, store
            )
        )
    print(json.dumps(report))


class Rows(list[dict[str, Any]]):
    """What was measured; each row is shown as soon as it is there."""

    def append(self, row: dict[str, Any]) -> None:
        """Show and keep a row."""
        print(row, flush=True)
        super().append(row)


async def paths(arguments: argparse.Namespace, store: str) -> dict[str, Any]:
    """One replica, reached in several ways, one after another in each round."""
    start_ray(2)
    made: dict[str, Callable[[], Any]] = {
        "subprocess": lambda: SubprocessBackend(config()),
        "ray": lambda: ray_backend(store, 1),
        "ray, one call per request": lambda: ActorPerRequest(config()),
        "ray serve": lambda: ServePerRequest(config()),
    }
    names = arguments.paths or list(made)
    rows = Rows()
    for number, name in itertools.product(range(arguments.rounds), names):
        try:
            backend = made[name]()
        except ImportError as error:
            rows.append({"path": name, "left_out": str(error)})
            continue
        await prepare(backend)
        alone = await singles(backend, arguments.singles)
        speed = await crowd(backend, arguments, 1)
        rows.append({"round": number, "path": name, **alone, **speed})
        await backend.close()
    return {"rows": rows, "against_subprocess": {name: against(rows, name) for name in names}}


def against(rows: Rows, name: str) -> dict[str, float]:
    """Medians over the rounds of what a path adds to `subprocess` in the same round."""
    found = {
        path: [row for row in rows if row["path"] == path and "left_out" not in row]
        for path in ("subprocess", name)
    }
    pairs = list(zip(found["subprocess"], found[name], strict=False))
    if not pairs:
        return {}
    more = [own["first_token_p50_ms"] - other["first_token_p50_ms"] for other, own in pairs]
    share = [own["tokens_per_s"] / other["tokens_per_s"] for other, own in pairs]
    told = {
        "first_token_p50_ms_more": round(statistics.median(more), 2),
        "throughput_share": round(statistics.median(share), 3),
        "throughput_share_least": round(min(share), 3),
    }
    print(name, told, flush=True)
    return told


async def scaling(arguments: argparse.Namespace, store: str) -> dict[str, Any]:
    """More replicas, each on a core of its own as far as there are any.

    As many engines beside each other without Ray show what the machine itself allows: memory
    and cores are shared, also with this process.
    """
    start_ray(max(arguments.replicas))
    rows = Rows()
    made: dict[str, Callable[[int], Any]] = {
        "ray": lambda num: ray_backend(store, num),
        "processes": Beside,
    }
    for number, path in itertools.product(range(arguments.rounds), made):
        alone = 0.0
        for num in arguments.replicas:
            backend = made[path](num)
            await prepare(backend)
            speed = (await crowd(backend, arguments, num))["tokens_per_s"]
            alone = alone or speed / num
            of_linear = round(speed / num / alone, 3)
            told = {"replicas": num, "tokens_per_s": speed, "of_linear": of_linear}
            rows.append({"round": number, "path": path, **told})
            await backend.close()
    return {"cores": os.cpu_count(), "rows": rows}


async def routing(arguments: argparse.Namespace, store: str) -> dict[str, Any]:
    """Conversations of eight characters on replicas with two slots each."""
    num = max(arguments.replicas)
    start_ray(num)
    rows = Rows()
    for name, route in (("by adapter and conversation", choose), ("at random", at_random)):
        backend = ray_backend(store, num, route, adapter_slots=2, max_rows=8)
        await prepare(backend)
        row: dict[str, Any] = {"routing": name, **await conversations(backend, arguments)}
        stats = await backend.stats()
        uses = stats.adapter_hits + stats.adapter_misses
        row["adapter_hit_rate"] = round(stats.adapter_hits / max(uses, 1), 3)
        row["cached_prompt_share"] = round(stats.num_cached_tokens / stats.num_prompt_tokens, 3)
        rows.append(row)
        await backend.close()
    return {"replicas": num, "rows": rows}


def start_ray(cpus: int) -> None:
    """A cluster of one node, for this process alone."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0")  # cluster/trial.py
    os.environ.setdefault("RAY_agent_register_timeout_ms", "300000")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    import ray

    ray.init(
        num_cpus=cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=150 << 20,
    )


def config(**settings: Any) -> EngineConfig:
    """The characters on one thread."""
    told = {"adapter_slots": 8, "context_tokens": 640, "cache_bytes": 64 << 20, **settings}
    return EngineConfig(base=str(MODELS["base"]), quantization="int8", threads=1, **told)


def ray_backend(store: str, num: int, route: Route = choose, **settings: Any) -> RayBackend:
    """A tier of `num` replicas."""
    placement = Placement(cpus=1, waiting=64, store=store)
    pool = PoolConfig(least=num, most=num, placement=placement)
    return RayBackend(config(**settings), pool, route=route)


async def prepare(backend: Any) -> None:
    """Start, load every character, let each replica speak once."""
    await backend.start()
    await backend.wait_ready()
    links = getattr(backend, "replicas", [])
    await asyncio.gather(*(link.wait_ready() for link in links))
    for name in names():
        await backend.load_adapter(name, MODELS["adapters"] / name)
    rounds = [line(f"warm {n}", names()[n % len(names())], "Hello?") for n in range(8)]
    for _ in range(max(len(links), 1)):
        await asyncio.gather(*(listen(backend, each) for each in rounds))


def names() -> list[str]:
    """The characters that have an adapter."""
    found = sorted(path.parent.name for path in MODELS["adapters"].glob("*/adapter_config.json"))
    return [name for name in found if name != "director"][:8]


def line(request_id: str, adapter: str, *said: str) -> GenerationRequest:
    """A line of fixed length; odd turns are the character's own."""
    who = f"You are {adapter}, one of eight who keep the library. You speak in short sentences."
    roles = ("user", "assistant")
    messages = [Message(role="system", segments=(Segment(kind="persona", text=who),))]
    for number, text in enumerate(said):
        messages.append(
            Message(role=roles[number % 2], segments=(Segment(kind="said", text=text),))  # type: ignore[arg-type]
        )
    sampling = SamplingParams(max_tokens=_TOKENS, temperature=0.0, ignore_eos=True)
    return GenerationRequest(
        request_id=request_id, prompt=tuple(messages), adapter=adapter, sampling=sampling
    )


async def listen(backend: Any, request: GenerationRequest) -> tuple[float, float, str]:
    """Milliseconds to the first token and to the last, and the words."""
    began, first, text = time.perf_counter(), 0.0, ""
    async for event in backend.submit(request):
        now = time.perf_counter()
        if isinstance(event, Delta):
            first = first or now
            text += event.text
        elif isinstance(event, Finished) and event.reason != "length":
            raise SystemExit(f"a line ended as {event.reason}: {event.error}")
    return (first - began) * 1e3, (time.perf_counter() - began) * 1e3, text


async def singles(backend: Any, num: int) -> dict[str, float]:
    """One line after the other: the first token without a queue."""
    firsts = []
    for n in range(num):
        asked = line(f"single {n}", names()[n % len(names())], f"What is on shelf {n}?")
        firsts.append((await listen(backend, asked))[0])
    return {
        "first_token_p50_ms": round(statistics.median(firsts), 2),
        "first_token_p95_ms": round(sorted(firsts)[len(firsts) * 95 // 100], 2),
    }


async def crowd(backend: Any, arguments: argparse.Namespace, replicas: int) -> dict[str, float]:
    """Always the same number of lines at once, per replica."""
    waiting = iter(range(arguments.lines * replicas))

    async def speak() -> None:
        for n in waiting:
            adapter = names()[n % len(names())]
            await listen(backend, line(f"crowd {n}", adapter, f"What is on shelf {n}?"))

    began = time.perf_counter()
    await asyncio.gather(*(speak() for _ in range(arguments.at_once * replicas)))
    took = time.perf_counter() - began
    return {"tokens_per_s": round(arguments.lines * replicas * _TOKENS / took, 1)}


async def conversations(backend: Any, arguments: argparse.Namespace) -> dict[str, float]:
    """Talks of six turns, four at once per replica; the first token of every later turn."""
    chance, firsts = random.Random(7), []
    talks = iter(range(arguments.lines // 2))

    async def talk() -> None:
        for n in talks:
            adapter, said = chance.choice(names()), list[str]()
            for turn in range(6):
                said.append(f"Tell me of shelf {n * 10 + turn}, and of who keeps it tonight.")
                first, _, text = await listen(backend, line(f"t{n}.{turn}", adapter, *said))
                said.append(text)
                if turn:
                    firsts.append(first)

    await asyncio.gather(*(talk() for _ in range(4 * max(arguments.replicas))))
    firsts.sort()
    return {
        "first_token_p50_ms": round(firsts[len(firsts) // 2], 1),
        "first_token_p95_ms": round(firsts[len(firsts) * 95 // 100], 1),
    }


def at_random(seats: Sequence[Seat], request: GenerationRequest) -> Seat | None:
    """Any open seat with room."""
    free = [seat for seat in seats if seat.open and seat.live < seat.limit]
    return random.choice(free) if free else None


class Beside:
    """Engines in processes of their own, a request to the one with the fewest; no Ray."""

    def __init__(self, num: int) -> None:
        self._engines = [SubprocessBackend(config()) for _ in range(num)]
        self._live = [0] * num

    async def start(self) -> None:
        """Start them all."""
        await asyncio.gather(*(engine.start() for engine in self._engines))

    async def wait_ready(self) -> None:
        """Until all are."""
        await asyncio.gather(*(engine.wait_ready() for engine in self._engines))

    async def load_adapter(self, name: str, path: Path) -> None:
        """Load it everywhere."""
        await asyncio.gather(*(engine.load_adapter(name, path) for engine in self._engines))

    async def submit(self, request: GenerationRequest) -> AsyncIterator[Any]:
        """On the one with the fewest requests."""
        least = self._live.index(min(self._live))
        self._live[least] += 1
        async for event in self._engines[least].submit(request):
            yield event
        self._live[least] -= 1

    async def close(self) -> None:
        """End them all."""
        await asyncio.gather(*(engine.close() for engine in self._engines))


if __name__ == "__main__":
    main()
