"""Exact words: writing them into scripts, and remembering what made them.

Beside the scripts, `goldens.json` keeps for each golden the digests of the adapter, base and
prompt that made its words, and the machine, so that a failure can say what has changed since.
Another processor or torch rounds differently, and now and then a word tips over: a golden that
differs though nothing but the machine does is a warning.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from roles.dialogues.expectations import Finding
from roles.dialogues.observation import Observation
from roles.dialogues.runner import Outcome, TurnResult, Verdict
from roles.dialogues.source import Source

FILE = "goldens.json"
# A virtual machine may name a whole family of processors alike; these tell them apart.
_ARITHMETIC = ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")


@dataclass(frozen=True, slots=True)
class Made:
    """What made a golden's words: digests in hexadecimal, and the machine's processor and torch."""

    adapter: str = ""
    base: str = ""
    prompt: str = ""
    sampler: dict[str, object] = field(default_factory=dict)
    machine: str = ""

    @classmethod
    def by(cls, seen: Observation) -> Made:
        """What made the first line of a turn."""
        if seen.first is None:
            return cls()
        origin = seen.first.origin
        digests = (origin.adapter, origin.base, origin.prompt_digest)
        return cls(*digests, origin.sampler, machine())


@dataclass(frozen=True, slots=True)
class Rewriting:
    """One golden that other words replace."""

    source: Source
    turn: int
    old: str | None
    new: str
    made: Made


def changes(then: Made, now: Made) -> list[str]:
    """What differs between two makings, one sentence each."""
    found = []
    for name in ("adapter", "base", "prompt"):
        old, new = getattr(then, name), getattr(now, name)
        if old != new:
            found.append(f"{name} was {old[:12] or 'none'}, is {new[:12] or 'none'}")
    names = sorted({*then.sampler, *now.sampler})
    for name in names:
        old, new = then.sampler.get(name), now.sampler.get(name)
        if old != new:
            found.append(f"sampler {name} was {old}, is {new}")
    return found


@cache
def machine() -> str:
    """What rounds: processor and instructions, the C compiler, the C library, torch."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    table = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    has = set(table.get("flags", "").split())
    parts = [
        table.get("model name", platform.processor()),
        *(name for name in _ARITHMETIC if name in has),
        _compiler(),
        " ".join(platform.libc_ver()).strip(),
        f"torch {version('torch')}",
    ]
    return ", ".join(part for part in parts if part)


def _compiler() -> str:
    """The first line of its own words, or "" without one: then the engine multiplies in torch."""
    path = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if path is None:
        return ""
    done = subprocess.run(
        [path, "--version"], capture_output=True, text=True, check=False, timeout=30
    )
    return done.stdout.partition("\n")[0]


def forgive_rounding(verdict: Verdict) -> Verdict:
    """The verdict with goldens as warnings where only the machine is another than theirs."""
    return verdict.judged(_forgiven)


def _forgiven(source: Source, turn: TurnResult) -> Iterator[Finding]:
    then, now = made_of(source, turn.index), Made.by(turn.seen)
    elsewhere = then is not None and then.machine != now.machine and not changes(then, now)
    for one in turn.findings:
        if elsewhere and one.key == "exact":
            assert then is not None
            why = f"the words differ on another machine ({then.machine})"
            yield replace(one, severity="warning", message=why)
        else:
            yield one


def without_goldens(verdict: Verdict) -> Verdict:
    """The verdict as it is where exact words don't count."""
    return verdict.judged(lambda _, turn: (x for x in turn.findings if x.key != "exact"))


def made_of(source: Source, turn: int) -> Made | None:
    """What made a golden's words when they were written, or None if nobody noted it."""
    noted = _read(source.file.parent / FILE).get(f"{source.id}::{turn}")
    return Made(**noted) if noted is not None else None


def rewritings(verdict: Verdict) -> Iterator[Rewriting]:
    """Every golden whose words differ from what came in its script's first run."""
    for outcome in verdict.outcomes:
        for turn in outcome.runs[0].turns:
            if finding := _exact(turn):
                old = outcome.source.script.turns[turn.index].expect.exact
                made = Made.by(turn.seen)
                yield Rewriting(outcome.source, turn.index, old, finding.got or "", made)


def write(found: Iterable[Rewriting]) -> None:
    """Put the new words into the scripts' files, leaving every other character as it is."""
    by_file: dict[Path, list[Rewriting]] = {}
    for one in found:
        by_file.setdefault(one.source.file, []).append(one)
    for file, many in by_file.items():
        text = file.read_text(encoding="utf-8")
        places = [(one.source.places["turns", one.turn, "expect", "exact"], one) for one in many]
        for place, one in sorted(places, key=lambda pair: -pair[0].start):
            gap = "" if text[place.start - 1 : place.start].isspace() else " "
            text = text[: place.start] + gap + _quoted(one.new) + text[place.end :]
        file.write_text(text, encoding="utf-8")


def note(outcomes: Iterable[Outcome]) -> None:
    """Remember what made each golden that now stands."""
    by_folder: dict[Path, dict[str, dict[str, Any]]] = {}
    for outcome in outcomes:
        folder = outcome.source.file.parent / FILE
        noted = by_folder.setdefault(folder, {})
        for turn in outcome.runs[0].turns:
            if "exact" in outcome.source.script.turns[turn.index].expect.model_fields_set:
                noted[f"{outcome.source.id}::{turn.index}"] = asdict(Made.by(turn.seen))
    for file, noted in by_folder.items():
        everything = {**_read(file), **noted}
        text = json.dumps(everything, indent=1, sort_keys=True, ensure_ascii=False)
        file.write_text(f"{text}\n", encoding="utf-8")


def _exact(turn: TurnResult) -> Finding | None:
    return next((finding for finding in turn.findings if finding.key == "exact"), None)


def _read(file: Path) -> dict[str, dict[str, Any]]:
    if not file.is_file():
        return {}
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _quoted(text: str) -> str:
    """A YAML double-quoted string; what can't be printed is escaped, as YAML demands."""
    escaped = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}
    signs = (
        escaped.get(sign) or (sign if sign.isprintable() else f"\\U{ord(sign):08x}")
        for sign in text
    )
    return f'"{"".join(signs)}"'
