"""A service without models: words come from the request, so every answer can be checked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from protocol import messages as m
from protocol.administration import AgentInfo, AgentsReply, StatsReply
from protocol.errors import Code, Refusal
from protocol.messages import Body
from protocol.play import EventReply
from protocol.service import Peer, Request


class FakeService:
    """Echoes words one by one.

    `say` to "echo" answers with the text's words, "slow" with ten thousand words a few
    milliseconds apart, "wait" never answers, "broken" raises, "mute" ends without an answer.
    """

    def __init__(self, pause_s: float = 0.0) -> None:
        self.pause_s = pause_s
        self.num_running = 0
        self.num_handled = 0
        self.closed: list[str] = []  # keys of requests whose `finally` has run

    async def handle(self, peer: Peer, request: Request) -> AsyncIterator[Body]:
        self.num_running += 1
        self.num_handled += 1
        try:
            async for body in self._answer(request):
                yield body
        finally:
            self.num_running -= 1
            self.closed.append(request.key)

    async def _answer(self, request: Request) -> AsyncIterator[Body]:
        body = request.body
        if request.type == "agents":
            yield AgentsReply(agents=[AgentInfo(agent="echo", tier="npc", state="ready")])
        elif request.type == "stats":
            yield StatsReply()
        elif request.type == "event":
            yield EventReply(waiting=1)
        elif isinstance(body, m.SayRequest):
            async for piece in self._say(request.key, body):
                yield piece
        else:
            raise Refusal(Code.UNSUPPORTED, f"no {request.type} here")

    async def _say(self, key: str, body: m.SayRequest) -> AsyncIterator[Body]:
        if body.agent == "broken":
            raise RuntimeError("as asked")
        if body.agent == "mute":
            return
        if body.agent not in ("echo", "slow", "wait"):
            raise Refusal(Code.UNKNOWN_AGENT, f"no agent {body.agent!r}", field="agent")
        yield m.Accepted(line=f"L{key}", agent=body.agent, tier="npc")
        if body.agent == "wait":
            await asyncio.Event().wait()
        words = body.text.split(" ") if body.agent == "echo" else ["word"] * 10_000
        pieces = [words[0], *(f" {word}" for word in words[1:])]
        pause_s = self.pause_s if body.agent == "echo" else 0.005
        for piece in pieces:
            yield m.Delta(text=piece)
            await asyncio.sleep(pause_s)
        yield m.SayReply(
            line=f"L{key}", agent=body.agent, tier="npc", text="".join(pieces), seed=body.seed or 0
        )
