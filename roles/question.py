"""A question to a book: passages, the book's own model, an answer or a regret."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from books.prompt import answer_reply
from protocol import messages as wire
from roles.engines import Engine
from roles.house import House
from roles.line import Line
from roles.npc import sampling_params
from roles.reply import ReplyReader
from roles.schema import Sampling
from roles.speech import Deadlines, obstacle, speak
from roles.voice import LOOPED, Loop, Voice

UNKNOWN, ANSWER = "unknown", "answer"  # what a game sees of the mark before the words
_PRIORITY = 15  # behind a character in the spotlight, before one far away


class Question:
    """One question to one book."""

    def __init__(self, house: House, key: str, body: wire.AskRequest) -> None:
        self.house, self.body = house, body
        self.book = house.book(body.agent)
        self.engine = house.engine_of(body.agent)
        self.asker = body.conversation or body.speaker
        self.before = self.book.answered(self.asker, body.text)
        self.found = self.book.find(body.text, self.before)
        self.reader = ReplyReader()
        self.line = Line(
            id=house.play.next_line(),
            key=key,
            agent=body.agent,
            tier="book",
            speaker=body.speaker,
            said=body.text,
            conversation=body.conversation,
            epoch=house.epoch,
        )

    async def run(self, client_deadline_s: float | None) -> AsyncGenerator[wire.Body, None]:
        """Answer: Accepted, Delta*, AskReply."""
        self._compose()
        yield self.house.began(self.line)
        whole = False
        try:
            if self.found.hopeless:
                self.line.routing.append("its words tell that the book has no answer: no model")
            elif self.engine is not None:
                deadlines = Deadlines.after(
                    self.house.patience_ms(self.engine) / 1000, client_deadline_s
                )
                self.line.cause = await self._obstacle(self.engine, deadlines)
                async with aclosing(self._speak(self.engine, deadlines)) as pieces:
                    async for piece in pieces:
                        yield self.house.spoke(self.line, piece)
                self.house.check(self.line)
            if not self.line.text:
                yield self._regret()
            whole = True
        finally:
            self.line.raw, self.line.ended_s = self.reader.raw, time.time()
            self.line.emotion = UNKNOWN if self.reader.mood == UNKNOWN else ANSWER
            self.house.ended(self.line, whole=whole)
        yield self._reply()

    async def _speak(self, engine: Engine, deadlines: Deadlines) -> AsyncGenerator[str, None]:
        """The model's words, clean for the game's font, and no phrase over and over."""
        loop, voice = Loop(), Voice(self.house.world.spec.text)
        with self.house.speaking(self.line, engine):
            speech = speak(engine, self.line, self.reader, deadlines)
            async with aclosing(speech) as pieces:
                async for piece in pieces:
                    if shown := voice.feed(loop.feed(piece)):
                        yield shown
                    if loop.found:
                        await self.house.cut(self.line)
        self.line.cause = LOOPED if loop.found else self.line.cause
        if shown := voice.feed(loop.finish()) + voice.finish():
            yield shown

    def _compose(self) -> None:
        line, body = self.line, self.body
        seed = self.house.play.seed(line.id) if body.seed is None else body.seed
        engine = self.engine
        line.prompt = self.book.prompt(body.text, self.found, self.before)
        if engine is None:
            line.cause = "this world has no [tiers.book] table"
            return
        line.priority, line.context_tokens = _PRIORITY, engine.table.context
        params = sampling_params(
            engine.table.sampling,
            Sampling(),
            seed,
            max_tokens=body.max_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
        )
        choices = self.found.evidence.choices()
        line.sampling = replace(params, num_top_logprobs=body.top_logprobs, constraint=choices)

    async def _obstacle(self, engine: Engine, deadlines: Deadlines) -> str:
        """Why the model can't answer, or "" if it can; then its student is chosen."""
        if cause := await obstacle(engine, deadlines):
            return cause
        name = self.body.adapter or self.body.agent
        if name not in engine.adapters:
            none = f"{name} has no model of its own: biblioteca distill {name}"
            return engine.refused.get(name, none)
        self.line.adapter = engine.use(name)
        self.line.routing.append(f"{name} on the {engine.tier} engine")
        return ""

    def _regret(self) -> wire.Delta:
        """One of the book's own sentences for what it doesn't tell."""
        self.line.fallback = not self.found.hopeless
        if self.line.fallback:
            self.line.cause = self.line.cause or "the model had nothing to say"
        self.reader.mood = UNKNOWN
        return self.house.spoke(self.line, self.book.abstention(self.line.sampling.seed))

    def _reply(self) -> wire.AskReply:
        abstained = self.reader.mood == UNKNOWN
        if not abstained and not self.body.ephemeral:
            self.book.remember(self.asker, self.body.text, answer_reply(self.line.text))
        passages = [
            wire.Passage(book=self.body.agent, page=passage.page, text=passage.text)
            for passage in self.found.rests_on(self.line.text)
        ]
        return wire.AskReply.model_validate(
            {
                **self.line.common(),
                "abstained": abstained,
                "passages": [] if abstained else passages,
            }
        )
