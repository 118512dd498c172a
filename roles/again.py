"""A known line's very same prompt, spoken once more; nobody remembers it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from engine.requests import SamplingParams
from protocol import administration as admin
from protocol import messages as wire
from roles.errors import LineError
from roles.house import House
from roles.line import Line
from roles.reply import ReplyReader
from roles.speech import Deadlines, obstacle, speak


class Again:
    """One repetition, with another seed, adapter or temperature."""

    def __init__(self, house: House, key: str, body: admin.AgainRequest) -> None:
        self.house, self.body = house, body
        self.model = house.transcript.find(body.line, None)
        engine = house.engine_of(self.model.agent)
        if engine is None or not self.model.prompt:
            raise LineError(f"line {body.line!r} was spoken without a model")
        self.engine = engine
        self.reader = ReplyReader()
        self.line = Line(
            id=house.play.next_line(),
            key=key,
            agent=self.model.agent,
            tier=self.model.tier,
            speaker=self.model.speaker,
            said=self.model.said,
            epoch=house.epoch,
            prompt=self.model.prompt,
            adapter=self._adapter(),
            sampling=self._sampling(),
            context_tokens=self.model.context_tokens,
            routing=[f"the prompt of line {body.line} once more; nobody remembers it"],
        )

    async def run(self, client_deadline_s: float | None) -> AsyncGenerator[wire.Body, None]:
        """Speak: Accepted, Delta*, SayReply."""
        yield self.house.began(self.line)
        whole = False
        try:
            deadlines = Deadlines.after(
                self.house.patience_ms(self.engine) / 1000, client_deadline_s
            )
            self.line.cause = await obstacle(self.engine, deadlines)
            speech = speak(self.engine, self.line, self.reader, deadlines)
            async with aclosing(speech) as pieces:
                async for piece in pieces:
                    yield self.house.spoke(self.line, piece)
            whole = True
        finally:
            self.line.raw, self.line.emotion = self.reader.raw, self.reader.mood
            self.line.fallback = not self.line.text
            self.line.ended_s = time.time()
            self.house.ended(self.line, whole=whole)
        yield self.line.reply(self.house.world.spec.text.letters_per_s)

    def _sampling(self) -> SamplingParams:
        sampling, body = self.model.sampling, self.body
        changes: dict[str, Any] = {
            "seed": body.seed,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "max_tokens": body.max_tokens,
        }
        wanted = {key: value for key, value in changes.items() if value is not None}
        return replace(sampling, num_top_logprobs=body.top_logprobs, **wanted)

    def _adapter(self) -> wire.AdapterUse | None:
        name = self.body.adapter
        if name is None:
            return self.model.adapter
        if name not in self.engine.adapters:
            raise LineError(f"the {self.engine.tier} engine has no adapter {name!r}")
        return self.engine.use(name)
