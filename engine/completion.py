"""One completion from one model, without a server: the way to look at a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast, get_args

from engine.adapters import read_adapter
from engine.config import EngineConfig, Quantization
from engine.engine import Engine, build_engine
from engine.errors import RequestError
from engine.requests import Delta, Finished, GenerationRequest, SamplingParams, Started


def complete_text(
    *,
    base: str,
    prompt: str,
    adapter: Path | None,
    quantization: str,
    max_tokens: int,
    temperature: float,
    seed: int,
    show: Callable[[str], None],
) -> dict[str, Any]:
    """Continue a prompt.

    Args:
        show: is given the prompt and then every piece of text as it comes.

    Returns:
        What was asked, the text, its token ids, digests and costs.

    Raises:
        EngineError: naming what can't be loaded or run as asked.
    """
    if quantization not in get_args(Quantization):
        choices = ", ".join(get_args(Quantization))
        raise RequestError(f"quantization is {quantization!r}; it must be one of {choices}")
    config = EngineConfig(
        base=base,
        quantization=cast(Quantization, quantization),
        adapter_slots=1,
        max_rank=max(1, read_adapter(adapter).rank) if adapter else 1,
        max_rows=1,
    )
    engine = build_engine(config)
    if adapter is not None:
        engine.install_adapter("adapter", engine.read_adapter(str(adapter)), pinned=True)
    engine.add_request(
        GenerationRequest(
            request_id="completion",
            prompt=prompt,
            adapter="adapter" if adapter else None,
            sampling=SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed),
        )
    )
    show(prompt)
    return {"prompt": prompt, "seed": seed} | _outcome(engine, show)


def _outcome(engine: Engine, show: Callable[[str], None]) -> dict[str, Any]:
    """Run the engine's one request to its end."""
    outcome: dict[str, Any] = {"text": "", "token_ids": []}
    while engine.has_work():
        for event in engine.step():
            if isinstance(event, Started):
                outcome |= {"base": event.base_digest, "adapter": event.adapter_digest}
                outcome["prompt_token_ids"] = list(event.prompt_token_ids)
            elif isinstance(event, Delta):
                show(event.text)
                outcome["text"] += event.text
                outcome["token_ids"] += event.token_ids
            elif isinstance(event, Finished):
                outcome |= {"reason": event.reason, "usage": asdict(event.usage)}
    return outcome
