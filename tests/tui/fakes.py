"""A scripted service for a real protocol server: a small world whose answers never change.

Only tests use it. It holds no models; what it says is fixed text, so that a screen can be
compared with a picture of it. `delay_s` paces the pieces of a line; a type of request in
`kept_waiting` is answered only when its event is set.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

from protocol import administration as admin
from protocol import messages as m
from protocol import play
from protocol.errors import Code, Refusal
from protocol.messages import AdapterUse, Body, Usage
from protocol.service import Peer, Request
from protocol.telemetry import (
    AdapterChanged,
    DirectorDecided,
    LineEnded,
    LineFailed,
    LineStarted,
    WorldEvent,
)

WORLD = "La Biblioteca Eterna"
NOON = 1_790_000_000.0
CHARACTERS = {
    "ottavia": ("Ottavia", "the night librarian", "Hush. The lamp oil is under the third stair, "
                "behind the atlases. Mind the step."),
    "bastiano": ("Bastiano", "the bookbinder", "Glue first, thread after. A book that hurries "
                 "falls apart in the rain."),
    "pim": ("Pim", "the lamplighter's child", "I lit forty lamps tonight! Forty-one, if you "
            "count the one that was already lit."),
    "cosimo": ("Cosimo", "the lost cartographer", "North was here this morning. I have a note "
               "of it somewhere."),
}  # fmt: skip
BOOKS = {
    "tide_tables": ("The Tide Tables", "Iskra Vane"),
    "winter_kitchen": ("The Winter Kitchen", "Mother Pell"),
}
PERSONA = (
    "You are {name}, {about}. You keep your voice low and your facts straight.\n"
    "Answer as {name} in one to three sentences, with your mood in brackets first."
)


def adapter_of(name: str, version: int = 1) -> AdapterUse:
    """An adapter with a digest that says whose it is."""
    return AdapterUse(name=name, version=version, digest=f"{name:0<8}{version:056d}")


class FakeWorld:
    """Answers everything the console can ask; `publish` is the server's, set after it starts."""

    def __init__(self, *, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.publish: Callable[[str, Body], None] = lambda name, body: None
        self.num_lines = 0
        self.kept_waiting: dict[str, asyncio.Event] = {}
        self.asked: list[str] = []
        self.running: set[str] = set()
        self.cancelled: list[str] = []
        self.inspections: dict[str, admin.InspectReply] = {}
        self.history: list[admin.LineInfo] = []
        self.used = {name: adapter_of(name) for name in CHARACTERS}
        self.broken = {"damaged"}
        self.blends: dict[str, dict[str, float]] = {}
        self.operations: list[str] = []
        self.memories = {
            name: [
                admin.MemoryInfo(memory=f"{name}-1", kind="heard", now=120.0, importance=0.8,
                                 text="The player asked for lamp oil.", participants=["player"]),
                admin.MemoryInfo(memory=f"{name}-2", kind="saw", now=340.0, importance=0.3,
                                 text="Rain came in through the dome.", pinned=True),
            ]
            for name in CHARACTERS
        }  # fmt: skip
        self.held = False
        self.feedback: list[play.FeedbackRequest] = []
        self.saves = [play.SaveInfo(slot="evening", note="before the storm", now=600.0,
                                    saved_at="2026-11-20T21:00:00Z", digest="c0ffee" * 8,
                                    size_bytes=48_213)]  # fmt: skip
        self.timeline = [
            admin.TimelineItem(kind="event", text="arrival: The player came in from the rain.",
                               time_s=NOON, now=10.0),
            *(
                admin.TimelineItem(
                    kind="wait" if i % 3 == 0 else "directive", time_s=NOON + 20 * i, now=20.0 * i,
                    text="do wait" if i % 3 == 0 else "do hint, who ottavia, about the brass key",
                    tension=2 + 3 * math.sin(i / 3) + i / 5, wanted=1 + i / 2.5, line=f"d{i}",
                )
                for i in range(1, 15)
            ),
        ]  # fmt: skip

    # --- what is hosted ---------------------------------------------------------------------

    def agent(self, name: str) -> admin.AgentInfo:
        """An agent's row."""
        last = next((line for line in reversed(self.history) if line.agent == name), None)
        common: dict[str, Any] = {
            "agent": name, "state": "ready", "running": int(name in self.running),
            "lines": sum(line.agent == name for line in self.history),
        }  # fmt: skip
        if last is not None:
            usage = last.usage
            common |= {"last_line": last.line, "last_text": last.text, "cached_share": 0.75,
                       "ttft_ms": usage.ttft_ms, "tokens_per_s": usage.tokens_per_s}  # fmt: skip
        if name in CHARACTERS:
            title, about, _ = CHARACTERS[name]
            return admin.AgentInfo(name=title, about=about, tier="npc", focus="near",
                                   adapter=self.used[name], **common)  # fmt: skip
        if name in BOOKS:
            title, author = BOOKS[name]
            return admin.AgentInfo(name=title, about=author, tier="book",
                                   adapter=adapter_of(name), **common)  # fmt: skip
        return admin.AgentInfo(name="The Director", about="paces the evening", tier="director",
                               adapter=adapter_of("director"), **common)  # fmt: skip

    def adapters(self) -> list[admin.AdapterInfo]:
        """The library."""
        rows = [
            admin.AdapterInfo(
                name=name, version=2, versions=[1, 2], digest=adapter_of(name, 2).digest,
                agents=[a for a, used in self.used.items() if used.name == name], resident=i < 3,
                pinned=i == 0, rank=8, size_bytes=1_310_720 + 4096 * i,
                metrics={"perplexity": 9.31 + i, "in_character": 0.86, "overlap": 0.04},
            )
            for i, name in enumerate(CHARACTERS)
        ]  # fmt: skip
        rows.append(admin.AdapterInfo(name="damaged", rank=8, size_bytes=20))
        rows += [
            admin.AdapterInfo(name=name, tier="book", agents=[name], resident=i == 0,
                              size_bytes=2_400_000)
            for i, name in enumerate(BOOKS)
        ]  # fmt: skip
        return rows

    def stats(self) -> admin.StatsReply:
        """Counters."""

        def engine(tier: m.Tier, rate: float, held: int) -> admin.EngineInfo:
            return admin.EngineInfo(
                tier=tier, state="ready", base=f"models/{tier}-base", running=len(self.running),
                tokens_per_s=rate, ttft_p50_ms=180.0, ttft_p95_ms=410.0, prompt_tokens=18_200,
                cached_tokens=13_650, completion_tokens=5_120, kv_slots_used=9, kv_slots_total=32,
                memory_bytes=held, adapter_misses=6,
            )  # fmt: skip

        return admin.StatsReply(
            gateway=admin.GatewayInfo(uptime_s=754.0, sessions=2, requests=412, deltas=9_311,
                                      memory_bytes=61_000_000, descriptors=27),
            engines=[engine("director", 38.0, 96_000_000), engine("npc", 92.0, 71_000_000),
                     engine("book", 240.0, 44_000_000)],
            memory={"npc weights": 21_200_000, "npc KV cache": 33_500_000,
                    "npc adapters": 8_400_000, "director weights": 41_000_000,
                    "book students": 12_300_000},
        )  # fmt: skip

    # --- answers ------------------------------------------------------------------------------

    def handle(self, peer: Peer, request: Request) -> AsyncIterator[Body]:
        """Answer one request."""
        if request.type in {"say", "ask", "tick", "again"}:
            return self._line(request.body)
        return self._once(request)

    async def _once(self, request: Request) -> AsyncIterator[Body]:
        answer = getattr(self, f"_answer_{request.type}", None)
        if answer is None:
            raise Refusal(Code.UNSUPPORTED, f"this world has no {request.type}")
        self.asked.append(request.type)
        if request.type in self.kept_waiting:
            await self.kept_waiting[request.type].wait()
        yield answer(request.body)

    async def _line(self, body: Any) -> AsyncIterator[Body]:
        if isinstance(body, admin.AgainRequest):
            before = next(ln for ln in self.history if ln.line == body.line)
            body = m.SayRequest(agent=before.agent, text=before.said, seed=body.seed,
                                speaker=before.speaker, adapter=body.adapter,
                                adapter_version=body.adapter_version, ephemeral=True)  # fmt: skip
        self.num_lines += 1
        line, agent = f"line-{self.num_lines}", body.agent or "director"
        known = self.agent(agent)
        if agent not in {*CHARACTERS, *BOOKS, "director"}:
            raise Refusal(Code.UNKNOWN_AGENT, f"nobody is called {agent!r}")
        used = known.adapter
        if getattr(body, "adapter", None):
            used = adapter_of(body.adapter, body.adapter_version or 1)
        said, speaker = getattr(body, "text", ""), getattr(body, "speaker", "")
        self.publish("line_started", LineStarted(line=line, agent=agent, tier=known.tier,
                                                 speaker=speaker, text=said))  # fmt: skip
        yield m.Accepted(line=line, agent=agent, tier=known.tier, adapter=used)
        words, self_text = self.words(agent, used, body), ""
        self.running.add(agent)
        try:
            for piece in words:
                await asyncio.sleep(self.delay_s)
                self_text += piece
                yield m.Delta(text=piece)
        except (GeneratorExit, asyncio.CancelledError):
            self.cancelled.append(line)
            self.publish("line_failed", LineFailed(line=line, agent=agent, code="cancelled"))
            raise
        finally:
            self.running.discard(agent)
        yield self._reply(body, line, known, used, self_text)

    def words(self, agent: str, used: AdapterUse | None, body: Any) -> list[str]:
        """The pieces of an answer; the adapter that speaks decides whose words they are."""
        if used and used.name in self.blends:
            shares = self.blends[used.name].items()
            text = " and ".join(f"{share:.0%} {name}" for name, share in shares)
        elif agent in CHARACTERS:
            text = CHARACTERS[used.name if used and used.name in CHARACTERS else agent][2]
        elif agent in BOOKS:
            text = "The tide turns twice beneath the reading room."
        else:
            text = '{"do": "wait"}'
        pieces = [word + " " for word in text.split(" ")]
        return [*pieces[:-1], pieces[-1].rstrip()]

    def _reply(
        self, body: Any, line: str, known: admin.AgentInfo, used: AdapterUse | None, text: str
    ) -> Body:
        usage = Usage(prompt_tokens=96, cached_tokens=48, completion_tokens=text.count(" ") + 1,
                      queue_ms=4.0, ttft_ms=142.0, tokens_per_s=58.0)  # fmt: skip
        seed = body.seed if body.seed is not None else 7
        common: dict[str, Any] = {
            "line": line, "agent": known.agent, "tier": known.tier, "text": text, "seed": seed,
            "adapter": used, "usage": usage,
        }  # fmt: skip
        info = admin.LineInfo(
            **common, emotion="calm" if known.tier == "npc" else "", time_s=NOON + self.num_lines,
            speaker=getattr(body, "speaker", ""), said=getattr(body, "text", ""),
        )  # fmt: skip
        self.history.append(info)
        self.inspections[line] = inspection(info, known)
        self.publish("line_ended", LineEnded.model_validate(info.model_dump()))
        if known.tier == "book":
            passage = m.Passage(book=known.agent, page=3, text="Twice a day the water comes home.")
            return m.AskReply(**common, passages=[passage])
        if known.tier == "director":
            directive = {"do": "wait"}
            decided = DirectorDecided(
                line=line, directive=directive, waited=True, tension=4.0, wanted=5.0
            )
            self.publish("director_decided", decided)
            return m.TickReply(**common, directive=directive, waited=True)
        return m.SayReply(**common, emotion="calm")

    def _answer_agents(self, body: admin.AgentsRequest) -> Body:
        names = ["director", *CHARACTERS, *BOOKS]
        names = names[names.index(body.after) + 1 if body.after else 0 :][: body.limit]
        return admin.AgentsReply(world=WORLD, agents=[self.agent(name) for name in names])

    def _answer_lines(self, body: admin.LinesRequest) -> Body:
        lines = [ln for ln in reversed(self.history) if body.agent in {None, ln.agent}]
        ids = [line.line for line in lines]
        lines = lines[ids.index(body.before) + 1 if body.before else 0 :]
        return admin.LinesReply(lines=lines[: body.limit])

    def _answer_inspect(self, body: admin.InspectRequest) -> Body:
        if body.line not in self.inspections:
            raise Refusal(Code.NOT_FOUND, f"no line {body.line!r} is kept")
        return self.inspections[body.line]

    def _answer_adapters(self, body: admin.AdaptersRequest) -> Body:
        rows = {row.name: row for row in self.adapters()}
        if body.op == "list":
            return admin.AdaptersReply(adapters=list(rows.values()))
        self.operations.append(body.op)
        if body.op == "blend":
            self.blends[body.name or ""] = body.weights
        if body.name in self.broken:
            raise Refusal(Code.FAILED, f"adapter {body.name!r} is damaged: model.safetensors ends "
                          "after 20 bytes")  # fmt: skip
        if body.op == "swap" and body.agent and body.name:
            self.used[body.agent] = adapter_of(body.name, body.version or 2)
        changed = {row.name: row for row in self.adapters()}.get(body.name or "")
        if changed is None:
            changed = admin.AdapterInfo(name=body.name or "")
        self.publish("adapter_changed", AdapterChanged(**changed.model_dump(), what=body.op))
        return admin.AdaptersReply(adapters=[changed])

    def _answer_director(self, body: admin.DirectorRequest) -> Body:
        if body.op != "timeline":
            self.held = body.op == "hold"
        state = {"tension": 4.2, "chapter": "the storm", "quest.brass_key": "sought",
                 "threads": ["who moved the atlas?"]}  # fmt: skip
        return admin.DirectorReply(held=self.held, items=self.timeline, state=state)

    def _answer_event(self, body: play.EventRequest) -> Body:
        self.publish("world_event", WorldEvent(kind=body.kind, text=body.text))
        self.timeline.append(admin.TimelineItem(kind="event", text=f"{body.kind}: {body.text}",
                                                time_s=NOON + 400))  # fmt: skip
        return play.EventReply(waiting=1)

    def _answer_read(self, body: play.ReadRequest) -> Body:
        title, page = BOOKS[body.agent][0], body.page or 1
        text = f"Chapter {page}.\n\n" + "Twice a day the water comes home, and once it leaves. " * 9
        return play.ReadReply(agent=body.agent, title=title, page=page, pages=12, text=text,
                              bookmark=page + 1)  # fmt: skip

    def _answer_memory(self, body: admin.MemoryRequest) -> Body:
        kept = self.memories[body.agent]
        if body.op == "forget":
            kept[:] = [memory for memory in kept if memory.memory != body.memory]
        if body.op in {"pin", "unpin", "edit"}:
            change = {"text": body.text} if body.op == "edit" else {"pinned": body.op == "pin"}
            kept[:] = [k.model_copy(update=change) if k.memory == body.memory else k for k in kept]
        if body.op == "add":
            kept.append(admin.MemoryInfo(memory=f"new-{len(kept)}", text=body.text or ""))
        relations = [admin.Relation(who="player", feeling="patience", strength=0.6),
                     admin.Relation(who="cosimo", feeling="worry", strength=-0.3)]  # fmt: skip
        return admin.MemoryReply(memories=list(kept), relations=relations)

    def _answer_lore(self, body: Body) -> Body:
        return admin.LoreReply(facts=[
            admin.LoreInfo(fact="lamp_oil", text="The lamp oil is kept under the third stair.",
                           scopes=["staff"]),
            admin.LoreInfo(fact="dome", text="The whispering dome answers at midnight."),
        ])  # fmt: skip

    def _answer_saves(self, body: Body) -> Body:
        return play.SavesReply(saves=self.saves)

    def _answer_save(self, body: play.SaveRequest) -> Body:
        self.saves.append(play.SaveInfo(slot=body.slot, note=body.note, size_bytes=50_000))
        return play.SavesReply(saves=self.saves[-1:])

    def _answer_restore(self, body: play.RestoreRequest) -> Body:
        found = [save for save in self.saves if save.slot == body.slot]
        if not found:
            raise Refusal(Code.NOT_FOUND, f"no slot {body.slot!r}")
        return play.SavesReply(saves=found)

    def _answer_feedback(self, body: play.FeedbackRequest) -> Body:
        self.feedback.append(body)
        return m.Ok()

    def _answer_focus(self, body: Body) -> Body:
        return m.Ok()

    def _answer_stats(self, body: Body) -> Body:
        return self.stats()


def inspection(info: admin.LineInfo, known: admin.AgentInfo) -> admin.InspectReply:
    """A prompt of the shape that characters get, one token per word."""
    parts = [
        ("template", "system", "<|system|>"),
        ("persona", "system", PERSONA.format(name=known.name, about=known.about)),
        ("template", "user", "<|end|><|user|>"),
        ("scene", "user", "Place: the reading room.\nPresent: the player, Pim.\n"),
        ("lore", "user", "Fact: The lamp oil is kept under the third stair.\n"),
        ("memory", "user", "Memory: The player asked for lamp oil before.\n"),
        ("direction", "user", "Mood: calm.\nGoal: send the player to the stair.\n"),
        ("player", "user", f"{info.speaker}: {info.said}"),
        ("template", "assistant", "<|end|><|assistant|>"),
    ]
    segments, texts = [], list[str]()
    for kind, role, text in parts:
        pieces = [word + " " for word in text.split(" ")]
        start = len(texts)
        texts += pieces
        segments.append(admin.PromptSegment(kind=kind, role=role, text=text, start=start,
                                            end=len(texts)))  # fmt: skip
    completion = [
        admin.CompletionToken(
            token_id=300 + i, text=word + " ", logprob=-0.05 - 0.3 * (i % 5),
            alternatives=[
                admin.TokenAlternative(token_id=token, text=text + " ", logprob=logprob)
                for token, text, logprob in (
                    (300 + i, word, -0.05 - 0.3 * (i % 5)),
                    (900 + i, "perhaps", -2.0 - 0.1 * (i % 3)),
                    (950 + i, "never", -3.1),
                )
            ],
        )
        for i, word in enumerate(info.text.split(" "))
    ]  # fmt: skip
    return admin.InspectReply(
        **info.model_dump(exclude={"usage", "adapter", "actions"}),
        usage=info.usage.model_copy(update={"prompt_tokens": len(texts)}), adapter=info.adapter,
        segments=segments, token_ids=[100 + i for i in range(len(texts))], token_texts=texts,
        context_tokens=512, output=f"[calm] {info.text}", completion=completion,
        sampler={"temperature": 0.7, "top_p": 0.95, "max_tokens": 64}, base_digest="ba5e" * 16,
        prefill_ms=138.0, decode_ms=540.0,
        routing=["focus near: the character's own adapter", "deadline 4000 ms, 64 tokens"],
    )  # fmt: skip
