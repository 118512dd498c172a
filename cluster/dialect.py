"""Requests in the words of a server that speaks OpenAI's API, and its answers in ours.

All such servers stream `chat/completions`; what goes beyond (grammars, top_k, LoRA) each of
them words in its own way. Pure functions: no I/O here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

from engine.requests import Constraint, FinishReason, GenerationRequest

Dialect = Literal["openai", "vllm", "llama.cpp", "tgi"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)
_SEEDS = 1 << 31  # what the narrowest of them takes
# Control tokens of the common families, where the base's own are not known.
_COMMON = r"<\|[^<>|\s]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos)>"
_ENDS: dict[str, FinishReason] = {"stop": "stop", "eos_token": "stop", "length": "length"}


def control_tokens(base: str) -> re.Pattern[str]:
    """What must not stand in a text: a base folder's control tokens, or the common ones."""
    try:
        described = json.loads((Path(base) / "tokenizer.json").read_text(encoding="utf-8"))
        tokens = [token["content"] for token in described["added_tokens"] if token["special"]]
    except (OSError, ValueError, KeyError, TypeError):
        tokens = []
    known = sorted((token for token in tokens if len(token) > 1), key=len, reverse=True)
    return re.compile("|".join([*map(re.escape, known), _COMMON]))


def disarm(text: str, control: re.Pattern[str]) -> str:
    """Break every control token that somebody typed with a space, so that it stays text.

    The server tokenises words and template in one go; ours never does (engine/template.py).
    """
    while (found := control.search(text)) is not None:
        cut = found.start() + 1
        text = f"{text[:cut]} {text[cut:]}"
    return text


def body(
    request: GenerationRequest, model: str, dialect: Dialect, control: re.Pattern[str]
) -> dict[str, Any]:
    """The JSON of a request.

    Args:
        model: the server's name for base or adapter.
        control: see `control_tokens`; applied to messages, not to raw prompts.
    """
    sampling = request.sampling
    asked: dict[str, Any] = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed % _SEEDS,
    }
    if isinstance(request.prompt, str):
        asked["prompt"] = request.prompt
    else:
        asked["messages"] = [
            {"role": message.role, "content": disarm(message.text, control)}
            for message in request.prompt
        ]
    if sampling.stop:
        asked["stop"] = list(sampling.stop)
    asked |= _sampling_beyond(request, dialect)
    if sampling.constraint is not None:
        asked |= constrained(sampling.constraint, dialect) or {}
    return asked


def _sampling_beyond(request: GenerationRequest, dialect: Dialect) -> dict[str, Any]:
    """Settings that OpenAI's API lacks, for servers that have them."""
    if dialect not in ("vllm", "llama.cpp"):
        return {}
    sampling = request.sampling
    beyond: dict[str, Any] = {}
    penalty = "repetition_penalty" if dialect == "vllm" else "repeat_penalty"
    if sampling.repetition_penalty != 1.0:
        beyond[penalty] = sampling.repetition_penalty
    if sampling.top_k:
        beyond["top_k"] = sampling.top_k
    if sampling.ignore_eos:
        beyond["ignore_eos"] = True
    return beyond


def constrained(constraint: Constraint, dialect: Dialect) -> dict[str, Any] | None:
    """The fields that make a server keep to a constraint; None if it can't.

    vLLM takes our Lark grammars where it runs llguidance (`--structured-outputs-config.backend
    guidance`), llama.cpp where it was built with LLAMA_LLGUIDANCE.
    """
    source = constraint.source
    if constraint.kind == "json_schema":
        schema = json.loads(source)
        if dialect in ("openai", "tgi"):
            schema.pop("x-guidance", None)  # llguidance's own: the others may run it
        described = {"name": "reply", "schema": schema, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": described}}
    if dialect == "vllm":
        fields = {"regex": source, "lark": source}
        word = "grammar" if constraint.kind == "lark" else constraint.kind
        return {"structured_outputs": {word: fields.get(constraint.kind) or json.loads(source)}}
    if dialect == "llama.cpp":
        return {"grammar": _llama_grammar(constraint)}
    if dialect == "tgi" and constraint.kind != "lark":
        if constraint.kind == "choice":
            source = "|".join(re.escape(choice) for choice in json.loads(source))
        return {"response_format": {"type": "regex", "value": source}}
    return None


def _llama_grammar(constraint: Constraint) -> str:
    if constraint.kind == "choice":
        return "root ::= " + " | ".join(json.dumps(one) for one in json.loads(constraint.source))
    lark = constraint.source
    if constraint.kind == "regex":
        lark = "start: /" + lark.replace("/", r"\/") + "/"
    return f"%llguidance {{}}\n{lark}"


def ended(reason: str) -> FinishReason | None:
    """Our word for a server's reason to stop; None for one we don't know."""
    return _ENDS.get(reason)


def complaint(status: int, content: bytes) -> str:
    """What a refusing server said, in one line."""
    try:
        said = json.loads(content)
        said = said.get("error", said)
        text = said if isinstance(said, str) else said.get("message") or said.get("detail")
    except (ValueError, AttributeError):
        text = content.decode(errors="replace")
    line = " ".join(str(text or "no reason given").split())
    return f"status {status}: {line[:300]}"


def named(names: Iterable[str]) -> str:
    """Names for a sentence, the first twenty of them."""
    found = sorted(names)
    return ", ".join(found[:20]) + (" ..." if len(found) > 20 else "") or "none"
