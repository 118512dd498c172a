"""A tick: the director looks at what happened and decides, or waits."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from protocol import messages as wire
from protocol import telemetry
from roles.director import WAIT
from roles.errors import AgentError
from roles.house import House
from roles.line import Line
from roles.npc import sampling_params
from roles.offers import directive_grammar
from roles.reply import ReplyReader
from roles.schema import Sampling
from roles.speech import Deadlines, obstacle, speak
from roles.world import DIRECTOR

_PRIORITY = 5
_DEFAULTS = Sampling(temperature=0.0, max_tokens=96, repetition_penalty=1.0)


class Tick:
    """One decision of the director."""

    def __init__(self, house: House, key: str, body: wire.TickRequest) -> None:
        if body.agent not in (None, DIRECTOR):
            raise AgentError(f"{body.agent!r} is no director; this world's is {DIRECTOR!r}")
        self.house, self.body = house, body
        self.play = house.play
        self.director, self.engine = house.play.director, house.engines["director"]
        self.reader = ReplyReader()
        self.directive: dict[str, Any] = dict(WAIT)
        waiting = self.director.stage.waiting
        self.line = Line(
            id=house.play.next_line(),
            key=key,
            agent=DIRECTOR,
            tier="director",
            speaker="",
            said=" ".join(waiting),
            epoch=house.epoch,
        )

    async def run(self, client_deadline_s: float | None) -> AsyncGenerator[wire.Body, None]:
        """Decide: Accepted, Delta*, TickReply. The directive takes effect at once."""
        self.director.advance(self.body.now)
        self._compose()
        yield self.house.began(self.line)
        whole = False
        try:
            async with self.house.mouth(DIRECTOR):
                deadlines = Deadlines.after(
                    self.house.patience_ms(self.engine) / 1000, client_deadline_s
                )
                self.line.cause = await self._obstacle(deadlines)
                line = speak(self.engine, self.line, self.reader, deadlines)
                with self.house.speaking(self.line, self.engine):
                    async with aclosing(line) as pieces:
                        async for piece in pieces:
                            yield self.house.spoke(self.line, piece)
                self.house.check(self.line)
                if not self.reader.spoken:
                    self.line.fallback = True
                    yield self.house.spoke(self.line, json.dumps(WAIT))
                self._settle()
            whole = True
        finally:
            self.line.raw, self.line.ended_s = self.reader.raw, time.time()
            self.house.ended(self.line, whole=whole)
        yield self._reply()

    def _compose(self) -> None:
        line, body, table = self.line, self.body, self.engine.table
        line.prompt = self.director.prompt()
        seed = self.play.seed(line.id) if body.seed is None else body.seed
        params = sampling_params(
            table.sampling.over(_DEFAULTS),
            Sampling(),
            seed,
            max_tokens=body.max_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
        )
        closed = self.director.closed(self.play.hushed)
        line.sampling = replace(params, constraint=directive_grammar(self.house.world, closed))
        line.priority, line.context_tokens = _PRIORITY, table.context
        line.routing.append("the director's engine; its answer must match the world's directives")

    async def _obstacle(self, deadlines: Deadlines) -> str:
        """Why the model can't decide, or "" if it can; then its adapter is chosen."""
        if self.director.stage.held:
            return "the director is held"
        cause = await obstacle(self.engine, deadlines)
        if DIRECTOR in self.engine.adapters:
            self.line.adapter = self.engine.use(DIRECTOR)
        return cause

    def _settle(self) -> None:
        """Let the decision take effect. A tick without an answer leaves its events waiting."""
        if self.line.fallback:
            return
        play = self.play
        self.directive, overruled = self.director.decide(self.line.text, play.hushed)
        self.line.cause = self.line.cause or overruled
        with self.house.store.transaction():
            self.director.settle(self.directive, self.line.id, overruled)
            if directed := self.director.direction(self.directive):
                who, mood, goal = directed
                play.cast[who].direct(mood, goal)
        decided = telemetry.DirectorDecided(
            line=self.line.id,
            directive=self.directive,
            waited=self.directive == WAIT,
            tension=self.director.stage.tension,
            wanted=self.director.wanted,
            now=play.now,
        )
        self.house.publish("director_decided", decided)

    def _reply(self) -> wire.TickReply:
        return wire.TickReply.model_validate(
            {
                **self.line.common(),
                "directive": self.directive,
                "waited": self.directive == WAIT,
            }
        )
