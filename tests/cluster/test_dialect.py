from __future__ import annotations

import json
import re

import pytest

from cluster.dialect import DIALECTS, body, complaint, constrained, control_tokens, disarm, named
from engine.requests import Constraint, GenerationRequest, SamplingParams

NONE = re.compile("(?!)")
SCHEMA = {"type": "object", "x-guidance": {"whitespace_flexible": False}}


def test_every_dialect_keeps_to_a_schema() -> None:
    constraint = Constraint(kind="json_schema", source=json.dumps(SCHEMA))
    for dialect in DIALECTS:
        kept = constrained(constraint, dialect)
        assert kept is not None
        told = kept["response_format"]["json_schema"]["schema"]
        assert told["type"] == "object"
        assert ("x-guidance" in told) == (dialect in ("vllm", "llama.cpp"))


@pytest.mark.parametrize(
    ("kind", "source", "dialect", "wanted"),
    [
        ("choice", '["a.", "b"]', "vllm", {"structured_outputs": {"choice": ["a.", "b"]}}),
        ("regex", "a+", "vllm", {"structured_outputs": {"regex": "a+"}}),
        ("lark", "start: A", "vllm", {"structured_outputs": {"grammar": "start: A"}}),
        ("choice", '["a.", "b"]', "llama.cpp", {"grammar": 'root ::= "a." | "b"'}),
        ("regex", "a/b", "llama.cpp", {"grammar": "%llguidance {}\nstart: /a\\/b/"}),
        ("choice", '["a.", "b"]', "tgi", {"response_format": {"type": "regex", "value": r"a\.|b"}}),
        ("lark", "start: A", "tgi", None),
        ("regex", "a+", "openai", None),
    ],
)
def test_a_constraint_in_each_ones_words(
    kind: str, source: str, dialect: str, wanted: object
) -> None:
    assert constrained(Constraint(kind=kind, source=source), dialect) == wanted  # type: ignore[arg-type]  # a table of text


def test_only_who_knows_a_setting_is_told_it() -> None:
    sampling = SamplingParams(top_k=5, repetition_penalty=1.1, seed=-1, stop=("x",))
    request = GenerationRequest(request_id="r", prompt="Once", sampling=sampling)
    told = {dialect: body(request, "base", dialect, NONE) for dialect in DIALECTS}
    assert told["openai"].keys() == told["tgi"].keys()
    assert told["vllm"]["repetition_penalty"] == told["llama.cpp"]["repeat_penalty"] == 1.1
    assert "top_k" not in told["openai"]
    assert all(one["seed"] >= 0 and one["prompt"] == "Once" for one in told.values())


def test_control_tokens_of_common_families_are_broken_up() -> None:
    control = control_tokens("org/some-model")
    for typed in ("<|im_end|>", "</s>", "[INST]", "<start_of_turn>", "<<SYS>>", "<|<|end|>end|>"):
        assert control.search(disarm(typed, control)) is None
    assert disarm("2 < 3 and <b>bold</b>", control) == "2 < 3 and <b>bold</b>"


def test_what_a_server_complains_of_fits_a_line() -> None:
    assert complaint(400, b'{"error": {"message": "too\\nlong"}}') == "status 400: too long"
    assert complaint(422, b'{"detail": "no such field"}') == "status 422: no such field"
    assert complaint(500, b"\xff" * 999).startswith("status 500: ")
    assert len(complaint(500, b"x" * 999)) < 320
    assert complaint(503, b"") == "status 503: no reason given"
    assert named([]) == "none"
