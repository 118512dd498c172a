"""An engine behind somebody else's server: vLLM, llama.cpp, TGI, or anything OpenAI-like.

The server holds the weights; a LoRA adapter is chosen by its model name. What such a server
cannot tell stays empty: token ids, alternatives, digests.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import httpx2

from cluster.dialect import Dialect, body, complaint, constrained, control_tokens, ended, named
from cluster.meter import Meter
from engine.backend import State, lost
from engine.errors import AdapterError, BackendError
from engine.requests import (
    AdapterInfo,
    EngineStats,
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
)

log = logging.getLogger("biblioteca.cluster")
_FULL = (429, 503)  # "come back later", in HTTP
_PROBE_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """Where a server is and how it is spoken to.

    Attributes:
        url: up to and with the version, such as "http://127.0.0.1:8000/v1".
        model: what the server calls the base.
        base: the base's folder, if it is here: its tokenizer tells the control tokens.
        dialect: whose words to use beyond OpenAI's own.
        key: bearer token; "" sends none.
        start_s: how long the server may take to answer for the first time.
        silence_s: longest wait for its next bytes.
    """

    url: str
    model: str
    base: str = ""
    dialect: Dialect = "openai"
    key: str = ""
    start_s: float = 60.0
    silence_s: float = 60.0


class _EndError(Exception):
    """The end of one request, decided by the server."""

    def __init__(self, reason: FinishReason, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class OpenAIBackend:
    """A Backend (engine/backend.py) over HTTP.

    A request whose connection breaks before a word was said is sent once more. A server that
    is gone is asked every second whether it is back.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._control = control_tokens(config.base)
        self._state: State = "starting"
        self._changed, self._gone = asyncio.Event(), asyncio.Event()
        self._failure = ""
        self._live: dict[str, asyncio.Task[None]] = {}
        self._adapters: dict[str, AdapterInfo] = {}
        self._lora_ids: dict[str, int] = {}  # llama.cpp's numbers
        self._unkept: set[str] = set()
        self._tokens = {"prompt": 0, "cached": 0, "completion": 0}
        self._heard = time.monotonic()
        self.restarts = 0

    @property
    def state(self) -> State:
        """Where the server stands, as far as we know."""
        return self._state

    async def start(self) -> None:
        """Begin asking for the server."""
        headers = {"Authorization": f"Bearer {self._config.key}"} if self._config.key else {}
        self._client = httpx2.AsyncClient(
            base_url=self._config.url.rstrip("/") + "/",
            headers=headers,
            timeout=httpx2.Timeout(self._config.silence_s, connect=5.0),
            limits=httpx2.Limits(max_connections=None),
        )
        self._watcher = asyncio.create_task(self._watch())

    async def wait_ready(self) -> None:
        """Return once the server answers. Raises: BackendError if it refuses or never does."""
        while self._state in ("starting", "restarting"):
            self._changed.clear()
            await self._changed.wait()
        if self._state != "ready":
            raise BackendError(self._failure or f"the engine is {self._state}")

    async def submit(self, request: GenerationRequest) -> AsyncIterator[Event]:
        """Run a request (see Backend.submit); a full server ends it as "busy"."""
        request_id = request.request_id
        if self._state != "ready" or request_id in self._live:
            why = f"the engine is {self._state}"
            if request_id in self._live:
                why = f"a request named {request_id!r} is already running"
            yield lost(request_id, why)
            return
        events: asyncio.Queue[Event] = asyncio.Queue()
        task = asyncio.create_task(self._run(request, events.put_nowait))
        self._live[request_id] = task

        def never_ran(task: asyncio.Task[None]) -> None:
            if task.cancelled():  # before its first step, or it would have told us itself
                events.put_nowait(Meter(request_id).finished("cancelled", None))

        task.add_done_callback(never_ran)
        try:
            while True:
                event = await events.get()
                yield event
                if isinstance(event, Finished):
                    return
        finally:
            self._live.pop(request_id, None)
            task.cancel()

    async def cancel(self, request_id: str) -> bool:
        """Close the request's connection, which stops it there; False if it is not live."""
        task = self._live.get(request_id)
        return task is not None and task.cancel()

    async def load_adapter(self, name: str, path: Path, *, pinned: bool = False) -> AdapterInfo:
        """Serve an adapter that the server has under this name, or (vLLM) can load by its path.

        Raises:
            AdapterError: the server has no such model and can't load it.
            BackendError: it doesn't answer.
        """
        if self._config.dialect == "llama.cpp":
            self._lora_ids[name] = await self._lora_id(name)
        elif self._config.dialect == "vllm":
            await self._load_on_vllm(name, path)
        elif name not in (served := await self._models()):
            raise AdapterError(
                f"the server at {self._config.url} serves no model {name!r}; it serves: "
                f"{named(served)}; give it that LoRA under this name"
            )
        version = self._adapters[name].version + 1 if name in self._adapters else 1
        self._adapters[name] = AdapterInfo(
            name=name,
            digest="",
            path=str(path),
            resident=True,
            pinned=pinned,
            rank=0,
            size_bytes=0,
            version=version,
        )
        return self._adapters[name]

    async def unload_adapter(self, name: str) -> None:
        """Forget a name. Raises: AdapterError for an unknown one."""
        if name not in self._adapters:
            raise AdapterError(f"no adapter named {name!r} is loaded")
        if self._config.dialect == "vllm":
            await self._ask("POST", "unload_lora_adapter", {"lora_name": name})
        del self._adapters[name]

    async def adapters(self) -> list[AdapterInfo]:
        """Every adapter named to us."""
        return list(self._adapters.values())

    async def stats(self) -> EngineStats:
        """What went through us; the server's own gauges stay with the server."""
        return EngineStats(
            num_waiting=0,
            num_running=len(self._live),
            num_steps=0,
            num_prompt_tokens=self._tokens["prompt"],
            num_cached_tokens=self._tokens["cached"],
            num_completion_tokens=self._tokens["completion"],
            kv_slots_used=0,
            kv_slots_total=0,
            adapter_hits=0,
            adapter_misses=0,
            adapter_evictions=0,
            decode_tokens_per_s=0.0,
            memory_bytes=0,
            last_step_age_s=time.monotonic() - self._heard,
        )

    async def close(self) -> None:
        """End live requests as "error", hang up."""
        if self._state == "closed":
            return
        self._enter("closed")
        self._watcher.cancel()
        tasks = [self._watcher, *self._live.values()]
        for task in self._live.values():
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    # One request

    async def _run(self, request: GenerationRequest, emit: Callable[[Event], None]) -> None:
        """From the first byte to the one Finished, whatever happens."""
        meter = Meter(request.request_id)
        limit_s = None if request.deadline_ms is None else request.deadline_ms / 1000
        reason: FinishReason = "error"
        error = None
        try:
            async with asyncio.timeout(limit_s):
                reason = await self._converse(request, meter, emit)
        except TimeoutError:
            reason = "expired"
        except asyncio.CancelledError:  # our own task, and this is its last act
            closed = self._state == "closed"
            reason, error = ("error", "the engine was closed") if closed else ("cancelled", None)
        except _EndError as end:
            reason, error = end.reason, str(end)
        except httpx2.HTTPError as failure:
            error = f"the server at {self._config.url} broke off: {_told(failure)}"
            self._gone.set()
        for kind, count in meter.tokens.items():
            self._tokens[kind] += count
        emit(meter.finished(reason, error))

    async def _converse(
        self, request: GenerationRequest, meter: Meter, emit: Callable[[Event], None]
    ) -> FinishReason:
        asked = self._body(request)
        try:
            return await self._stream(asked, meter, emit)
        except httpx2.TransportError:
            if meter.said:
                raise
        return await self._stream(asked, meter, emit)  # nobody heard a word of the first try

    def _body(self, request: GenerationRequest) -> dict[str, Any]:
        config, name = self._config, request.adapter
        if name is not None and name not in self._adapters:
            raise _EndError("error", f"no adapter named {name!r} is loaded")
        constraint = request.sampling.constraint
        if constraint is not None and constrained(constraint, config.dialect) is None:
            self._warn_unkept(constraint.kind)
        by_name = name is not None and config.dialect != "llama.cpp"
        asked = body(
            request, name if by_name and name else config.model, config.dialect, self._control
        )
        if config.dialect == "llama.cpp":
            asked["lora"] = [{"id": self._lora_ids[name], "scale": 1.0}] if name else []
        return asked

    async def _stream(
        self, asked: dict[str, Any], meter: Meter, emit: Callable[[Event], None]
    ) -> FinishReason:
        path = "chat/completions" if "messages" in asked else "completions"
        reason: FinishReason | None = None
        async with self._client.stream("POST", path, json=asked) as response:
            if response.status_code != 200:
                self._refuse(response.status_code, await response.aread(), asked["model"])
            async for event in httpx2.EventSource(response):
                if event.data == "[DONE]":
                    break
                self._heard = time.monotonic()
                reason = _take(event.json(), meter, emit) or reason
        if reason is None:
            raise httpx2.RemoteProtocolError("the stream ended without a reason")
        return reason

    def _refuse(self, status: int, content: bytes, model: str) -> None:
        sentence = f"the server at {self._config.url} refused {model!r}, "
        sentence += complaint(status, content)
        raise _EndError("busy" if status in _FULL else "error", sentence)

    def _warn_unkept(self, kind: str) -> None:
        if kind not in self._unkept:
            self._unkept.add(kind)
            log.warning(
                "servers of dialect %r keep no %s constraint: replies are only checked",
                self._config.dialect,
                kind,
            )

    # The server

    async def _watch(self) -> None:
        """Ask for the server until it answers; and again whenever it was lost."""
        give_up = time.monotonic() + self._config.start_s
        while True:
            try:
                await self._models()
                self._gone.clear()
                self._enter("ready")
                await self._gone.wait()
                self.restarts += 1
                self._enter("restarting")
            except (BackendError, AdapterError) as error:
                refused = isinstance(error, AdapterError)
                if self._state == "starting" and (refused or time.monotonic() > give_up):
                    self._failure = str(error)
                    self._enter("failed")
                    return
            await asyncio.sleep(_PROBE_S)

    async def _models(self) -> list[str]:
        """Names of what is served. Raises: BackendError, or AdapterError if it says no."""
        found = await self._ask("GET", "models")
        return [str(one.get("id")) for one in found.get("data", [])]

    async def _lora_id(self, name: str) -> int:
        """llama.cpp numbers its adapters; their names are their files'."""
        found = await self._ask("GET", "../lora-adapters")
        paths = {PurePath(str(one["path"])): int(one["id"]) for one in found}
        for path, number in paths.items():
            if name in (path.stem, path.parent.name):
                return number
        raise AdapterError(
            f"the server at {self._config.url} was started without a LoRA {name!r}; it has: "
            f"{named(path.stem for path in paths)}"
        )

    async def _load_on_vllm(self, name: str, path: Path) -> None:
        """What it has is used as it is; what we loaded there ourselves is loaded anew."""
        served = name in await self._models()
        if served and name not in self._adapters:
            return
        if served:
            await self._ask("POST", "unload_lora_adapter", {"lora_name": name})
        told = {"lora_name": name, "lora_path": str(path)}
        await self._ask("POST", "load_lora_adapter", told)

    async def _ask(self, method: str, path: str, told: dict[str, str] | None = None) -> Any:
        try:
            response = await self._client.request(method, path, json=told)
        except httpx2.HTTPError as error:
            raise BackendError(
                f"no server answers at {self._config.url}: {_told(error)}"
            ) from error
        if response.status_code in _FULL or response.status_code >= 500:
            raise BackendError(
                f"the server at {self._config.url} is not well: "
                + complaint(response.status_code, response.content)
            )
        if response.status_code != 200:
            raise AdapterError(
                f"the server at {self._config.url} refused {path}: "
                + complaint(response.status_code, response.content)
            )
        with contextlib.suppress(ValueError):
            return response.json()
        return {}

    def _enter(self, state: State) -> None:
        self._state = state
        self._changed.set()


def _take(chunk: Any, meter: Meter, emit: Callable[[Event], None]) -> FinishReason | None:
    """One chunk of a stream; the reason to stop, if it tells one."""
    if error := chunk.get("error"):
        raise _EndError("error", f"the server broke off: {complaint(200, str(error).encode())}")
    if usage := chunk.get("usage"):
        meter.bill(usage)
    reason = None
    for choice in chunk.get("choices", [])[:1]:
        if not meter.started:
            emit(meter.start())
        text = (choice.get("delta") or {}).get("content") or choice.get("text") or ""
        if text:
            emit(meter.piece(text))
        if choice.get("finish_reason"):
            reason = ended(choice["finish_reason"])
            if reason is None:
                raise _EndError("error", f"the server stopped: {choice['finish_reason']}")
    return reason


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__
