"""Plays scripts, many at once so that they share the engines' batches, and judges each turn."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from roles.dialogues.expectations import Finding, Instruments, examine
from roles.dialogues.observation import Observation
from roles.dialogues.performance import Performance
from roles.dialogues.rates import Rate
from roles.dialogues.source import Source
from roles.dialogues.stage import OpenStage
from roles.world import World

CONCURRENCY = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnResult:
    """One turn as it was played."""

    index: int
    seen: Observation
    findings: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A script played once, with one seed."""

    seed: int
    turns: tuple[TurnResult, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of every word, mood and action: equal for identical runs."""
        seen = hashlib.sha256(str(self.seed).encode())
        for turn in self.turns:
            lines = [(x.agent, x.text, x.emotion, x.actions) for x in turn.seen.lines]
            key = (turn.index, turn.seen.refused, lines, turn.seen.page_text)
            seen.update(repr(key).encode())
        return seen.hexdigest()

    @property
    def findings(self) -> list[tuple[TurnResult, Finding]]:
        """Everything found, with its turn."""
        return [(turn, finding) for turn in self.turns for finding in turn.findings]

    def has(self, severity: str) -> bool:
        """Whether there is a finding this severe."""
        return any(finding.severity == severity for _, finding in self.findings)

    @property
    def passed(self) -> bool:
        """Whether nothing but warnings was found."""
        return not (self.has("failure") or self.has("leak"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A script and all its runs."""

    source: Source
    runs: tuple[Run, ...]

    @property
    def rate(self) -> Rate:
        """How many runs passed."""
        return Rate(sum(run.passed for run in self.runs), len(self.runs))

    @property
    def passed(self) -> bool:
        """Whether the pass rate holds (or is known not to) and nothing leaked in any run."""
        leaked = any(run.has("leak") for run in self.runs)
        return not leaked and (self.holds or bool(self.source.script.weak))

    @property
    def holds(self) -> bool:
        """Whether the pass rate holds."""
        return self.rate.holds(self.source.script.pass_rate)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """All scripts of a check, in their files' order.

    Attributes:
        wall_s: seconds of playing, without loading models.
    """

    outcomes: tuple[Outcome, ...]
    wall_s: float
    concurrency: int

    @property
    def passed(self) -> bool:
        """Whether every script passed."""
        return all(outcome.passed for outcome in self.outcomes)

    def judged(self, judge: Callable[[Source, TurnResult], Iterable[Finding]]) -> Verdict:
        """The same lines with other findings."""

        def turn(source: Source, played: TurnResult) -> TurnResult:
            return replace(played, findings=tuple(judge(source, played)))

        def run(source: Source, played: Run) -> Run:
            return replace(played, turns=tuple(turn(source, one) for one in played.turns))

        outcomes = [replace(x, runs=tuple(run(x.source, y) for y in x.runs)) for x in self.outcomes]
        return replace(self, outcomes=tuple(outcomes))

    @property
    def num_lines(self) -> int:
        """Lines spoken in all runs."""
        runs = [run for outcome in self.outcomes for run in outcome.runs]
        return sum(len(turn.seen.lines) for run in runs for turn in run.turns)

    @property
    def digest(self) -> str:
        """SHA-256 of all scripts and their runs: equal for identical checks."""
        runs = [(x.source.id, [run.digest for run in x.runs]) for x in self.outcomes]
        return hashlib.sha256(repr(runs).encode()).hexdigest()


async def check(
    sources: Sequence[Source],
    world: World,
    open_stage: OpenStage,
    instruments: Instruments,
    *,
    seeds: int | None = None,
    concurrency: int = CONCURRENCY,
    top_logprobs: int = 0,
) -> Verdict:
    """Play every script and judge what comes.

    Args:
        sources: the scripts, checked against `world`.
        world: the world they play in, for its lore and events.
        open_stage: where they play; each run has a stage of its own.
        instruments: what some checks measure with.
        seeds: runs per script, instead of what each script says.
        concurrency: most runs at once.
        top_logprobs: alternatives kept per token; needed for perplexity.
    """
    free = asyncio.Semaphore(concurrency)

    async def play(source: Source, number: int) -> Run:
        async with free, open_stage() as stage:
            seed = source.script.seed + number
            performance = Performance(source.script, world, stage, seed, top_logprobs)
            turns = await _judged(performance, instruments, exactly=number == 0)
            return Run(seed=seed, turns=tuple(turns))

    began = time.perf_counter()
    counts = [seeds or source.script.seeds for source in sources]
    jobs = [(one, k) for one, n in zip(sources, counts, strict=True) for k in range(n)]
    # The longest begin first: at the end no long one is left to play alone.
    order = sorted(range(len(jobs)), key=lambda job: -jobs[job][0].script.num_lines)
    tasks = {job: asyncio.create_task(play(*jobs[job])) for job in order}
    runs = await asyncio.gather(*(tasks[job] for job in range(len(jobs))))
    wall_s = time.perf_counter() - began
    return Verdict(
        outcomes=tuple(_grouped(sources, counts, runs)), wall_s=wall_s, concurrency=concurrency
    )


async def _judged(
    performance: Performance, instruments: Instruments, *, exactly: bool
) -> list[TurnResult]:
    """Play and examine every turn; exact words are those of a script's own seed alone."""
    results = []
    for index, turn in enumerate(performance.script.turns):
        seen = await performance.play(index, turn)
        found = examine(turn.expect, seen, instruments)
        findings = tuple(one for one in found if exactly or one.key != "exact")
        results.append(TurnResult(index=index, seen=seen, findings=findings))
    await performance.close()
    return results


def _grouped(
    sources: Sequence[Source], counts: Sequence[int], runs: Sequence[Run]
) -> Iterable[Outcome]:
    start = 0
    for source, count in zip(sources, counts, strict=True):
        yield Outcome(source=source, runs=tuple(runs[start : start + count]))
        start += count
