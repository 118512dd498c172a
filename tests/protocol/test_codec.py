from __future__ import annotations

import contextlib
import struct
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import PROTOCOL, Envelope, decode, decode_map, encode, scan
from protocol.errors import Code, FrameError
from protocol.messages import MAX_INTEGER, Limits

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
IDS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=64)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=20,
)


@given(
    st.builds(
        Envelope,
        t=TEXT.filter(lambda t: 0 < len(t) <= 64),
        body=st.dictionaries(TEXT, PLAIN, max_size=5),
        id=st.none() | IDS,
        re=st.none() | IDS,
        seq=st.none() | st.integers(0, MAX_INTEGER),
        ttl_ms=st.none() | st.integers(1, MAX_INTEGER),
        idem=st.none() | IDS,
    )
)
def test_what_is_encoded_decodes_to_the_same(envelope: Envelope) -> None:
    assert decode([PROTOCOL, encode(envelope)]) == envelope


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_any_frames_decode_or_raise_the_one_error(frames: list[bytes]) -> None:
    with contextlib.suppress(FrameError):
        decode(frames)


@given(st.binary(max_size=300), st.integers(0, 60), st.binary(max_size=3))
def test_a_damaged_message_decodes_or_raises_the_one_error(
    noise: bytes, position: int, patch: bytes
) -> None:
    frame = bytearray(
        encode(Envelope("say", {"agent": "echo", "n": [1, 2.5, {"a": None}]}, id="1"))
    )
    frame[position : position + len(patch)] = patch
    for damaged in (bytes(frame), bytes(frame)[:position], bytes(frame) + noise):
        with contextlib.suppress(FrameError):
            decode([PROTOCOL, damaged])


def nested(depth: int, opening: bytes) -> bytes:
    return b"\x81\xa1a" + opening * depth + b"\xc0"


BAD_FRAMES: dict[str, bytes] = {
    "no map": msgpack.packb([1, 2]),
    "empty": b"",
    "nested arrays": nested(1_500, b"\x91"),
    "nested maps": nested(1_500, b"\x81\xa1a"),
    "array that claims four billion items": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "map that claims four billion pairs": b"\xdf\xff\xff\xff\xff",
    "string that claims four gigabytes": b"\x81\xa1a\xdb\xff\xff\xff\xff",
    "string that claims more than there is": b"\x81\xa1a\xd9\x20abc",
    "double key": b"\x82\xa1t\xa1x\xa1t\xa1y",
    "double key further in": b"\x82\xa1t\xa1x\xa4body\x82\xa1a\x01\xa1a\x02",
    "NaN": b"\x81\xa1a" + struct.pack(">Bd", 0xCB, float("nan")),
    "infinity": b"\x81\xa1a" + struct.pack(">Bd", 0xCB, float("-inf")),
    "NaN in single precision": b"\x81\xa1a" + struct.pack(">Bf", 0xCA, float("nan")),
    "ext": msgpack.packb({"t": msgpack.ExtType(1, b"x")}),
    "timestamp": msgpack.packb({"t": msgpack.Timestamp(1)}),
    "bin": msgpack.packb({"t": b"x"}),
    "the byte that is never used": b"\x81\xa1t\xc1",
    "number beyond 2^53": msgpack.packb({"t": "x", "n": 2**60}),
    "negative number beyond 2^53": msgpack.packb({"t": "x", "n": -(2**60)}),
    "key that is no string": msgpack.packb({1: 2}),
    "invalid UTF-8": b"\x81\xa1t\xa1\xff",
    "lone surrogate": b"\x81\xa1t\xa3\xed\xa0\x80",
    "bytes after the envelope": msgpack.packb({"t": "x"}) + b"\xc0",
    "no type": msgpack.packb({"id": "1"}),
    "type that is no string": msgpack.packb({"t": 5}),
    "body that is no map": msgpack.packb({"t": "x", "body": [1]}),
    "id with a blank": msgpack.packb({"t": "x", "id": "a b"}),
    "id too long": msgpack.packb({"t": "x", "id": "a" * 65}),
    "seq that is true": msgpack.packb({"t": "x", "seq": True}),
    "ttl of nought": msgpack.packb({"t": "x", "ttl_ms": 0}),
    "long string": msgpack.packb({"t": "x", "s": "a" * 300_000}),
    "long array": msgpack.packb({"t": "x", "s": [0] * 5_000}),
    "huge frame": b"\x81\xa1a\xdb" + b"a" * 1_100_000,
}


@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
def test_bad_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(FrameError) as caught:
        decode([PROTOCOL, frame])
    assert caught.value.code == Code.BAD_FRAME


def test_readable_id_of_a_bad_envelope_is_reported() -> None:
    with pytest.raises(FrameError) as caught:
        decode([PROTOCOL, msgpack.packb({"t": 5, "id": "c7"})])
    assert caught.value.request_id == "c7"


def test_another_version_is_told_from_noise() -> None:
    frame = msgpack.packb({"t": "hello"})
    for name, code in ((b"NPC/2", Code.BAD_VERSION), (b"GET / HTTP/1.1", Code.BAD_FRAME)):
        with pytest.raises(FrameError) as caught:
            decode([name, frame])
        assert caught.value.code == code


def test_unknown_fields_are_ignored_and_nil_is_absent() -> None:
    frame = msgpack.packb({"t": "x", "id": None, "body": None, "colour": "green", "v": [1]})
    assert decode([PROTOCOL, frame]) == Envelope("x")


def test_lone_surrogates_leave_as_question_marks() -> None:
    assert decode([PROTOCOL, encode(Envelope("x", {"a": "\ud800b"}))]).body == {"a": "?b"}


def test_depth_limit_is_exact() -> None:
    limits = Limits(max_depth=3)
    fits: Any = {"a": [[1]]}
    assert decode_map(msgpack.packb(fits), limits) == fits
    with pytest.raises(FrameError, match="deeper than 3"):
        scan(msgpack.packb({"a": [[[1]]]}), limits)


@given(PLAIN)
def test_scan_accepts_whatever_msgpack_writes_of_plain_values(value: Any) -> None:
    scan(msgpack.packb(value))


@given(st.binary(max_size=64))
def test_what_the_scan_passes_msgpack_reads_or_calls_a_key_or_a_string_bad(data: bytes) -> None:
    try:
        scan(data)
    except FrameError:
        return
    complaint = ""
    try:
        msgpack.unpackb(data, strict_map_key=True)
    except UnicodeDecodeError:
        return
    except ValueError as error:
        complaint = str(error)
    assert not complaint or "map key" in complaint
