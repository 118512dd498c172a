"""Frames between a backend and its worker: four bytes of length, then one msgpack array.

Only the plain types of engine/requests.py travel; pydantic checks them on arrival, so a frame
can never become anything else.
"""

from __future__ import annotations

import struct
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
from engine.service import Command, Report

HEADER = struct.Struct(">I")
MAX_FRAME_BYTES = 64 << 20  # a prompt of 2 million tokens: far beyond any context served

_TYPES = (AdapterInfo, Delta, EngineConfig, EngineStats, Finished, GenerationRequest, Started)
_ADAPTERS: dict[str, TypeAdapter[Any]] = {kind.__name__: TypeAdapter(kind) for kind in _TYPES}


def _pack(value: Any) -> Any:
    name = type(value).__name__
    if name in _ADAPTERS:
        return {name: _ADAPTERS[name].dump_python(value)}
    if isinstance(value, (list, tuple)):
        return [_pack(item) for item in value]
    return value


def _unpack(value: Any) -> Any:
    if isinstance(value, dict):
        ((name, content),) = value.items()
        return _ADAPTERS[name].validate_python(content)
    if isinstance(value, list):
        return [_unpack(item) for item in value]
    return value


def _frame(value: list[Any]) -> bytes:
    content = msgpack.packb(_pack(value))
    if len(content) > MAX_FRAME_BYTES:
        raise BackendError(f"a message of {len(content)} bytes is over the frame limit")
    return HEADER.pack(len(content)) + bytes(content)


def pack_command(command: Command) -> bytes:
    """A command as a whole frame."""
    return _frame([command.call, command.operation, list(command.arguments)])


def unpack_command(content: bytes) -> Command:
    """A frame's content as a command."""
    call, operation, arguments = msgpack.unpackb(content)
    return Command(call, operation, tuple(_unpack(argument) for argument in arguments))


def pack_report(report: Report) -> bytes:
    """A report as a whole frame."""
    return _frame([report.kind, report.call, report.value])


def unpack_report(content: bytes) -> Report:
    """A frame's content as a report."""
    kind, call, value = msgpack.unpackb(content)
    return Report(kind, call, _unpack(value))


def pack_setup(factory: str, config: EngineConfig) -> bytes:
    """The first frame a worker gets: what to build."""
    return _frame([factory, config])


def unpack_setup(content: bytes) -> tuple[str, EngineConfig]:
    """A worker's first frame."""
    factory, config = msgpack.unpackb(content)
    return factory, _unpack(config)
