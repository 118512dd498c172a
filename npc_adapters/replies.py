"""Replies out of the engine itself, many at once: what is judged is what players will hear."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.backend import Backend, InlineBackend
from engine.config import EngineConfig
from engine.requests import (
    Constraint,
    Delta,
    Finished,
    GenerationRequest,
    LogitBias,
    Message,
    SamplingParams,
)
from npc_adapters.errors import TrainingError


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt for an adapter: messages that end with what was said to the character."""

    adapter: str | None
    messages: tuple[Message, ...]


def write_replies(
    base: Path,
    adapters: Mapping[str, Path],
    questions: Sequence[Question],
    *,
    sampling: SamplingParams,
    held_to: Constraint | None = None,
    leaning: Callable[[Sequence[Message]], LogitBias] = lambda _: (),
    quantization: str = "auto",
    threads: int = 0,
) -> list[str]:
    """Answer every question, in order; all adapters share the engine's batches.

    Args:
        base: folder of the base model.
        adapters: folders by the name that questions use.
        questions: what to answer.
        sampling: how words are picked; each question adds its number to the seed.
        held_to: the grammar of an answer, as in live play; None for free text.
        leaning: the `logit_bias` of an answer to such messages.
        quantization: as in `EngineConfig`.
        threads: CPU threads; 0 lets torch decide.

    Raises:
        TrainingError: a question could not be answered.
        AdapterError: an adapter does not fit.
    """
    config = EngineConfig(
        base=str(base),
        quantization=quantization,  # type: ignore[arg-type]  # checked by the config's users
        threads=threads,
        adapter_slots=max(1, len(adapters)),
        max_rank=64,
    )
    settings = [
        replace(
            sampling,
            seed=sampling.seed + number,
            constraint=held_to,
            logit_bias=leaning(question.messages),
        )
        for number, question in enumerate(questions)
    ]
    return asyncio.run(_answer_all(InlineBackend(config), adapters, questions, settings))


async def _answer_all(
    backend: Backend,
    adapters: Mapping[str, Path],
    questions: Sequence[Question],
    settings: Sequence[SamplingParams],
) -> list[str]:
    await backend.start()
    try:
        await backend.wait_ready()
        for name, path in adapters.items():
            await backend.load_adapter(name, path)
        answers = (
            _answer(backend, number, question, sampling)
            for number, (question, sampling) in enumerate(zip(questions, settings, strict=True))
        )
        return list(await asyncio.gather(*answers))
    finally:
        await backend.close()


async def _answer(
    backend: Backend, number: int, question: Question, sampling: SamplingParams
) -> str:
    request = GenerationRequest(
        request_id=f"judged-{number}",
        prompt=question.messages,
        adapter=question.adapter,
        sampling=sampling,
    )
    text = ""
    async for event in backend.submit(request):
        if isinstance(event, Delta):
            text += event.text
        elif isinstance(event, Finished) and event.reason == "error":
            raise TrainingError(f"question {number} could not be answered: {event.error}")
    return text
