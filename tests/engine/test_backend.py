from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.backend import Backend, InlineBackend, SubprocessBackend
from engine.config import EngineConfig
from engine.errors import AdapterError, EngineError
from engine.requests import Delta, Event, Finished, GenerationRequest, Started
from tests.engine.conftest import request

TOY = "tests.engine.toy:build_toy"


def config(base: Path) -> EngineConfig:
    return EngineConfig(base=str(base), quantization="none", threads=1)


@pytest.fixture(params=[InlineBackend, SubprocessBackend])
async def backend(
    request: pytest.FixtureRequest, base: Path
) -> AsyncIterator[InlineBackend | SubprocessBackend]:
    made = request.param(config(base))
    await made.start()
    await made.wait_ready()
    yield made
    await made.close()


async def collect(backend: Backend, asked: GenerationRequest) -> list[Event]:
    return [event async for event in backend.submit(asked)]


async def test_requests_stream_through_a_backend(backend: Backend, adapters: list[Path]) -> None:
    info = await backend.load_adapter("voice", adapters[0])
    assert info.rank == 2
    asked = [request(str(n), adapter="voice" if n else None, ignore_eos=True) for n in range(2)]
    plain, voiced = await asyncio.gather(*(collect(backend, each) for each in asked))
    for events in (plain, voiced):
        assert isinstance(events[0], Started)
        assert isinstance(events[-1], Finished)
        assert sum(len(e.token_ids) for e in events if isinstance(e, Delta)) == 16
    assert isinstance(voiced[0], Started)
    assert voiced[0].adapter_digest == info.digest
    assert (await backend.stats()).num_completion_tokens == 32
    assert [known.name for known in await backend.adapters()] == ["voice"]


async def test_closing_the_iterator_cancels_the_request(backend: Backend) -> None:
    stream = backend.submit(request("left", max_tokens=400, ignore_eos=True))
    async for event in stream:
        if isinstance(event, Delta):
            break
    await stream.aclose()  # type: ignore[attr-defined]  # an async generator underneath
    async with asyncio.timeout(60):
        while (await backend.stats()).num_running > 0:
            await asyncio.sleep(0.01)


async def test_what_cannot_run_ends_as_one_error(backend: Backend, tmp_path: Path) -> None:
    (only,) = await collect(backend, request("lost", adapter="nobody"))
    assert isinstance(only, Finished)
    assert only.error is not None
    assert "no adapter named 'nobody'" in only.error
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        await backend.load_adapter("none", tmp_path)


async def test_a_base_that_cannot_load_fails_the_backend(tmp_path: Path) -> None:
    for kind in (InlineBackend, SubprocessBackend):
        backend = kind(config(tmp_path))
        await backend.start()
        with pytest.raises(EngineError, match=r"config\.json"):
            await backend.wait_ready()
        assert backend.state == "failed"
        await backend.close()


async def test_killed_worker_is_replaced_with_its_adapters(
    base: Path, adapters: list[Path]
) -> None:
    backend = SubprocessBackend(config(base))
    await backend.start()
    await backend.wait_ready()
    await backend.load_adapter("voice", adapters[0])
    before = await collect(backend, request("before", adapter="voice"))
    stream = backend.submit(request("during", max_tokens=450, ignore_eos=True))
    await anext(stream)
    assert backend.pid is not None
    os.kill(backend.pid, signal.SIGKILL)
    events = [event async for event in stream]
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "error"
    await backend.wait_ready()
    after = await collect(backend, request("after", adapter="voice"))
    assert [e.text for e in before if isinstance(e, Delta)] == [
        e.text for e in after if isinstance(e, Delta)
    ]
    await backend.close()
    assert backend.state == "closed"


async def lost(backend: SubprocessBackend, stream: AsyncIterator[Event]) -> str:
    """Why a stream that had begun ended with its engine; the next worker is ready."""
    async with asyncio.timeout(120):
        events = [event async for event in stream]
        await backend.wait_ready()
    assert isinstance(events[-1], Finished)
    assert events[-1].reason == "error"
    return events[-1].error or ""


async def toy(folder: Path, **settings: float) -> SubprocessBackend:
    backend = SubprocessBackend(EngineConfig(base=str(folder), **settings), TOY)  # type: ignore[arg-type]  # hang_s alone
    await backend.start()
    await backend.wait_ready()
    return backend


async def test_a_worker_whose_step_raises_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = await toy(tmp_path)
    streams = [backend.submit(request(name, max_tokens=100_000)) for name in ("a", "doomed")]
    await anext(streams[0])
    whys = await asyncio.gather(*(lost(backend, stream) for stream in streams))
    assert all("no memory for a step" in why for why in whys)
    assert "about to fall" in caplog.text  # its last words
    after = await collect(backend, request("c", max_tokens=3))
    assert [e.text for e in after if isinstance(e, Delta)] == ["3 ", "2 ", "1 "]
    assert backend.restarts == 1
    await backend.close()


async def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    backend = await toy(tmp_path, hang_s=1)
    assert backend.pid is not None
    os.kill(backend.pid, signal.SIGSTOP)
    stream = backend.submit(request("b", max_tokens=100_000))
    assert "hung" in await lost(backend, stream)
    await backend.close()


async def test_a_worker_that_hangs_dies_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from engine.backend import SubprocessBackend\n"
        "from engine.config import EngineConfig\n"
        "async def main():\n"
        "    config = EngineConfig(base=sys.argv[1])\n"
        "    backend = SubprocessBackend(config, 'tests.engine.toy:build_toy')\n"
        "    await backend.start()\n"
        "    await backend.wait_ready()\n"
        "    print(backend.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    worker = int(await parent.stdout.readline())
    os.kill(worker, signal.SIGSTOP)
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(60):
        while Path(f"/proc/{worker}/stat").exists() and not is_zombie(worker):
            await asyncio.sleep(0.05)


def is_zombie(pid: int) -> bool:
    """Whether a process has ended and nobody has asked for its code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_closing_while_a_worker_is_being_started_ends_it(tmp_path: Path) -> None:
    backend = SubprocessBackend(config(tmp_path), TOY)
    await backend.start()
    await asyncio.sleep(0)  # its process is on the way, and nobody holds it yet
    await backend.close()
    assert backend.state == "closed"
    assert backend.pid is None
