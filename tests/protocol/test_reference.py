from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from protocol import reference
from protocol.catalogue import REQUESTS
from protocol.codec import decode, decode_map, encode
from protocol.errors import Code, FrameError
from protocol.messages import SPEC_VERSION
from protocol.session import TRANSITIONS

SPEC = reference.SPEC.read_text(encoding="utf-8")


def test_generated_files_are_those_of_the_types() -> None:
    assert reference.drifted() == [], "run: python -m protocol.reference"


def test_spec_and_code_agree_on_the_version() -> None:
    assert SPEC.startswith(f"# The biblioteca wire, version {SPEC_VERSION}\n")


def test_spec_lists_every_error_code() -> None:
    section = SPEC[SPEC.index("## 6. Errors") : SPEC.index("## 7. Limits")]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == {str(c) for c in Code}


def test_spec_draws_the_transitions_of_the_code() -> None:
    section = SPEC[SPEC.index("## 4. Requests") : SPEC.index("## 5. Delivery")]
    drawn: dict[str, dict[str, str]] = {"ENDED": {}}
    for state, to, types in re.findall(r"^    ([A-Z]+) --> ([A-Z]+): (.*)$", section, re.MULTILINE):
        drawn.setdefault(state, {}).update(dict.fromkeys(types.split(", "), to))
    table = {s.name: {t: to.name for t, to in steps.items()} for s, steps in TRANSITIONS.items()}
    assert drawn == table


@pytest.mark.parametrize("t", REQUESTS)
def test_examples_fit_types_and_schema(t: str) -> None:
    request, reply = reference.examples()[t]
    entry = REQUESTS[t]
    entry.request.model_validate(request)
    entry.reply.model_validate(reply)
    document = json.loads(reference.SCHEMA.read_text(encoding="utf-8"))
    for kind, body in (("requests", request), ("replies", reply)):
        jsonschema.validate(body, {**document[kind][t], "$defs": document["$defs"]})


VECTORS = json.loads(reference.VECTORS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda v: v["envelope"]["t"])
def test_golden_messages_decode_and_encode_as_written(vector: dict[str, Any]) -> None:
    frame = bytes.fromhex(vector["msgpack"])
    assert decode_map(frame) == vector["envelope"]
    assert encode(decode([b"NPC/1", frame])) == frame


@pytest.mark.parametrize("vector", VECTORS["invalid"], ids=lambda v: v["why"])
def test_golden_bad_frames_are_refused(vector: dict[str, str]) -> None:
    with pytest.raises(FrameError):
        decode_map(bytes.fromhex(vector["msgpack"]))
