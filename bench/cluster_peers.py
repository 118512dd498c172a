"""Other ways to an engine through Ray, for bench/cluster.py to compare with."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

from engine.backend import InlineBackend
from engine.config import EngineConfig
from engine.requests import GenerationRequest


class Speaker:
    """An engine inside an actor or deployment, asked once per request."""

    def __init__(self, config: EngineConfig) -> None:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
        self._config = config
        self._backend: InlineBackend | None = None

    async def load(self, name: str, path: str) -> None:
        """Start at the first call; load an adapter."""
        if self._backend is None:
            self._backend = InlineBackend(self._config)
            await self._backend.start()
            await self._backend.wait_ready()
        await self._backend.load_adapter(name, Path(path))

    async def speak(self, request: GenerationRequest) -> AsyncIterator[Any]:
        """The request's events."""
        assert self._backend is not None
        async for event in self._backend.submit(request):
            yield event


class ActorPerRequest:
    """A plain actor; every request is a streaming call of its own."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config

    async def start(self) -> None:
        """Make the actor."""
        import ray

        self._actor: Any = (
            ray.remote(Speaker).options(num_cpus=1, max_concurrency=256).remote(self._config)
        )

    async def wait_ready(self) -> None:
        """It is ready once it has loaded an adapter."""

    async def load_adapter(self, name: str, path: Path) -> None:
        """Load it there."""
        await self._actor.load.remote(name, str(path))

    async def submit(self, request: GenerationRequest) -> AsyncIterator[Any]:
        """Every event is an object of its own."""
        async for ref in self._actor.speak.remote(request):
            yield await ref

    async def close(self) -> None:
        """Kill it."""
        import ray

        ray.kill(self._actor)


class ServePerRequest:
    """The same behind Ray Serve: its router, its streaming responses."""

    def __init__(self, config: EngineConfig) -> None:
        from ray import serve

        self._config, self._serve = config, cast(Any, serve)

    async def start(self) -> None:
        """Deploy it."""
        deployment = self._serve.deployment(
            Speaker, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1}
        )
        self._handle = await asyncio.to_thread(
            self._serve.run, deployment.bind(self._config), name="bench", route_prefix=None
        )

    async def wait_ready(self) -> None:
        """`serve.run` has waited."""

    async def load_adapter(self, name: str, path: Path) -> None:
        """Load it there."""
        await self._handle.load.remote(name, str(path))

    async def submit(self, request: GenerationRequest) -> AsyncIterator[Any]:
        """Through a handle that streams."""
        async for event in self._handle.options(stream=True).speak.remote(request):
            yield event

    async def close(self) -> None:
        """Take it down."""
        await asyncio.to_thread(self._serve.shutdown)
