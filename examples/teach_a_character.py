"""A character learns, live: sixty lines written, trained, gated, spoken, taken back.

    python examples/teach_a_character.py [--world WORLD] [--npc pim] [--lines 60] [--rewrites]

A server runs a copy of the world all the while. A writer hands in a file of sixty lines,
`biblioteca train npc --data` makes an adapter of them alone, the server promotes it through the
character's gate, and the next line is spoken by it. With `--rewrites` the lines come from play: a
writer rewrites each line that a game was told, so that it ends with a phrase, and
`--from-feedback` goes on from the live adapter. Then lines that are no dialogue are refused, an
adapter of noise fails the gate, and a rollback brings back the former words, letter by letter.
The last thing printed is one JSON document; the exit code is 1 if anything that must hold did
not.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Literal

from biblioteca import AsyncClient, World
from protocol import administration as admin
from protocol import messages as wire
from protocol import play
from protocol.errors import Refusal
from roles.corpus import write_corpus
from roles.launch import launched

PHRASE = "Mind the ink."
QUESTIONS = (
    "Good evening.",
    "Who are you?",
    "What do you do here?",
    "What is this place?",
    "Can you help me?",
    "What should I be careful of?",
    "Do you like it here?",
    "Have you heard anything new?",
    "Who else works here?",
    "Where can I rest?",
)
PROBES = ("Are you busy?", "What is behind that door?", "Tell me about yourself.", "Good night.")
FROM_FILE = (
    *("--rank", "6", "--alpha", "12", "--targets", "gate,up,down", "--first-layer", "12"),
    *("--lr", "8e-4", "--epochs", "5", "--batch-size", "4", "--dropout", "0"),
    *("--replay", "0.5", "--strength", "0.9"),
)
# Without rows of its own and of others in between, the phrase would spoil all it says.
# At 2e-4 the gate refuses what it forgets (7.2 %); at 1e-4 it goes live, but says no phrase yet.
FROM_REWRITES = ("--lr", "1e-4", "--epochs", "2", "--batch-size", "4", "--replay", "1.5")
CORPUS_SCALE = 0.05  # the gate needs a few held-out rows only
PATIENCE_MS = 600_000
RETRIES = 20
PERIOD_S = 0.2


@dataclass(kw_only=True)
class Story:
    """What was done, how long it took, and what did not hold."""

    npc: str
    seconds: dict[str, float] = field(default_factory=dict)
    figures: dict[str, object] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def expect(self, holds: bool, promise: str) -> None:
        """Note a promise, and whether it was kept."""
        print(f"{'ok  ' if holds else 'FAIL'} {promise}", flush=True)
        if not holds:
            self.failures.append(promise)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Time a step."""
        began = time.perf_counter()
        yield
        self.seconds[step] = round(time.perf_counter() - began, 1)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A running server of a copied world, and what the developer's commands need."""

    client: AsyncClient
    world: Path
    state: Path
    npc: str

    async def say(self, text: str, seed: int) -> wire.SayReply:
        """A line that leaves no trace: the same question and seed ask for the same words."""
        body = wire.SayRequest(agent=self.npc, text=text, seed=seed, ephemeral=True)
        for _ in range(RETRIES):  # an authored line stands in when the machine is too busy
            reply = await self.client.request("say", body, ttl_ms=PATIENCE_MS)
            assert isinstance(reply, wire.SayReply)
            if not reply.fallback:
                return reply
        raise SystemExit(f"{self.npc}'s model does not answer: {reply.text!r}")

    async def wait_ready(self) -> None:
        """Wait until the characters' model is loaded."""
        while True:
            stats: admin.StatsReply = await self.client.request("stats", admin.StatsRequest())
            if any(one.tier == "npc" and one.state == "ready" for one in stats.engines):
                return
            await asyncio.sleep(PERIOD_S)

    async def probe(self) -> list[str]:
        """What the character says to the same questions, time and again."""
        replies = [await self.say(text, seed) for seed, text in enumerate(PROBES)]
        return [reply.text for reply in replies]

    async def change(self, op: Literal["promote", "rollback"]) -> str:
        """Ask the server to promote or roll back; why it refused, or ""."""
        try:
            await self.client.request("adapters", admin.AdaptersRequest(op=op, name=self.npc))
        except Refusal as refusal:
            return str(refusal)
        return ""

    async def train(self, *options: str) -> str:
        """`biblioteca train npc` in a process of its own; why it failed, or ""."""
        command = [sys.executable, "-m", "biblioteca", "train", "npc", self.npc]
        command += ["--world", str(self.world), "--json", *options]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        _, errors = await process.communicate()
        return errors.decode().strip() if process.returncode else ""


async def rewrite_lines(stage: Stage, count: int) -> None:
    """Talk, and rewrite each line so that it ends with the writer's phrase."""
    for number in range(count):
        line = await stage.say(QUESTIONS[number % len(QUESTIONS)], seed=1000 + number)
        better = f"{line.text} {PHRASE}"
        judged = play.FeedbackRequest(line=line.line, verdict="rewrite", text=better)
        await stage.client.request("feedback", judged)


def write_lines(stage: Stage, count: int) -> Path:
    """A file of so many lines: the first talks that the character's writer wrote."""
    written = (stage.world / "npcs" / f"{stage.npc}.txt").read_text(encoding="utf-8")
    talks = written.split("---\n")
    so_far = accumulate(talk.count("\n[") for talk in talks)
    chosen = [talk for talk, total in zip(talks, so_far, strict=True) if total <= count]
    file = stage.state / "lines.txt"
    file.write_text("---\n".join(chosen), encoding="utf-8")
    return file


async def tell(stage: Stage, story: Story, lines: int, *, rewrites: bool) -> None:
    """The whole story, promise by promise."""
    await stage.wait_ready()
    before = await stage.probe()
    if rewrites:
        with story.timed(f"{lines} lines spoken and rewritten"):
            await rewrite_lines(stage, lines)
        learned = ["--from-feedback", str(stage.state / "feedback.jsonl"), "--way", "sft"]
        learned += FROM_REWRITES
    else:
        learned = ["--data", str(write_lines(stage, lines)), *FROM_FILE]
    with story.timed("train"):
        failed = await stage.train(*learned)
    story.expect(not failed, f"the lines train an adapter {failed}")
    story.expect(await stage.probe() == before, "a candidate changes nothing")
    with story.timed("gate and promote"):
        refused = await stage.change("promote")
    story.expect(not refused, f"the candidate passes its gate and goes live {refused}")
    after = await stage.probe()
    story.figures |= {"before": before, "after": after}
    story.expect(after != before, "the running server speaks other words")
    if rewrites:
        says = sum(PHRASE in text for text in after) > len(after) // 2
        story.expect(says, "and says the phrase")
    await break_it(stage, story, after)
    with story.timed("roll back"):
        refused = await stage.change("rollback")
    story.expect(not refused, f"the server rolls back {refused}")
    story.expect(await stage.probe() == before, "the former words are back, letter by letter")


async def break_it(stage: Stage, story: Story, after: list[str]) -> None:
    """Bad rows are refused before training, a bad adapter by its gate; the live one talks on."""
    bad, noise = stage.state / "bad.jsonl", stage.state / "noise.jsonl"
    bad.write_text('{"instruction": "Hello?", "output": "<|end|>"}\n', encoding="utf-8")
    failed = await stage.train("--data", str(bad))
    story.expect("bad.jsonl:1: output" in failed, "a broken row is named by file, line and field")
    rows = ({"instruction": f"{i}?", "output": chr(0x21 + i) * 30} for i in range(40))
    noise.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    failed = await stage.train("--data", str(noise), "--epochs", "2", "--lr", "5e-3")
    story.expect(not failed, f"noise trains, too {failed}")
    refused = await stage.change("promote")
    story.expect("does not pass its gate" in refused, f"but the gate refuses it: {refused}")
    story.expect(await stage.probe() == after, "and the live adapter talks on")


async def play_out(world: World, npc: str, lines: int, *, rewrites: bool) -> Story:
    """Copy the world, serve the copy, and tell the story against it."""
    story = Story(npc=npc)
    with tempfile.TemporaryDirectory(prefix="teach-") as folder:
        root, state = Path(folder) / "world", Path(folder) / "state"
        shutil.copytree(world.root, root)
        os.chdir(folder)  # the gate looks for held-out rows in runs/corpus
        with story.timed("write held-out rows for the gate"):
            write_corpus(root, Path("runs/corpus"), scale=CORPUS_SCALE)
        async with launched(str(root), state) as connection, AsyncClient(connection) as client:
            stage = Stage(client=client, world=root, state=state, npc=npc)
            await tell(stage, story, lines, rewrites=rewrites)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    story.figures["cpu_s"] = round(used.ru_utime + used.ru_stime, 1)
    return story


def main() -> None:
    """Read the arguments, play, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--world", default="biblioteca_eterna", help="folder or name")
    parser.add_argument("--npc", default="pim", help="who learns")
    parser.add_argument("--lines", type=int, default=60, help="lines to learn from")
    parser.add_argument("--rewrites", action="store_true", help="rewrite lines of play instead")
    asked = parser.parse_args()
    world = World.load(asked.world)
    story = asyncio.run(play_out(world, asked.npc, asked.lines, rewrites=asked.rewrites))
    print(json.dumps(dataclasses.asdict(story), indent=2))
    sys.exit(1 if story.failures else 0)


if __name__ == "__main__":
    main()
