"""Compares two worlds, adapters or bases over all scripts: words, expectations, style, surprise."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from roles.dialogues.errors import ComparisonError
from roles.dialogues.hosting import hosted, with_adapter, with_base
from roles.dialogues.observation import Spoken
from roles.dialogues.replay import causes_of
from roles.dialogues.runner import CONCURRENCY, Outcome, Verdict, check
from roles.dialogues.source import Source
from roles.dialogues.wording import divergence, style, vocabulary
from roles.problems import nearest
from roles.world import World

Kind = Literal["world", "adapter", "base"]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two things compared.

    Attributes:
        shown: as the user named it.
        world: the world with this adapter or base in it.
    """

    shown: str
    kind: Kind
    world: World


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A line that both sides speak, differently."""

    script: str
    seed: int
    turn: int
    said: str
    a: Spoken
    b: Spoken
    causes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Flip:
    """An expectation that holds on one side only: `broken` tells whether B lost it."""

    script: str
    turn: int
    key: str
    broken: bool
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Voice:
    """How an agent speaks, in numbers, on each side.

    Attributes:
        perplexity: of its own words under its own weights, exp(-mean log p) per token.
        words_shift: Jensen-Shannon divergence of the words used, 0 to 1 bit; `moods_shift` of
            the moods.
    """

    agent: str
    lines: int
    changed: int
    style_a: dict[str, float]
    style_b: dict[str, float]
    perplexity_a: float | None
    perplexity_b: float | None
    words_shift: float
    moods_shift: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareReport:
    """Everything that differs between A and B."""

    a: str
    b: str
    scripts: int
    lines: int
    changes: tuple[Change, ...]
    flips: tuple[Flip, ...]
    voices: tuple[Voice, ...]


def side(name: str, world: World, agent: str | None = None) -> Side:
    """What the user named: a world, an adapter of one of its characters, or a base.

    Args:
        name: a world's folder or name, a PEFT folder, or a transformers folder.
        world: the world that an adapter or base is put into.
        agent: whose adapter it is; left out, the adapter's folder or card tells.

    Raises:
        ComparisonError: it is none of these, or nobody knows whose adapter it is.
        WorldError: the world's files are wrong.
    """
    folder = Path(name)
    if (folder / "adapter_config.json").is_file():
        npc = agent or _owner(folder, world)
        return Side(shown=name, kind="adapter", world=with_adapter(world, npc, folder))
    if (folder / "config.json").is_file():
        return Side(shown=name, kind="base", world=with_base(world, "npc", str(folder.resolve())))
    if (folder / "world.toml").is_file() or not folder.exists():
        return Side(shown=name, kind="world", world=World.load(name))
    files = "world.toml, adapter_config.json (an adapter) or config.json (a base)"
    raise ComparisonError(f"{name} is nothing to compare: a folder with {files} is")


def _owner(folder: Path, world: World) -> str:
    card = folder / "card.json"
    table = json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}
    names = [table.get("name", ""), folder.name, folder.parent.name, folder.parent.parent.name]
    for name in names:
        if name in world.npcs:
            return str(name)
    remedy = nearest(folder.name, world.npcs)
    raise ComparisonError(f"{folder}: whose adapter is it? add --agent NAME ({remedy})")


async def compare(
    a: Side, b: Side, sources: Sequence[Source], *, concurrency: int = CONCURRENCY
) -> CompareReport:
    """Play all scripts on both sides, one after the other, and tell what differs.

    Raises:
        ComparisonError: one is a world, say, and the other an adapter.
    """
    if a.kind != b.kind:
        message = f"{a.shown} is a {a.kind}, {b.shown} a {b.kind}; compare two of one kind"
        raise ComparisonError(message)
    verdicts = []
    for one in (a, b):
        async with hosted(one.world) as host:
            verdict = await check(
                sources,
                one.world,
                host.stages(),
                host.instruments,
                concurrency=concurrency,
                top_logprobs=1,
            )
            verdicts.append(verdict)
    return differences(a.shown, b.shown, verdicts[0], verdicts[1])


def differences(a: str, b: str, one: Verdict, two: Verdict) -> CompareReport:
    """What differs between two verdicts on the same scripts."""
    outcomes = list(zip(one.outcomes, two.outcomes, strict=True))
    changes = [change for pair in outcomes for change in _changes(*pair)]
    flips = [flip for pair in outcomes for flip in _flips(*pair)]
    return CompareReport(
        a=a,
        b=b,
        scripts=len(outcomes),
        lines=one.num_lines,
        changes=tuple(changes),
        flips=tuple(flips),
        voices=tuple(_voices(one, two, changes)),
    )


def _changes(one: Outcome, two: Outcome) -> Iterable[Change]:
    for run_a, run_b in zip(one.runs, two.runs, strict=True):
        for turn_a, turn_b in zip(run_a.turns, run_b.turns, strict=True):
            for a, b in zip(turn_a.seen.lines, turn_b.seen.lines, strict=False):
                if (a.text, a.emotion, a.actions) != (b.text, b.emotion, b.actions):
                    yield Change(
                        script=one.source.id,
                        seed=run_a.seed,
                        turn=turn_a.index,
                        said=turn_a.seen.said,
                        a=a,
                        b=b,
                        causes=tuple(causes_of(a, b)),
                    )


def _flips(one: Outcome, two: Outcome) -> Iterable[Flip]:
    held: list[dict[tuple[int, str], str]] = []
    for outcome in (one, two):
        found = [(t.index, f) for run in outcome.runs for t, f in run.findings]
        held.append({(i, f.key): f.message for i, f in found if f.severity != "warning"})
    for turn, key in sorted(held[0].keys() ^ held[1].keys()):
        broken = (turn, key) in held[1]
        message = held[broken][turn, key]
        yield Flip(script=one.source.id, turn=turn, key=key, broken=broken, message=message)


def _voices(one: Verdict, two: Verdict, changes: Sequence[Change]) -> Iterable[Voice]:
    said = [_by_agent(verdict) for verdict in (one, two)]
    changed = Counter(change.a.agent for change in changes)
    for agent in sorted(said[0].keys() & said[1].keys()):
        a, b = said[0][agent], said[1][agent]
        yield Voice(
            agent=agent,
            lines=len(a),
            changed=changed[agent],
            style_a=style(line.text for line in a),
            style_b=style(line.text for line in b),
            perplexity_a=perplexity(a),
            perplexity_b=perplexity(b),
            words_shift=divergence(*(vocabulary(x.text for x in lines) for lines in (a, b))),
            moods_shift=divergence(*(Counter(x.emotion for x in lines) for lines in (a, b))),
        )


def _by_agent(verdict: Verdict) -> dict[str, list[Spoken]]:
    found: dict[str, list[Spoken]] = {}
    for outcome in verdict.outcomes:
        for run in outcome.runs:
            for turn in run.turns:
                for line in turn.seen.lines:
                    found.setdefault(line.agent, []).append(line)
    return found


def perplexity(lines: Iterable[Spoken]) -> float | None:
    """exp(-mean log-probability) per token of what was said, or None without log-probabilities."""
    logs = [log for line in lines for log in line.logprobs]
    return math.exp(-sum(logs) / len(logs)) if logs else None
