"""An hour of game time, played by a script, with its memory, secrets and budgets checked.

    python examples/one_evening.py [--world WORLD] [--exchanges 320] [--seed 1] [--json]

A game client talks to every character of a world for an evening: it tells them things and asks
for them much later, asks everybody about everybody's secrets, reports events, ticks the
director, and gathers characters in scenes. After each line it asks the server what the model
was shown, and checks it. The last line printed is one JSON document; the exit code is 1 if
anything that must hold did not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

from biblioteca import AsyncClient, World
from protocol import administration as admin
from protocol import messages as wire
from protocol import play
from roles.launch import launched
from roles.voice import LOOPED

HOUR_S = 3600.0
NO_REPEAT_LINES = 20
MIN_DISTANCE = 12  # lines between telling a thing and asking for it
SMALL_TALK = (
    "How has your night been?",
    "It is very quiet here.",
    "What are you working on?",
    "Do you ever leave this place?",
    "Tell me something I don't know.",
    "I should rest a while.",
    "What would you do in my place?",
    "Are you happy here?",
)
THINGS = ("dog", "boat", "sister", "lantern", "horse", "teacher", "village", "cat", "uncle", "ship")
SYLLABLES = (
    "ba",
    "dor",
    "fen",
    "gil",
    "har",
    "jo",
    "kes",
    "lum",
    "mar",
    "nev",
    "or",
    "pel",
    "quin",
)


@dataclass
class Planted:
    """Something a character was told, to be asked for later."""

    npc: str
    thing: str
    question: str
    answer: str
    at_line: int


@dataclass
class Evening:
    """What has been seen so far."""

    client: AsyncClient
    world: World
    rng: random.Random
    lines: int = 0
    happened: set[str] = field(default_factory=set)
    planted: list[Planted] = field(default_factory=list)
    spoken_in_scenes: list[str] = field(default_factory=list)
    visited: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    asked: int = 0
    missed: list[str] = field(default_factory=list)
    recalled: int = 0
    repeated_in_reply: int = 0
    leaks: list[str] = field(default_factory=list)
    over_budget: list[str] = field(default_factory=list)
    repeats: list[str] = field(default_factory=list)
    fallbacks: Counter[str] = field(default_factory=Counter)
    looped: int = 0
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=NO_REPEAT_LINES))
    ticks: list[tuple[int, int, float]] = field(default_factory=list)
    directives: int = 0
    first_token_ms: list[float] = field(default_factory=list)

    @property
    def now(self) -> float:
        """Game clock, in seconds."""
        return self.lines * HOUR_S / 340

    async def say(self, npc: str, text: str) -> tuple[wire.SayReply, str]:
        """One exchange; returns the reply and the prompt it came from."""
        body = wire.SayRequest(agent=npc, text=text, actions=[])
        reply: wire.SayReply = await self.client.request("say", body)
        return reply, await self.check(reply)

    async def check(self, reply: wire.SayReply) -> str:
        """Look at what a line's model was shown."""
        shown: admin.InspectReply = await self.client.request(
            "inspect", admin.InspectRequest(line=reply.line)
        )
        prompt = "".join(segment.text for segment in shown.segments)
        self.lines += 1
        self.fallbacks[reply.cause] += reply.fallback
        self.looped += reply.cause == LOOPED and not reply.fallback
        reserved = int(shown.sampler.get("max_tokens", 0))
        if shown.usage.prompt_tokens + reserved > shown.context_tokens:
            self.over_budget.append(reply.line)
        if not reply.fallback:
            self.first_token_ms.append(reply.usage.ttft_ms)
            if reply.text in self.recent:
                self.repeats.append(reply.text)
            self.recent.append(reply.text)
        self.leaks += self._leaks(reply.agent, prompt)
        return prompt

    def _leaks(self, npc: str, prompt: str) -> list[str]:
        """Facts and confidences in a prompt that its character may not know."""
        scopes = self.world.scopes(npc) | self.visited[npc]
        found = [
            f"{fact.id} to {npc}"
            for fact in self.world.facts.values()
            if fact.text in prompt and not fact.known_to(scopes, self.happened)
        ]
        heard = " ".join(self.spoken_in_scenes)
        found += [
            f"{secret.answer} of {secret.npc} to {npc}"
            for secret in self.planted
            if secret.npc != npc and secret.answer in prompt and secret.answer not in heard
        ]
        return found

    async def plant(self) -> None:
        """Tell somebody something new."""
        npc = self.rng.choice(list(self.world.npcs))
        thing = self.rng.choice(THINGS)
        name = "".join(self.rng.sample(SYLLABLES, 3)).capitalize()
        known = any(x.npc == npc and x.thing == thing for x in self.planted)
        if known or any(x.answer == name for x in self.planted):
            await self.small_talk()
            return
        await self.say(npc, f"My {thing} is called {name}.")
        question = f"What is my {thing} called?"
        self.planted.append(Planted(npc, thing, question, name, self.lines))

    async def recall(self) -> None:
        """Ask somebody for what it was told long ago."""
        ready = [x for x in self.planted if x.question and self.lines - x.at_line >= MIN_DISTANCE]
        if not ready:
            await self.small_talk()
            return
        wanted = self.rng.choice(ready)
        reply, prompt = await self.say(wanted.npc, wanted.question)
        self.asked += 1
        if wanted.answer not in prompt:
            ago = self.lines - wanted.at_line
            self.missed.append(f"{wanted.question} of {wanted.npc}, told {ago} lines ago")
        self.recalled += wanted.answer in prompt
        self.repeated_in_reply += wanted.answer in reply.text
        wanted.question = ""

    async def pry(self) -> None:
        """Ask anybody about any fact, secret or not."""
        fact = self.rng.choice(list(self.world.facts.values()))
        npc = self.rng.choice(list(self.world.npcs))
        words = " ".join(fact.text.rstrip(".").split()[:6])
        await self.say(npc, f"Is it true: {words}? What do you know about {fact.id}?")

    async def small_talk(self) -> None:
        """Say something of no weight."""
        npc = self.rng.choice(list(self.world.npcs))
        await self.say(npc, self.rng.choice(SMALL_TALK))

    async def happen(self) -> None:
        """Report an event; the director decides what to make of it."""
        kind = self.rng.choice(list(self.world.spec.events))
        about = self.world.spec.events[kind]
        place = self.rng.choice(list(self.world.spec.places.values()))
        witnesses = self.rng.sample(list(self.world.npcs), 2)
        event = play.EventRequest(
            kind=kind,
            text=about.text.replace("{place}", place),
            who=witnesses,
            importance=about.importance,
            now=self.now,
        )
        await self.client.request("event", event)
        self.happened.add(kind)
        await self.tick()

    async def tick(self) -> None:
        """Let the director decide, and note what it cost."""
        reply: wire.TickReply = await self.client.request("tick", wire.TickRequest(now=self.now))
        used = reply.usage
        decode_ms = 1000 * used.completion_tokens / used.tokens_per_s if used.tokens_per_s else 0.0
        if not reply.fallback:
            took_ms = used.ttft_ms + decode_ms
            self.ticks.append((used.prompt_tokens, used.completion_tokens, took_ms))
        self.directives += not reply.waited

    async def gather(self) -> None:
        """Three characters and the player in one place."""
        present = self.rng.sample(list(self.world.npcs), 3)
        place = self.rng.choice(list(self.world.spec.places))
        scene = play.SceneRequest(scene="tonight", place=place, present=present)
        await self.client.request("scene", scene)
        for npc in present:
            self.visited[npc].add(place)  # who is in a place knows what is known there
        name = self.world.npcs[present[0]].name
        for text in (f"{name}, what do you make of this?", "And what do the rest of you say?"):
            body = wire.ConverseRequest(scene="tonight", text=text, max_lines=2)
            answer: wire.ConverseReply = await self.client.request("converse", body)
            for reply in answer.lines:
                self.spoken_in_scenes.append(reply.text)
                await self.check(reply)
        await self.client.request("scene", play.SceneRequest(scene="tonight"))

    def report(self, wall_s: float) -> dict[str, Any]:
        """What was seen, as figures."""
        quarter = max(len(self.ticks) // 4, 1)
        first, last = self.ticks[:quarter], self.ticks[-quarter:]

        def mean(ticks: list[tuple[int, int, float]], column: int) -> float:
            return statistics.mean(tick[column] for tick in ticks) if ticks else 0.0

        return {
            "world": self.world.spec.title,
            "characters": len(self.world.npcs),
            "exchanges": self.lines,
            "wall_s": round(wall_s, 1),
            "recall_asked": self.asked,
            "recall_in_prompt": round(self.recalled / max(self.asked, 1), 3),
            "recall_in_reply": round(self.repeated_in_reply / max(self.asked, 1), 3),
            "leaks": len(self.leaks),
            "prompts_over_budget": len(self.over_budget),
            "repeats_within_20": len(self.repeats),
            "cut_as_loops": self.looped,
            "fallbacks": self.fallbacks.total(),
            "first_token_ms_p50": round(statistics.median(self.first_token_ms or [0.0]), 1),
            "ticks": len(self.ticks),
            "directives": self.directives,
            "tick_tokens_first_quarter": round(mean(first, 0), 1),
            "tick_tokens_last_quarter": round(mean(last, 0), 1),
            "tick_reply_tokens_first_quarter": round(mean(first, 1), 1),
            "tick_reply_tokens_last_quarter": round(mean(last, 1), 1),
            "tick_ms_first_quarter": round(mean(first, 2), 1),
            "tick_ms_last_quarter": round(mean(last, 2), 1),
        }


def failures(report: dict[str, Any]) -> list[str]:
    """What must hold and did not."""
    cost = [
        report[f"tick_tokens_{when}_quarter"] + report[f"tick_reply_tokens_{when}_quarter"]
        for when in ("first", "last")
    ]
    checks = {
        "fewer than 90 % of what was told could be recalled": report["recall_in_prompt"] < 0.9,
        "a secret leaked": report["leaks"] > 0,
        "a prompt was over its budget": report["prompts_over_budget"] > 0,
        "a reply was repeated": report["repeats_within_20"] > 0,
        "the director's ticks grew": cost[1] > 1.2 * cost[0],
    }
    return [sentence for sentence, broken in checks.items() if broken]


async def agents(client: AsyncClient) -> admin.AgentsReply:
    """Who is hosted, and how each fares."""
    reply: admin.AgentsReply = await client.request("agents", admin.AgentsRequest())
    return reply


async def play_evening(world_name: str, exchanges: int, seed: int) -> dict[str, Any]:
    """Play, and return the report."""
    world = World.load(world_name)
    async with launched(world_name) as connection, AsyncClient(connection) as client:
        while "starting" in [agent.state for agent in (await agents(client)).agents]:
            await asyncio.sleep(0.2)
        evening = Evening(client, world, random.Random(seed))
        parts = [evening.plant, evening.recall, evening.pry, evening.small_talk]
        began = time.monotonic()
        while evening.lines < exchanges:
            number = evening.lines
            await evening.rng.choices(parts, weights=(3, 3, 4, 2))[0]()
            if number // 12 != evening.lines // 12:
                await evening.happen()
            if number // 40 != evening.lines // 40:
                await evening.gather()
            print(f"\r{evening.lines} of {exchanges} exchanges", end="", file=sys.stderr)
        print(file=sys.stderr)
        found = {
            "not recalled": evening.missed,
            "leak": evening.leaks,
            "repeated": evening.repeats,
            "fallback": [f"{n} times: {cause}" for cause, n in evening.fallbacks.items() if n],
        }
        for what, items in found.items():
            for item in items[:5]:
                print(f"{what}: {item}", file=sys.stderr)
        return evening.report(time.monotonic() - began)


def main() -> None:
    """Read the arguments, play, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--world", default="biblioteca_eterna", help="folder or name")
    parser.add_argument("--exchanges", type=int, default=320, help="lines to exchange")
    parser.add_argument("--seed", type=int, default=1, help="of what is said to whom")
    parser.add_argument("--json", action="store_true", help="print the JSON document only")
    arguments = parser.parse_args()
    report = asyncio.run(play_evening(arguments.world, arguments.exchanges, arguments.seed))
    broken = failures(report)
    if not arguments.json:
        for key, value in report.items():
            print(f"{key.replace('_', ' '):28} {value}")
        for sentence in broken:
            print(f"FAILED: {sentence}")
    print(json.dumps({**report, "failed": broken}))
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
