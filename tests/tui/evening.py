"""An evening that always goes the same: what a console saw, at times that never change."""

from __future__ import annotations

import math

from protocol import messages as m
from protocol import play
from protocol.administration import (
    AdaptersReply,
    AgentInfo,
    AgentsReply,
    DirectorRequest,
    LineInfo,
    MemoryRequest,
)
from protocol.catalogue import allowed
from protocol.messages import Body, Usage
from protocol.telemetry import LineEnded, LineFailed, LineStarted, Logged
from tests.tui.fakes import NOON, WORLD, FakeWorld, adapter_of, inspection
from tui.seen import Seen

_TALK = (
    ("ottavia", "npc", "Where is the lamp oil kept?",
     "Hush. The lamp oil is under the third stair, behind the atlases. Mind the step.", "calm"),
    ("pim", "npc", "Did you see who put out the lamp?",
     "I lit forty lamps tonight! Forty-one, if you count the one that was already lit.", "amused"),
    ("ottavia", "npc", "Thank you. Is it far?",
     "Twelve steps down and no farther. The thirteenth belongs to the tide.", "wary"),
    ("tide_tables", "book", "When does the tide turn?",
     "The tide turns twice beneath the reading room.", ""),
)  # fmt: skip


def _welcome() -> Seen:
    welcome = m.Welcome(session="s", token="-", role="admin", world=WORLD,
                        requests=allowed("admin"))  # fmt: skip
    return Seen(time_s=NOON, name="connected", body=welcome)


def _agent(world: FakeWorld, name: str) -> AgentInfo:
    return world.agent(name)


def seen() -> list[Seen]:
    """Everything, in order."""
    world = FakeWorld()
    things = [_welcome()]

    def see(at: float, name: str, body: Body | None = None, about: str = "") -> None:
        things.append(Seen(time_s=NOON + at, name=name, body=body, about=about))

    for i, (agent, tier, said, text, emotion) in enumerate(_TALK, 1):
        at, line = 10.0 * i, f"line-{i}"
        usage = Usage(prompt_tokens=67, cached_tokens=16 * i, completion_tokens=len(text) // 4,
                      queue_ms=3.0 * i, ttft_ms=120.0 + 9 * i, tokens_per_s=61.0 - i)  # fmt: skip
        info = LineInfo.model_validate(
            {"line": line, "agent": agent, "tier": tier, "text": text, "emotion": emotion,
             "speaker": "player", "said": said, "seed": 40 + i, "usage": usage,
             "adapter": adapter_of(agent), "time_s": NOON + at + 1}
        )  # fmt: skip
        world.history.append(info)
        see(
            at,
            "line_started",
            LineStarted.model_validate(
                {"line": line, "agent": agent, "tier": tier, "speaker": "player", "text": said}
            ),
        )
        see(at + 1, "line_ended", LineEnded.model_validate(info.model_dump()))
        see(at + 1, "inspect", inspection(info, _agent(world, agent)))
    see(44, "line_started", LineStarted(line="line-5", agent="cosimo", tier="npc",
                                        speaker="player", text="Which way is north?"))  # fmt: skip
    failed = LineFailed(line="line-5", agent="cosimo", code="cancelled")
    see(45, "line_failed", failed)
    see(46, "log", Logged(level="warning", text="adapter cosimo took 410 ms to load"))
    names = ["director", "ottavia", "bastiano", "pim", "cosimo", "tide_tables", "winter_kitchen"]
    see(47, "agents", AgentsReply(world=WORLD, agents=[_agent(world, name) for name in names]))
    see(47, "adapters", AdaptersReply(adapters=world.adapters()), "list")
    see(47, "trouble", about="damaged\nload failed: model.safetensors ends after 20 bytes")
    see(48, "director", world._answer_director(DirectorRequest()))
    see(48, "memory", world._answer_memory(MemoryRequest(agent="ottavia")), "ottavia")
    see(48, "saves", play.SavesReply(saves=world.saves))
    for book in ("tide_tables", "winter_kitchen"):
        see(48, "read", world._answer_read(play.ReadRequest(agent=book)))
    for second in range(60):
        if not 30 <= second < 36:  # a pause in which nothing was heard
            see(60 + second, "stats", _sample(world, second))
    return things


def _sample(world: FakeWorld, second: int) -> Body:
    """Counters that rise and fall."""
    stats = world.stats()
    swing = 0.6 + 0.4 * math.sin(second / 5)
    engines = [
        engine.model_copy(update={"tokens_per_s": engine.tokens_per_s * swing,
                                  "waiting": second % 4, "running": second % 3,
                                  "ttft_p50_ms": 180.0 - 80 * (swing - 0.6),
                                  "ttft_p95_ms": 410.0 - 300 * (swing - 0.6)})
        for engine in stats.engines
    ]  # fmt: skip
    return stats.model_copy(update={"engines": engines})
