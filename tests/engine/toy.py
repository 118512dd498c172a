"""A core without a model, for tests of what stands around one: `tests.engine.toy:build_toy`."""

from __future__ import annotations

import sys
import time
from typing import Any

from engine.config import EngineConfig
from engine.requests import (
    AdapterInfo,
    Delta,
    EngineStats,
    Event,
    Finished,
    GenerationRequest,
    Started,
    Usage,
)


class Toy:
    """Counts aloud, one word per step; fails when "doomed" comes, hangs when "sleepy" does."""

    def __init__(self) -> None:
        self._left: dict[str, int] = {}
        self._fresh: list[str] = []

    def add_request(self, request: GenerationRequest) -> None:
        self._fresh.append(request.request_id)
        self._left[request.request_id] = request.sampling.max_tokens

    def cancel(self, request_id: str) -> bool:
        return self._left.pop(request_id, None) is not None

    def has_work(self) -> bool:
        return bool(self._left)

    def step(self) -> list[Event]:
        time.sleep(0.01)
        if "doomed" in self._left:
            print("about to fall", file=sys.stderr, flush=True)
            raise MemoryError("no memory for a step")
        if "sleepy" in self._left:
            time.sleep(600)
        events: list[Event] = [
            Started(
                request_id=name,
                prompt_token_ids=(),
                spans=(),
                num_cached_tokens=0,
                base_digest="",
                adapter_digest=None,
                queue_s=0.0,
            )
            for name in self._fresh
        ]
        self._fresh.clear()
        for name in list(self._left):
            events.append(Delta(request_id=name, text=f"{self._left[name]} ", token_ids=()))
            self._left[name] -= 1
            if not self._left[name]:
                del self._left[name]
                events.append(Finished(request_id=name, reason="length", usage=_NOTHING))
        return events

    def read_adapter(self, path: str) -> Any:
        raise NotImplementedError("a toy has no adapters; no test may ask it for one")

    def install_adapter(self, name: str, adapter: Any, pinned: bool) -> AdapterInfo:
        raise NotImplementedError("a toy has no adapters; no test may ask it for one")

    def unload_adapter(self, name: str) -> None:
        raise NotImplementedError("a toy has no adapters; no test may ask it for one")

    def adapters(self) -> list[AdapterInfo]:
        return []

    def stats(self) -> EngineStats:
        return EngineStats(**dict.fromkeys(EngineStats.__dataclass_fields__, 0))


_NOTHING = Usage(
    num_prompt_tokens=0,
    num_cached_tokens=0,
    num_completion_tokens=0,
    queue_s=0.0,
    time_to_first_token_s=0.0,
    decode_s=0.0,
)


def build_toy(config: EngineConfig) -> Toy:
    return Toy()
