"""Real clusters of three node processes on this machine: `make test-cluster`."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from cluster.link import Placement
from cluster.parcel import describe
from cluster.pool import PoolConfig, RayBackend
from cluster.replica import Replica
from engine.backend import Backend, InlineBackend
from engine.config import EngineConfig
from engine.errors import AdapterError, BackendError
from engine.requests import Delta, Finished, GenerationRequest, SamplingParams, Started
from protocol import administration as admin
from protocol.async_client import AsyncClient
from protocol.server import Server, ServerConfig
from roles.dialogues.checking import scripts_of
from roles.dialogues.hosting import with_backends
from roles.dialogues.instruments import read_instruments
from roles.dialogues.rehearsal import Rehearsals
from roles.dialogues.runner import check
from roles.dialogues.stage import in_process
from roles.engines import TIERS
from roles.manager import Manager
from roles.play import Player
from roles.screen import Screen
from roles.script import demo_of, read_script
from roles.store import Store
from roles.world import World
from tests.cluster.test_world import host, spoken, with_npcs_on
from tests.roles.test_manager import ask

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install .[cluster]")
# On a busy machine Ray's own processes start slowly; by default it gives up after seconds.
PATIENCE = {
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_USAGE_STATS_ENABLED": "0",
}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without cores of its own and two nodes with room for two replicas each."""
    os.environ |= PATIENCE
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=2)
    yield made
    ray.shutdown()
    made.shutdown()


def engine_config(base: Path, **settings: Any) -> EngineConfig:
    return EngineConfig(base=str(base), quantization="int8", threads=1, **settings)


def backend_of(cluster: Any, config: EngineConfig, store: Path, **settings: Any) -> RayBackend:
    placement = Placement(cpus=1, waiting=settings.pop("waiting", 32), store=str(store / "parcels"))
    settings = {"least": 2, "most": 2, **settings}
    return RayBackend(config, PoolConfig(address=cluster.address, placement=placement, **settings))


@pytest.fixture
async def backend(cluster: Any, base: Path, tmp_path: Path) -> AsyncIterator[RayBackend]:
    made = backend_of(cluster, engine_config(base), tmp_path)
    await made.start()
    await all_ready(made)
    yield made
    await made.close()


async def all_ready(backend: RayBackend) -> None:
    await backend.wait_ready()
    await asyncio.gather(*(link.wait_ready() for link in backend.replicas))


def asked(name: str, **settings: Any) -> GenerationRequest:
    own = {key: settings.pop(key) for key in ("adapter", "deadline_ms") if key in settings}
    sampling = SamplingParams(**{"max_tokens": 24, "ignore_eos": True, **settings})
    return GenerationRequest(
        request_id=name, prompt=f"Good evening, {name}.", sampling=sampling, **own
    )


async def collect(backend: Backend, request: GenerationRequest) -> tuple[str, Finished]:
    events = [event async for event in backend.submit(request)]
    assert isinstance(events[-1], Finished)
    assert sum(isinstance(event, Started) for event in events) <= 1
    assert sum(isinstance(event, Finished) for event in events) == 1
    return "".join(event.text for event in events if isinstance(event, Delta)), events[-1]


async def test_words_are_those_of_one_engine(
    backend: RayBackend, base: Path, adapter: Path
) -> None:
    alone = InlineBackend(engine_config(base))
    await alone.start()
    await alone.wait_ready()
    loaded = [await each.load_adapter("voice", adapter) for each in (alone, backend)]
    assert loaded[0].digest == loaded[1].digest
    assert loaded[1].path == str(adapter)
    requests = [asked(str(n), adapter="voice" if n % 2 else None, seed=n) for n in range(12)]
    here = await asyncio.gather(*(collect(alone, each) for each in requests))
    there = await asyncio.gather(*(collect(backend, each) for each in requests))
    assert [text for text, _ in there] == [text for text, _ in here]
    assert all(len(link.seat.talks._keys) > 0 for link in backend.replicas)  # both had a part
    assert (await backend.stats()).num_completion_tokens == 12 * 24
    assert [info.name for info in await backend.adapters()] == ["voice"]
    await alone.close()


async def test_cancel_close_and_deadline_reach_the_replica(backend: RayBackend) -> None:
    stream = backend.submit(asked("left", max_tokens=400))
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]  # an async generator underneath
    stream = backend.submit(asked("cancelled", max_tokens=400))
    await anext(stream)
    assert await backend.cancel("cancelled")
    events = [event async for event in stream]
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "cancelled"
    _, last = await collect(backend, asked("late", max_tokens=400, deadline_ms=5))
    assert last.reason == "expired"
    await idle(backend)


async def idle(backend: RayBackend) -> None:
    """Return when no replica has anything left; the test's time limit ends it otherwise."""
    while True:
        stats = await backend.stats()
        if stats.num_running == stats.num_waiting == 0:
            break
        await asyncio.sleep(0.05)
    assert [link.seat.live for link in backend.replicas] == [0] * len(backend.replicas)


async def test_what_cannot_run_is_told_in_a_sentence(backend: RayBackend, tmp_path: Path) -> None:
    _, last = await collect(backend, asked("lost", adapter="nobody"))
    assert "no adapter named 'nobody'" in (last.error or "")
    with pytest.raises(AdapterError, match="no folder"):
        await backend.load_adapter("none", tmp_path / "none")
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        await backend.load_adapter("none", tmp_path)
    elsewhere = RayBackend(EngineConfig(base="x"), PoolConfig(address="auto", least=1))
    assert elsewhere.state == "starting"


async def test_full_replicas_are_busy_at_once(cluster: Any, base: Path, tmp_path: Path) -> None:
    config = engine_config(base, max_rows=1)
    backend = backend_of(cluster, config, tmp_path, waiting=0, least=1, most=1)
    await backend.start()
    await backend.wait_ready()
    stream = backend.submit(asked("long", max_tokens=400))
    await anext(stream)
    _, last = await collect(backend, asked("more"))
    assert last.reason == "busy"
    assert "every replica is full" in (last.error or "")
    await stream.aclose()  # type: ignore[attr-defined]  # an async generator underneath
    await backend.close()


async def test_content_travels_and_is_verified(
    cluster: Any, adapter: Path, tmp_path: Path, backend: RayBackend
) -> None:
    actor = ray.remote(Replica).options(num_cpus=0).remote(str(tmp_path / "store"))
    here = describe(adapter)
    foreign = replace(here, root="/nowhere").pack()  # as on another machine
    assert await actor.find.remote(foreign) == ""
    contents = [(Path(here.root) / name).read_bytes() for name, _ in here.files]
    kept = Path(await actor.keep.remote(foreign, [ray.put(content) for content in contents]))
    assert kept == tmp_path / "store" / here.digest / here.entry
    assert await actor.find.remote(foreign) == str(kept)
    assert describe(kept).digest == here.digest
    wrong = [ray.put(content + b"!") for content in contents]
    with pytest.raises(BackendError, match="did not arrive as it was sent"):
        await actor.keep.remote(foreign, wrong)
    next(kept.iterdir()).write_bytes(b"damaged")
    assert await actor.find.remote(foreign) == ""
    ray.kill(actor)


async def test_an_engine_that_falls_or_hangs_is_replaced(cluster: Any, tmp_path: Path) -> None:
    placement = Placement(cpus=1, store=str(tmp_path / "parcels"))
    pool = PoolConfig(address=cluster.address, placement=placement)
    config = EngineConfig(base=str(tmp_path), hang_s=1)
    backend = RayBackend(config, pool, "tests.engine.toy:build_toy")
    await backend.start()
    await backend.wait_ready()
    _, last = await collect(backend, asked("doomed"))
    assert "no memory for a step" in (last.error or "")
    assert backend.restarts == 2  # it was tried once more: nothing was said
    await backend.wait_ready()
    _, last = await collect(backend, asked("sleepy"))
    assert last.reason == "error"
    assert backend.restarts == 4
    await backend.wait_ready()
    text, _ = await collect(backend, asked("well", max_tokens=2))
    assert text == "2 1 "
    await backend.close()


async def test_replicas_are_replaced_under_load_without_a_broken_stream(
    backend: RayBackend,
) -> None:
    before = {link.seat.name for link in backend.replicas}
    talking = [
        asyncio.create_task(collect(backend, asked(f"t{n}", max_tokens=200))) for n in range(8)
    ]
    await asyncio.sleep(0)
    await backend.replace_all()
    assert {last.reason for _, last in await asyncio.gather(*talking)} == {"length"}
    assert before.isdisjoint(link.seat.name for link in backend.replicas)
    assert len(backend.replicas) == 2
    assert backend.restarts == 0


async def test_a_node_killed_under_64_streams(cluster: Any, base: Path, tmp_path: Path) -> None:
    config = engine_config(base, max_rows=4)  # few at once: most still wait when the node dies
    backend = backend_of(cluster, config, tmp_path, waiting=64)
    await backend.start()
    await all_ready(backend)
    before = await collect(backend, asked("same", seed=9))
    streams = [
        asyncio.create_task(collect(backend, asked(f"s{n}", max_tokens=300))) for n in range(64)
    ]
    while (await backend.stats()).num_completion_tokens < 200:
        await asyncio.sleep(0.02)
    victim = next(node for node in cluster.worker_nodes if node.node_id == backend.replicas[0].node)
    await asyncio.to_thread(cluster.remove_node, victim, False)
    ends = Counter(last.reason for _, last in await asyncio.gather(*streams))
    assert set(ends) <= {"length", "error"}
    assert ends["length"] > 0
    assert backend.state == "ready"
    assert backend.restarts >= 1
    assert await collect_text(backend, "same") == before[0]
    await all_ready(backend)
    await idle(backend)
    await backend.close()
    cluster.add_node(num_cpus=2)


async def collect_text(backend: RayBackend, name: str) -> str:
    text, last = await collect(backend, asked(name, seed=9))
    assert last.reason == "length"
    return text


def starter_on(cluster: Any, folder: Path) -> World:
    """The starter world, all its tiers on the cluster, its characters on two replicas."""
    world = World.load()
    tiers = {}
    for name, num in (("director", 1), ("npc", 2), ("book", 1)):
        table = getattr(world.spec.tiers, name)
        replicas = table.replicas.model_copy(
            update={
                "address": cluster.address,
                "least": num,
                "most": num,
                "cpus": 1.0,
                "waiting": 64,
                "store": str(folder / "parcels"),
            }
        )
        tiers[name] = table.model_copy(update={"backend": "ray", "replicas": replicas})
    spec = world.spec.model_copy(update={"tiers": world.spec.tiers.model_copy(update=tiers)})
    return replace(world, spec=spec)


async def starter_words(world: World) -> tuple[list[str], str, int]:
    """What the demo's first round says, and the digest and number of the scripts' lines."""
    manager = Manager(world, Store())
    manager.house.deadline_ms = 600_000
    await manager.start()
    await manager.wait_ready()
    for engine in manager.house.engines:
        assert not engine.error, engine.error
        if isinstance(engine.backend, RayBackend):
            await all_ready(engine.backend)
    server = Server(manager, ServerConfig(connection=None))
    await server.start()
    async with AsyncClient(server.connection) as client:
        screen = Screen(Console(file=io.StringIO()))
        player = Player(client, screen, world, seed=7)
        await player.wait_until_loaded()
        await player.perform(read_script(demo_of(world.root, 1), frozenset(world.agents)))
        lines: admin.LinesReply = await client.request("lines", admin.LinesRequest(limit=100))
    await server.close()
    rehearsals = Rehearsals(manager.house, manager)
    sources = [
        replace(one, script=one.script.model_copy(update={"seeds": 1})) for one in scripts_of(world)
    ]
    verdict = await check(sources, world, in_process(rehearsals), read_instruments(world))
    rehearsals.close()
    await manager.close()
    assert verdict.num_lines > 0
    words = sorted(f"{line.line} {line.agent}: {line.text}" for line in lines.lines)
    return words, verdict.digest, verdict.num_lines


async def test_the_starter_world_says_on_a_cluster_what_it_says_in_processes(
    cluster: Any, tmp_path: Path
) -> None:
    there = await starter_words(starter_on(cluster, tmp_path))
    here = await starter_words(with_backends(World.load(), TIERS))
    assert len(here[0]) > 5
    assert there == here
    print(f"{len(here[0])} lines of the demo, {here[2]} of the scripts: {here[1]}")


async def test_a_world_on_a_cluster_says_the_same_and_tells_of_restarts(
    cluster: Any, house: Path, tmp_path: Path
) -> None:
    here = await host(house)
    words = await spoken(here)
    await here.close()
    told = f'backend = "ray"\nreplicas = {{ address = "{cluster.address}", least = 2, most = 2, '
    told += f'store = "{tmp_path / "parcels"}" }}'
    there = await host(with_npcs_on(house, tmp_path, told))
    notices: list[str] = []
    there.house.notify = lambda notice: notices.append(notice.message)
    backend = there.house.engines["npc"].backend
    assert isinstance(backend, RayBackend)
    await all_ready(backend)
    assert await spoken(there) == words
    os.kill(backend.replicas[0].pid, signal.SIGKILL)
    while not notices:
        await asyncio.sleep(0.05)
    assert notices == ["the npc engine is ready"]
    stats = cast(admin.StatsReply, (await ask(there, "stats", admin.StatsRequest()))[0])
    assert [info.restarts for info in stats.engines if info.tier == "npc"] == [1]
    assert await spoken(there) == words
    await there.close()
