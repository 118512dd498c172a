"""Frames to envelopes and back: msgpack with limits, and one error for everything else.

`scan` walks a frame's bytes once before msgpack sees them. It looks at type bytes and lengths
only and allocates nothing that grows with what they claim, so a lying length, a bin or ext
type, a NaN, or a map nested a thousand deep costs no more than its own bytes. What is left
for msgpack to refuse: keys that are no strings, invalid UTF-8. A hook refuses double keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack

from protocol.errors import Code, FrameError
from protocol.messages import MAX_INTEGER, Limits

PROTOCOL = b"NPC/1"
DEFAULT_LIMITS = Limits()
_MAX_ID_CHARS = 64


@dataclass(slots=True)
class Envelope:
    """One message; SPEC.md section 2 has the meaning of the fields."""

    t: str
    body: dict[str, Any] = field(default_factory=dict)
    id: str | None = None
    re: str | None = None
    seq: int | None = None
    ttl_ms: int | None = None
    idem: str | None = None
    time_s: float | None = None


def encode(envelope: Envelope) -> bytes:
    """The envelope as the frame after the protocol name; absent fields take no bytes.

    Raises:
        FrameError: the body holds something that msgpack has no plain type for.
    """
    fields = {"t": envelope.t}
    for name in ("id", "re", "seq", "ttl_ms", "idem", "time_s"):
        value = getattr(envelope, name)
        if value is not None:
            fields[name] = value
    if envelope.body:
        fields["body"] = envelope.body  # type: ignore[assignment]
    try:
        # A lone surrogate can't be written in UTF-8; it becomes a question mark.
        return msgpack.packb(fields, unicode_errors="replace")  # type: ignore[no-any-return]
    except (TypeError, ValueError, OverflowError) as error:
        raise FrameError(f"a {envelope.t!r} message can't be encoded: {error}") from error


def decode(frames: Sequence[bytes], limits: Limits = DEFAULT_LIMITS) -> Envelope:
    """Read a message's two frames.

    Raises:
        FrameError: whatever is wrong with them; its `request_id` is the envelope's `id` where
            that could be read.
    """
    if len(frames) != 2:
        raise FrameError(f"a message has 2 frames, this one has {len(frames)}")
    if frames[0] != PROTOCOL:
        name = bytes(frames[0][:16])
        raise FrameError(
            f"the first frame is {name!r}; this side speaks {PROTOCOL!r}",
            code=Code.BAD_VERSION if name.startswith(b"NPC/") else Code.BAD_FRAME,
        )
    return _envelope(decode_map(frames[1], limits))


def decode_map(frame: bytes, limits: Limits = DEFAULT_LIMITS) -> dict[str, Any]:
    """Read one msgpack map.

    Raises:
        FrameError: it is anything else, or beyond the limits.
    """
    scan(frame, limits)
    try:
        value = msgpack.unpackb(frame, object_pairs_hook=_unique, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise FrameError(f"not valid msgpack: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise FrameError(f"the envelope is {type(value).__name__}, not a map")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a map names a key twice")
    return result


def _envelope(fields: dict[str, Any]) -> Envelope:
    get = fields.get
    request_id = get("id")
    readable = request_id if is_id(request_id) else None
    t, body = get("t"), get("body")
    if not isinstance(t, str) or not 0 < len(t) <= _MAX_ID_CHARS:
        raise FrameError(f"t is {_show(t)}; it must name a type", request_id=readable)
    if body is None:
        body = {}
    elif type(body) is not dict:
        raise FrameError(f"body is {_show(body)}; it must be a map", request_id=readable)
    envelope = Envelope(t, body, request_id, get("re"), get("seq"), get("ttl_ms"), get("idem"))
    for name in ("id", "re", "idem"):
        value = getattr(envelope, name)
        if value is not None and not is_id(value):
            raise FrameError(
                f"{name} is {_show(value)}; it must be 1 to 64 visible ASCII characters",
                request_id=readable,
            )
    for name, least in (("seq", 0), ("ttl_ms", 1)):
        value = getattr(envelope, name)
        if value is not None and (type(value) is not int or value < least):
            raise FrameError(
                f"{name} is {_show(value)}; it must be a whole number, at least {least}",
                request_id=readable,
            )
    time_s = get("time_s")
    envelope.time_s = time_s if isinstance(time_s, float) else None
    return envelope


def is_id(value: object) -> bool:
    """Whether the value may be an id: 1 to 64 visible ASCII characters."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= _MAX_ID_CHARS
        and value.isascii()
        and value.isprintable()
        and " " not in value
    )


def _show(value: object) -> str:
    return repr(value)[:80]


# --- the pre-scan --------------------------------------------------------------------------

# Bytes a scalar takes in all, by its first byte; 0 where that takes a closer look.
_LENGTHS = bytearray(256)
_LENGTHS[0x00:0x80] = bytes([1] * 128)  # positive fixint
_LENGTHS[0xA0:0xC0] = bytes(range(1, 33))  # fixstr
_LENGTHS[0xC0] = _LENGTHS[0xC2] = _LENGTHS[0xC3] = 1  # nil, false, true
_LENGTHS[0xCC:0xCF] = _LENGTHS[0xD0:0xD3] = bytes([2, 3, 5])  # 8 to 32 bit integers
_LENGTHS[0xE0:0x100] = bytes([1] * 32)  # negative fixint
_SCALARS = bytes(_LENGTHS)
_STRINGS = {0xD9: 1, 0xDA: 2, 0xDB: 4}  # str 8, 16, 32: bytes of the length
_CONTAINERS = {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}  # array 16, 32, map 16, 32
_NAMES = {0xC1: "the unused byte 0xc1", 0xC4: "bin", 0xC5: "bin", 0xC6: "bin"}


def scan(data: bytes, limits: Limits = DEFAULT_LIMITS) -> None:
    """Check structure, types, depth and lengths of one msgpack value without building it.

    Raises:
        FrameError: the bytes aren't exactly one value of plain types within the limits.
    """
    size, position = len(data), 0
    if size > limits.max_frame_bytes:
        raise FrameError(f"a frame of {size} bytes; the most is {limits.max_frame_bytes}")
    left = 1  # values still to come in the innermost container
    outer: list[int] = []  # the same for those around it
    while True:
        while left == 0:
            if not outer:
                if position == size:
                    return
                if position < size:
                    raise FrameError(f"{size - position} bytes follow the envelope")
                raise FrameError("the frame ends in the middle of a value")
            left = outer.pop()
        if position >= size:
            raise FrameError("the frame ends in the middle of a value")
        first = data[position]
        left -= 1
        length = _SCALARS[first]
        if length:
            position += length
            continue
        if first < 0xA0 or first in _CONTAINERS:
            children, position = _container(data, position, limits)
            outer.append(left)
            left = children
            if len(outer) > limits.max_depth:
                raise FrameError(f"nested deeper than {limits.max_depth}")
        else:
            position = _long_scalar(data, position, limits)
        if position > size:
            raise FrameError("the frame ends in the middle of a value")


def _container(data: bytes, position: int, limits: Limits) -> tuple[int, int]:
    """How many values a container holds, and where they begin."""
    first = data[position]
    width = _CONTAINERS.get(first, 0)
    if width:
        items = int.from_bytes(data[position + 1 : position + 1 + width], "big")
        is_map = first >= 0xDE
    else:
        items, is_map = first & 0x0F, first < 0x90
    if items > limits.max_items:
        raise FrameError(f"{items} items in one container; the most is {limits.max_items}")
    return (2 * items if is_map else items), position + 1 + width


def _long_scalar(data: bytes, position: int, limits: Limits) -> int:
    """Where the string, float or 64-bit integer at this position ends."""
    first = data[position]
    width = _STRINGS.get(first)
    if width:
        length = int.from_bytes(data[position + 1 : position + 1 + width], "big")
        if length > limits.max_string_bytes:
            raise FrameError(f"a string of {length} bytes; the most is {limits.max_string_bytes}")
        return position + 1 + width + length
    if first in (0xCA, 0xCB):
        # All exponent bits set means infinity or NaN, in either width (IEEE 754).
        exponent = 0x7F80 if first == 0xCA else 0x7FF0
        if int.from_bytes(data[position + 1 : position + 3], "big") & exponent == exponent:
            raise FrameError("a number is NaN or infinite")
        return position + (5 if first == 0xCA else 9)
    if first in (0xCF, 0xD3):
        number = int.from_bytes(data[position + 1 : position + 9], "big", signed=first == 0xD3)
        if abs(number) > MAX_INTEGER:
            raise FrameError(f"the number {number} is beyond 2^53 - 1")
        return position + 9
    raise FrameError(f"a value of type {_NAMES.get(first, 'ext')}; only plain types are allowed")
