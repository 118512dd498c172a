"""What is generated from the message types: SPEC.md's last section, JSON Schema, golden vectors.

python -m protocol.reference          writes them
python -m protocol.reference --check  exits 1 if any has drifted
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from protocol import messages as m
from protocol.catalogue import NOTES, REQUESTS
from protocol.codec import Envelope, encode
from protocol.errors import FrameError
from protocol.telemetry import EVENTS

_HERE = Path(__file__).parent
SPEC = _HERE / "SPEC.md"
SCHEMA = _HERE / "schema" / "messages.json"
VECTORS = _HERE / "schema" / "vectors.json"
EXAMPLES = _HERE / "schema" / "examples.json"
_HEADING = "### 11.1 Parts of any stream, notes, notices\n"
_STREAM_PARTS: dict[str, type[m.Body]] = {
    "accepted": m.Accepted,
    "delta": m.Delta,
    "error": m.ErrorBody,
    "notice": m.Notice,
}


def examples() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """A request's body and its reply's, by type."""
    pairs = json.loads(EXAMPLES.read_text(encoding="utf-8"))
    return {t: (request, reply) for t, (request, reply) in pairs.items()}


# --- JSON Schema ---------------------------------------------------------------------------


def schema() -> dict[str, Any]:
    """JSON Schema of every body; `requests`, `replies`, `events` map types to definitions."""
    models: set[type[BaseModel]] = {*_STREAM_PARTS.values(), *NOTES.values()}
    for entry in REQUESTS.values():
        models |= {entry.request, entry.reply}
    models |= {model for _, model in EVENTS.values()}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, definitions = models_json_schema([(model, "validation") for model in ordered])

    def point(types: dict[str, type[m.Body]]) -> dict[str, Any]:
        return {t: {"$ref": f"#/$defs/{model.__name__}"} for t, model in types.items()}

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"biblioteca wire {m.SPEC_VERSION}",
        "requests": point({t: entry.request for t, entry in REQUESTS.items()} | NOTES),
        "replies": point({t: entry.reply for t, entry in REQUESTS.items()}),
        "parts": point(_STREAM_PARTS),
        "events": point({t: model for t, (_, model) in EVENTS.items()}),
        "$defs": definitions["$defs"],
    }


# --- golden vectors ------------------------------------------------------------------------

_BAD = {
    "not a map": "93010203",
    "a double key": "82a174a170a174a171",
    "NaN": "81a174cb7ff8000000000000",
    "an ext type": "81a174d4017f",
    "bin": "81a174c40170",
    "an array that claims four billion items": "81a174ddffffffff",
    "a string that claims more than there is": "81a174d92061",
    "depth 17": "81a174" + "91" * 17 + "c0",
    "a number beyond 2^53 - 1": "81a174cf0020000000000000",
    "a lone surrogate": "81a174a3eda080",
    "bytes after the envelope": "81a174a170c0",
    "a key that is no string": "8101a170",
}


def vectors() -> dict[str, Any]:
    """Envelopes as JSON and as msgpack in hexadecimal; and frames that must be refused."""
    good = []
    for number, (t, (request, reply)) in enumerate(examples().items(), 1):
        entry = REQUESTS[t]
        seq = 3 if entry.stream else None
        good.append(Envelope(t, request, id=f"c{number}"))
        good.append(Envelope(entry.answer, reply, re=f"c{number}", seq=seq))
    error = {"code": "busy", "message": "32 requests are open", "retryable": True, "retry_ms": 250}
    good += [
        Envelope("accepted", {"line": "L42", "agent": "ottavia", "tier": "npc"}, re="c6"),
        Envelope("delta", {"text": "Behind the atlas shelf"}, re="c6", seq=0),
        Envelope("error", error, re="c6", seq=1),
        Envelope("error", {"code": "bad_frame", "message": "not a message"}),
        Envelope("credit", {"deltas": 16}),
        Envelope("say", {"agent": "pim", "text": "é 你 \U0001f469\u200d\U0001f680"}, id="c99",
                 ttl_ms=1_500, idem="6f1d"),
        Envelope("notice", {"kind": "draining", "message": "the server is shutting down"}),
    ]  # fmt: skip
    return {
        "spec": m.SPEC_VERSION,
        "valid": [{"envelope": _plain(e), "msgpack": encode(e).hex()} for e in good],
        "invalid": [{"why": why, "msgpack": frame} for why, frame in _BAD.items()],
    }


def _plain(envelope: Envelope) -> dict[str, Any]:
    fields = {
        name: getattr(envelope, name)
        for name in ("t", "id", "re", "seq", "ttl_ms", "idem")
        if getattr(envelope, name) is not None
    }
    return {**fields, "body": envelope.body} if envelope.body else fields


# --- SPEC.md -------------------------------------------------------------------------------


def reference() -> str:
    """The section of SPEC.md that lists every message."""
    shown: set[str] = set()
    defs = schema()["$defs"]
    lines = [_HEADING]
    for t, model in {**_STREAM_PARTS, **NOTES}.items():
        lines += [f"**`{t}`** {_summary(model)}", "", *_table(model, defs, shown), ""]
    lines += ["### 11.2 Requests", ""]
    pairs = examples()
    for t, entry in REQUESTS.items():
        kind = "stream, " if entry.stream else ""
        lines += [f"**`{t}`** ({kind}{entry.role}) {_summary(entry.request)}", ""]
        lines += [*_table(entry.request, defs, shown), ""]
        lines += [f"Ends with `{entry.answer}`: {_summary(entry.reply)}", ""]
        lines += [*_table(entry.reply, defs, shown), ""]
        request, reply = (json.dumps(body, ensure_ascii=False) for body in pairs[t])
        lines += ["```json", request, reply, "```", ""]
    lines += ["### 11.3 Telemetry", ""]
    for t, (topic, model) in EVENTS.items():
        lines += [
            f"**`{t}`** (topic `{topic}`) {_summary(model)}",
            "",
            *_table(model, defs, shown),
            "",
        ]
    lines += ["### 11.4 Objects", ""]
    queue = sorted(shown)
    done: set[str] = set()
    while queue:
        name = queue.pop(0)
        if name in done:
            continue
        done.add(name)
        nested: set[str] = set()
        rows = list(_rows(defs[name], defs, nested))
        lines += [f"**{name}** {defs[name].get('description', '').splitlines()[0]}", "", *rows, ""]
        queue = sorted({*queue, *nested} - done)
    return "\n".join(lines)


def _summary(model: type[m.Body]) -> str:
    return (model.__doc__ or "").splitlines()[0]


def _table(model: type[m.Body], defs: dict[str, Any], shown: set[str]) -> Iterator[str]:
    return _rows(defs[model.__name__], defs, shown)


def _rows(definition: dict[str, Any], defs: dict[str, Any], shown: set[str]) -> Iterator[str]:
    fields = definition.get("properties", {})
    if not fields:
        yield "No fields."
        return
    required = definition.get("required", [])
    yield "| field | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in fields.items():
        default = "required" if name in required else _default(field)
        meaning = field.get("description", "").replace("|", "/")
        yield f"| `{name}` | {_type(field, defs, shown)} | {default} | {meaning} |"


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    return (
        "" if value is None else f"`{json.dumps(value)}`" if not isinstance(value, dict) else "{}"
    )


_PATTERNS = {r"^[a-z0-9][a-z0-9_-]{0,63}$": "name", r"^[!-~]{1,64}$": "id"}


def _type(field: dict[str, Any], defs: dict[str, Any], shown: set[str]) -> str:
    if "$ref" in field:
        name = str(field["$ref"]).rsplit("/", 1)[1]
        shown.add(name)
        return name
    if "anyOf" in field:
        return " or ".join(
            "nil" if option.get("type") == "null" else _type(option, defs, shown)
            for option in field["anyOf"]
        )
    if "enum" in field:
        return " ".join(f"`{value}`" for value in field["enum"])
    kind = field.get("type")
    if kind == "array":
        return f"array of {_type(field['items'], defs, shown)}"
    if kind == "object":
        inner = field.get("additionalProperties")
        return f"map of {_type(inner, defs, shown)}" if isinstance(inner, dict) else "map"
    if kind == "string":
        if field.get("pattern") in _PATTERNS:
            return _PATTERNS[field["pattern"]]
        return {64: "label", m.MAX_TEXT_CHARS: "text"}.get(field.get("maxLength", 0), "string")
    return _number(field) if kind in ("integer", "number") else str(kind or "any")


def _number(field: dict[str, Any]) -> str:
    name = "whole number" if field["type"] == "integer" else "number"
    low = field.get("minimum", field.get("exclusiveMinimum"))
    high = field.get("maximum")
    if (low, high) == (0, m.MAX_INTEGER) or low is None:
        return name
    above = "above" if "exclusiveMinimum" in field else "from"
    return f"{name}, {above} {low}" + ("" if high in (None, m.MAX_INTEGER) else f" to {high:,}")


# --- files ---------------------------------------------------------------------------------


def files() -> dict[Path, str]:
    """Every generated file as it should be."""
    spec = SPEC.read_text(encoding="utf-8")
    return {
        SPEC: spec[: spec.index(_HEADING)] + reference(),
        SCHEMA: json.dumps(schema(), indent=1, ensure_ascii=False) + "\n",
        VECTORS: json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n",
    }


def drifted() -> list[Path]:
    """Generated files that are not as they should be."""
    return [
        path
        for path, text in files().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main(arguments: list[str]) -> int:
    """Write the files, or with --check only say which have drifted."""
    try:
        wrong = drifted()
    except FrameError as error:
        print(error, file=sys.stderr)
        return 1
    for path in wrong:
        print(f"{'drifted' if '--check' in arguments else 'written'}: {path.relative_to(_HERE)}")
    if "--check" in arguments:
        return 1 if wrong else 0
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
