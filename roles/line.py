"""A line: everything that made one, kept so that it can be explained and replayed."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from engine.requests import Delta, Finished, Message, SamplingParams, Started
from protocol import administration as admin
from protocol import messages as wire
from roles.errors import LineNotFoundError
from roles.phrases import phrases

KEPT_LINES = 500


@dataclass(kw_only=True, slots=True)
class Line:
    """One line, from the request to its last token; filled in as it happens.

    Attributes:
        id: the server's own id; higher is later.
        key: what the engine calls it.
        said: what was said to the agent.
        epoch: how often the game had been restored when it began.
        routing: why this tier, adapter, budget and deadline, one sentence each.
        raw: the model's words before they are read as a reply.
        text: what was spoken.
        pieces: for each piece of it, how long the text then was, and when that was, in
            milliseconds after the request's arrival.
        waited_s: from the request's arrival to its handing over to the engine.
        cause: why an authored line stood in, or why it broke off; "" if nothing went wrong.
    """

    id: str
    key: str
    agent: str
    tier: wire.Tier
    speaker: str
    said: str
    epoch: int = 0
    scene: str = ""
    conversation: str = ""
    prompt: tuple[Message, ...] = ()
    adapter: wire.AdapterUse | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    priority: int = 0
    context_tokens: int = 0
    routing: list[str] = field(default_factory=list)
    started: Started | None = None
    deltas: list[Delta] = field(default_factory=list)
    finished: Finished | None = None
    raw: str = ""
    text: str = ""
    pieces: list[tuple[int, float]] = field(default_factory=list)
    emotion: str = ""
    actions: list[wire.ActionCall] = field(default_factory=list)
    offered: tuple[str, ...] = ()
    fallback: bool = False
    cause: str = ""
    waited_s: float = 0.0
    arrived_s: float = field(default_factory=time.monotonic)
    began_s: float = field(default_factory=time.time)
    ended_s: float = 0.0

    @property
    def reason(self) -> str:
        """Why it ended, as the wire says it."""
        if self.fallback:
            return "fallback"
        return "stop" if self.finished is not None and self.finished.reason == "stop" else "length"

    @property
    def usage(self) -> wire.Usage:
        """What it cost, as the wire says it."""
        if self.finished is None:
            return wire.Usage()
        used = self.finished.usage
        rate = (used.num_completion_tokens - 1) / used.decode_s if used.decode_s > 0 else 0.0
        return wire.Usage(
            prompt_tokens=used.num_prompt_tokens,
            cached_tokens=used.num_cached_tokens,
            completion_tokens=used.num_completion_tokens,
            queue_ms=(self.waited_s + used.queue_s) * 1000,
            ttft_ms=(self.waited_s + used.time_to_first_token_s) * 1000,
            tokens_per_s=max(rate, 0.0),
        )

    def common(self) -> dict[str, object]:
        """The fields every reply about a line has."""
        return {
            "line": self.id,
            "agent": self.agent,
            "tier": self.tier,
            "text": self.text,
            "reason": self.reason,
            "seed": self.sampling.seed,
            "adapter": self.adapter,
            "usage": self.usage,
            "fallback": self.fallback,
            "cause": self.cause,
        }

    def heard(self, piece: str) -> None:
        """A piece of it goes out now."""
        self.text += piece
        self.pieces.append((len(self.text), 1000 * (time.monotonic() - self.arrived_s)))

    def reply(self, letters_per_s: float) -> wire.SayReply:
        """What ends a character's line on the wire, timed for reading out at this speed."""
        return wire.SayReply.model_validate(
            {
                **self.common(),
                "emotion": self.emotion,
                "actions": list(self.actions),
                "phrases": phrases(self.text, self.pieces, letters_per_s),
            }
        )

    def info(self) -> admin.LineInfo:
        """The line as a list of lines shows it."""
        return admin.LineInfo.model_validate(
            {
                **self.common(),
                "emotion": self.emotion,
                "actions": list(self.actions),
                "speaker": self.speaker,
                "said": self.said,
                "time_s": self.ended_s or self.began_s,
            }
        )


class Transcript:
    """The lines spoken since the start, the last `KEPT_LINES` of them.

    Attributes:
        spoken: lines by agent since the start; `running`: lines being spoken now.
    """

    def __init__(self) -> None:
        self._lines: OrderedDict[str, Line] = OrderedDict()
        self.spoken: Counter[str] = Counter()
        self.running: Counter[str] = Counter()

    def add(self, line: Line) -> None:
        """Keep a line that has ended; the oldest leaves when there are too many."""
        self._lines[line.id] = line
        self.spoken[line.agent] += 1
        if len(self._lines) > KEPT_LINES:
            self._lines.popitem(last=False)

    def forget_after(self, number: int) -> None:
        """Drop the lines a restored game has not spoken (yet): ids above this number."""
        for line_id in [x for x in self._lines if int(x[1:]) > number]:
            del self._lines[line_id]

    def find(self, line_id: str | None, agent: str | None) -> Line:
        """A line by id, or an agent's last one.

        Raises:
            LineNotFoundError: there is none (or it is no longer kept).
        """
        if line_id is not None and line_id in self._lines:
            return self._lines[line_id]
        if line_id is None:
            if agent is not None and (line := self.last(agent)) is not None:
                return line
            raise LineNotFoundError(f"{agent or 'nobody'} has not spoken yet")
        raise LineNotFoundError(f"no line {line_id!r} among the last {KEPT_LINES}")

    def last(self, agent: str) -> Line | None:
        """An agent's last line, or None."""
        return next((x for x in reversed(self._lines.values()) if x.agent == agent), None)

    def newest(self, agent: str | None, before: str | None, limit: int) -> list[Line]:
        """Lines, newest first."""
        found: list[Line] = []
        started = before is None
        for line in reversed(self._lines.values()):
            if started and (agent is None or line.agent == agent) and len(found) < limit:
                found.append(line)
            started = started or line.id == before
        return found
