from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import EngineConfig
from engine.engine import Engine, build_engine
from engine.requests import Delta, Event, Finished, GenerationRequest, SamplingParams
from tests.tiny_models import tiny_adapter, tiny_base

torch.set_num_threads(1)  # tiny products only get slower on more

Words = dict[str, list[int]]


def request(request_id: str, prompt: str = "Good evening.", **settings: Any) -> GenerationRequest:
    """A raw request; settings of GenerationRequest or SamplingParams, greedy by default."""
    own = {"adapter", "priority", "deadline_ms"}
    sampling = {"temperature": 0.0, "max_tokens": 16} | {
        name: value for name, value in settings.items() if name not in own
    }
    rest = {name: value for name, value in settings.items() if name in own}
    return GenerationRequest(
        request_id=request_id, prompt=prompt, sampling=SamplingParams(**sampling), **rest
    )


def drain(engine: Engine) -> list[Event]:
    """Step until nothing is live."""
    events: list[Event] = []
    while engine.has_work():
        events += engine.step()
    return events


def run(engine: Engine, requests: Iterable[GenerationRequest]) -> Words:
    """Token ids of each request, all submitted at once."""
    for each in requests:
        engine.add_request(each)
    words: Words = {}
    for event in drain(engine):
        if isinstance(event, Delta):
            words.setdefault(event.request_id, []).extend(event.token_ids)
        elif isinstance(event, Finished):
            assert event.error is None, event.error
            words.setdefault(event.request_id, [])
    return words


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return [tiny_adapter(folder / f"a{i}", base, seed=i, rank=2 + i) for i in range(6)]


@pytest.fixture
def make_engine(base: Path, adapters: list[Path]) -> Callable[..., Engine]:
    """An engine in fp32 with the adapters loaded as a0, a1 ..."""

    def make(**settings: Any) -> Engine:
        config: dict[str, Any] = {"base": str(base), "quantization": "none", **settings}
        engine = build_engine(EngineConfig(**config))
        for number, path in enumerate(adapters):
            engine.install_adapter(f"a{number}", engine.read_adapter(str(path)), False)
        return engine

    return make


@pytest.fixture
def engine(make_engine: Callable[..., Engine]) -> Engine:
    return make_engine()
