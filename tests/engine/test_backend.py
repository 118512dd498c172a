from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.backend import Backend, InlineBackend, SubprocessBackend
from engine.config import EngineConfig
from engine.errors import AdapterError, EngineError
from engine.requests import Delta, Event, Finished, GenerationRequest, Started
from tests.engine.conftest import request


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
    for _ in range(100):
        if (await backend.stats()).num_running == 0:
            return
        await asyncio.sleep(0.01)
    pytest.fail("the request still runs")


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
