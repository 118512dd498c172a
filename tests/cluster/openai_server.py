"""A real HTTP server that speaks OpenAI's API over an engine of ours, for tests.

One request per connection; a client that hangs up cancels its request. It knows vLLM's words
for grammars and for loading LoRA adapters, and llama.cpp's for grammars and for choosing them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.backend import Backend
from engine.errors import EngineError
from engine.requests import (
    Constraint,
    Delta,
    Finished,
    GenerationRequest,
    Message,
    SamplingParams,
    Segment,
    Started,
)


@dataclass
class OpenAIServer:
    """Serves `backend` as the model "base", each of its adapters under its own name.

    Attributes:
        asked: the JSON of every request for words, in order.
        drop: so many requests for words are hung up on before anything is said.
        full: answer requests for words with 429.
    """

    backend: Backend
    key: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    drop: int = 0
    full: bool = False
    _numbers: Any = field(default_factory=lambda: itertools.count(1))

    async def start(self, port: int = 0) -> str:
        """Listen; returns the URL."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{self.port}/v1"

    async def close(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, path, _ = head.split("\r\n")[0].split(" ")
            headers = dict(
                line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line
            )
            content = await reader.readexactly(int(headers.get("content-length", 0)))
            told = json.loads(content) if content else {}
            if self.key and headers.get("authorization") != f"bearer {self.key}":
                answer(writer, 401, {"error": {"message": "this key is not known"}})
            elif path in ("/v1/chat/completions", "/v1/completions"):
                await self._complete(reader, writer, told)
            else:
                await self._manage(writer, method, path, told)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            writer.close()

    async def _manage(
        self, writer: asyncio.StreamWriter, method: str, path: str, told: dict[str, Any]
    ) -> None:
        if path == "/lora-adapters":
            infos = enumerate(await self.backend.adapters())
            answer(writer, 200, [{"id": n, "path": f"{info.name}.gguf"} for n, info in infos])
            return
        try:
            if path == "/v1/load_lora_adapter":
                await self.backend.load_adapter(told["lora_name"], Path(told["lora_path"]))
            elif path == "/v1/unload_lora_adapter":
                await self.backend.unload_adapter(told["lora_name"])
            elif path != "/v1/models":
                answer(writer, 404, {"error": {"message": f"no {method} {path} here"}})
                return
        except EngineError as error:
            answer(writer, 400, {"error": {"message": str(error)}})
            return
        names = ["base", *(info.name for info in await self.backend.adapters())]
        answer(writer, 200, {"object": "list", "data": [{"id": name} for name in names]})

    async def _complete(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, told: dict[str, Any]
    ) -> None:
        self.asked.append(told)
        if self.full:
            answer(writer, 429, {"error": {"message": "too many requests"}})
            return
        if self.drop:
            self.drop -= 1
            return
        names = ["base", *(info.name for info in await self.backend.adapters())]
        for chosen in told.get("lora", ()):
            told["model"] = names[1 + chosen["id"]]
        if told["model"] not in names:
            answer(writer, 404, {"error": {"message": f"no model {told['model']!r}"}})
            return
        speaking = asyncio.create_task(self._speak(writer, request_of(told, next(self._numbers))))
        leaving = asyncio.create_task(reader.read(1))  # ends when the client hangs up
        await asyncio.wait([speaking, leaving], return_when=asyncio.FIRST_COMPLETED)
        for task in (speaking, leaving):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _speak(self, writer: asyncio.StreamWriter, request: GenerationRequest) -> None:
        chat = not isinstance(request.prompt, str)
        stream = self.backend.submit(request)
        try:
            async for event in stream:
                if isinstance(event, Started):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
                    writer.write(b"Connection: close\r\n\r\n")
                    send(writer, {"choices": [choice(chat, "", None)]})
                elif isinstance(event, Delta):
                    send(writer, {"choices": [choice(chat, event.text, None)]})
                elif event.error:
                    answer(writer, 400, {"error": {"message": event.error}})
                else:
                    finish(writer, chat, event)
                await writer.drain()
        finally:
            await stream.aclose()  # type: ignore[attr-defined]  # an async generator underneath


def request_of(told: dict[str, Any], number: int) -> GenerationRequest:
    """A request's JSON as our engine takes it."""
    prompt: Any = told.get("prompt")
    if prompt is None:
        prompt = tuple(
            Message(role=one["role"], segments=(Segment(kind="", text=one["content"]),))
            for one in told["messages"]
        )
    return GenerationRequest(
        request_id=str(number),
        prompt=prompt,
        adapter=None if told["model"] == "base" else told["model"],
        sampling=SamplingParams(
            max_tokens=told["max_tokens"],
            temperature=told["temperature"],
            top_k=told.get("top_k", 0),
            top_p=told["top_p"],
            repetition_penalty=told.get("repetition_penalty", 1.0),
            stop=tuple(told.get("stop", ())),
            seed=told["seed"],
            constraint=constraint_of(told),
            ignore_eos=told.get("ignore_eos", False),
        ),
    )


def constraint_of(told: dict[str, Any]) -> Constraint | None:
    if wanted := told.get("response_format"):
        schema = json.dumps(wanted["json_schema"]["schema"])
        return Constraint(kind="json_schema", source=schema)
    if grammar := told.get("grammar"):
        prefix, _, lark = grammar.partition("\n")
        assert prefix == "%llguidance {}"
        return Constraint(kind="lark", source=lark)
    for kind, source in told.get("structured_outputs", {}).items():
        if kind == "choice":
            return Constraint(kind="choice", source=json.dumps(source))
        return Constraint(kind="lark" if kind == "grammar" else kind, source=source)
    return None


def choice(chat: bool, text: str, reason: str | None) -> dict[str, Any]:
    said: dict[str, Any] = {"delta": {"content": text}} if chat else {"text": text}
    return {"index": 0, "finish_reason": reason, **said}


def send(writer: asyncio.StreamWriter, chunk: dict[str, Any]) -> None:
    writer.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")


def finish(writer: asyncio.StreamWriter, chat: bool, event: Finished) -> None:
    send(writer, {"choices": [choice(chat, "", event.reason)]})
    usage = {
        "prompt_tokens": event.usage.num_prompt_tokens,
        "completion_tokens": event.usage.num_completion_tokens,
        "prompt_tokens_details": {"cached_tokens": event.usage.num_cached_tokens},
    }
    send(writer, {"choices": [], "usage": usage})
    writer.write(b"data: [DONE]\n\n")


def answer(writer: asyncio.StreamWriter, status: int, told: Any) -> None:
    content = json.dumps(told).encode()
    head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
