"""Frames between a backend and its worker: four bytes of length, then one msgpack array.

Only the plain types of engine/requests.py travel; pydantic checks them on arrival, so a frame
can never become anything else.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgpack
from pydantic import TypeAdapter

from engine.config import EngineConfig
from engine.errors import BackendError
from engine.requests import (
    AdapterInfo,
    Delta,
    EngineStats,
    Finished,
    GenerationRequest,
    Started,
)

HEADER = struct.Struct(">I")
MAX_FRAME_BYTES = 64 << 20  # a prompt of 2 million tokens: far beyond any context served

_TYPES = (AdapterInfo, Delta, EngineConfig, EngineStats, Finished, GenerationRequest, Started)
_ADAPTERS: dict[str, TypeAdapter[Any]] = {kind.__name__: TypeAdapter(kind) for kind in _TYPES}


def pack(values: Sequence[Any]) -> bytes:
    """A whole frame of a command, a report, or a worker's setup (factory, configuration)."""
    content = msgpack.packb(_plain(values))
    if len(content) > MAX_FRAME_BYTES:
        raise BackendError(f"a message of {len(content)} bytes is over the frame limit")
    return HEADER.pack(len(content)) + bytes(content)


def unpack(content: bytes) -> list[Any]:
    """The values of a frame without its header."""
    return [_revived(value) for value in msgpack.unpackb(content)]


class Cutter:
    """Cuts a stream of bytes into the contents of its frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Contents of the frames that end in this piece; what is left waits for the next."""
        stream, start, contents = self._rest + chunk, 0, []
        while (begin := start + HEADER.size) <= len(stream):
            end = begin + HEADER.unpack_from(stream, start)[0]
            if end > len(stream):
                break
            contents.append(stream[begin:end])
            start = end
        self._rest = stream[start:]
        return contents


def _plain(value: Any) -> Any:
    name = type(value).__name__
    if name in _ADAPTERS:
        return {name: _ADAPTERS[name].dump_python(value)}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _revived(value: Any) -> Any:
    if isinstance(value, dict):
        ((name, content),) = value.items()
        return _ADAPTERS[name].validate_python(content)
    if isinstance(value, list):
        return [_revived(item) for item in value]
    return value
