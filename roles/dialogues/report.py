"""Tells how a check went: to people, to machines (JSON), to build servers (JUnit XML)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.console import Console
from rich.markup import escape

from roles.dialogues.expectations import Finding
from roles.dialogues.goldens import Made, Rewriting, changes, made_of
from roles.dialogues.runner import Outcome, Run, TurnResult, Verdict
from roles.dialogues.source import Source

_PIECE = re.compile(r"\s+|[^\s\w]+|\w+")
# Not allowed in XML 1.0, however they are escaped.
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def word_diff(old: str, new: str) -> list[tuple[str, str]]:
    """What became of each piece of a text: (sign, piece), sign being " ", "-" or "+"."""
    a, b = _PIECE.findall(old), _PIECE.findall(new)
    pieces: list[tuple[str, str]] = []
    matcher = difflib.SequenceMatcher(a=a, b=b, autojunk=False)
    for what, a0, a1, b0, b1 in matcher.get_opcodes():
        if what == "equal":
            pieces.append((" ", "".join(a[a0:a1])))
            continue
        pieces += [("-", "".join(a[a0:a1]))] if a1 > a0 else []
        pieces += [("+", "".join(b[b0:b1]))] if b1 > b0 else []
    return pieces


def plain_diff(old: str, new: str) -> str:
    """A word diff without colours: [-gone-]{+new+}."""
    marks = {" ": "{}", "-": "[-{}-]", "+": "{{+{}+}}"}
    return "".join(marks[sign].format(piece) for sign, piece in word_diff(old, new))


def rich_diff(old: str, new: str) -> str:
    """A word diff as rich's markup."""
    marks = {" ": "{}", "-": "[red strike]{}[/]", "+": "[green]{}[/]"}
    return "".join(marks[sign].format(escape(piece)) for sign, piece in word_diff(old, new))


def shown_diff(old: str, new: str, console: Console) -> str:
    """A word diff as rich's markup: in colours, or with [-marks-] where there are none."""
    colours = console.record or (console.is_terminal and not console.no_color)
    return rich_diff(old, new) if colours else escape(plain_diff(old, new))


def where(source: Source, turn: TurnResult, finding: Finding) -> str:
    """FILE:LINE of the expectation that doesn't hold."""
    line = source.line("turns", turn.index, "expect", *finding.key.split("."))
    return f"{source.shown}:{line}"


def explain(outcome: Outcome, run: Run, turn: TurnResult, finding: Finding) -> str:
    """A finding in full, as plain text: where, what, the diff, the prompt, what has changed."""
    parts = [f"{where(outcome.source, turn, finding)}: {finding.key}: {finding.message}"]
    if finding.wanted is not None and finding.got is not None:
        parts.append(f"  diff: {plain_diff(finding.wanted, finding.got)}")
        parts += [f"  {change}" for change in _since(outcome.source, turn)]
    if turn.seen.first is not None:
        line = turn.seen.first
        digests = f"adapter {line.origin.adapter[:12] or 'none'}, base {line.origin.base[:12]}"
        parts.append(f"  {line.agent}, seed {line.seed} (run {run.seed}), {digests}")
        parts.append(f"  said: {line.raw or line.text}")
        if line.cause:
            parts.append(f"  because {line.cause}")
        parts.append("  prompt:\n" + _indented(line.origin.prompt))
    return "\n".join(parts)


def _since(source: Source, turn: TurnResult) -> list[str]:
    then = made_of(source, turn.index)
    if then is None:
        return ["nobody noted what made the golden; run check --update"]
    return changes(then, Made.by(turn.seen)) or [
        "adapter, base, prompt and sampler are as they were"
    ]


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def failures(outcome: Outcome) -> Iterator[tuple[Run, TurnResult, Finding]]:
    """Every finding of a script, each expectation once: as its first run broke it."""
    told: set[tuple[int, str]] = set()
    for run in outcome.runs:
        for turn, finding in run.findings:
            key = (turn.index, finding.key)
            if key not in told:
                told.add(key)
                yield run, turn, finding


def print_verdict(verdict: Verdict, console: Console, *, verbose: bool = False) -> None:
    """The check for people: failures in full, warnings in a line, a summary."""
    for outcome in verdict.outcomes:
        if not outcome.passed:
            console.print(f"[red]FAILED[/] [bold]{escape(outcome.source.id)}[/] {_about(outcome)}")
            _print_findings(outcome, console)
        elif outcome.source.script.weak:
            what = "holds now, remove `weak`" if outcome.holds else outcome.source.script.weak
            console.print(
                f"[yellow]weak[/] {escape(outcome.source.id)} {_about(outcome)}: {escape(what)}"
            )
        elif verbose:
            console.print(f"[green]passed[/] {escape(outcome.source.id)} {_about(outcome)}")
        for warning in _warnings(outcome):
            console.print(f"[yellow]warning[/] {escape(warning)}")
    failed = sum(not outcome.passed for outcome in verdict.outcomes)
    colour = "red" if failed else "green"
    runs = sum(len(outcome.runs) for outcome in verdict.outcomes)
    told = f"{len(verdict.outcomes)} scripts, {runs} runs, {verdict.num_lines} lines"
    console.print(
        f"[{colour}]{len(verdict.outcomes) - failed} passed, {failed} failed[/] "
        f"({told}) in {verdict.wall_s:.1f} s, {verdict.concurrency} at once; "
        f"digest {verdict.digest[:16]}",
        highlight=False,
    )


def _about(outcome: Outcome) -> str:
    if len(outcome.runs) == 1:
        return ""
    wanted = outcome.source.script.pass_rate
    unsure = "" if outcome.rate.settles(wanted) else "; too few seeds to be sure, try --seeds 30"
    return f"{outcome.rate}, wanted {wanted:.0%}{unsure}"


def _print_findings(outcome: Outcome, console: Console) -> None:
    for run, turn, finding in failures(outcome):
        if finding.severity == "warning":
            continue
        told = explain(outcome, run, turn, finding)
        if finding.wanted is not None and finding.got is not None:
            plain = plain_diff(finding.wanted, finding.got)
            diff = shown_diff(finding.wanted, finding.got, console)
            told = escape(told).replace(escape(plain), diff)
        else:
            told = escape(told)
        console.print(told, highlight=False)


def _warnings(outcome: Outcome) -> Iterator[str]:
    for _, turn, finding in failures(outcome):
        if finding.severity == "warning":
            place = where(outcome.source, turn, finding)
            yield f"{place}: {finding.key}: {finding.message}"


def print_rewritings(found: Iterable[Rewriting], console: Console) -> None:
    """What `--update` changes."""
    for one in found:
        place = f"{one.source.shown}:{one.source.line('turns', one.turn, 'expect', 'exact')}"
        diff = shown_diff(one.old or "", one.new, console)
        console.print(f"{escape(place)}: {diff}", highlight=False)


def as_json(verdict: Verdict) -> dict[str, Any]:
    """The check as one JSON document."""
    return {
        "passed": verdict.passed,
        "scripts": len(verdict.outcomes),
        "failed": [o.source.id for o in verdict.outcomes if not o.passed],
        "weak": [o.source.id for o in verdict.outcomes if o.passed and not o.holds],
        "lines": verdict.num_lines,
        "wall_s": round(verdict.wall_s, 3),
        "concurrency": verdict.concurrency,
        "digest": verdict.digest,
        "outcomes": [_outcome_json(outcome) for outcome in verdict.outcomes],
    }


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    low, high = outcome.rate.interval()
    return {
        "id": outcome.source.id,
        "file": outcome.source.shown,
        "passed": outcome.passed,
        "rate": {
            "passed": outcome.rate.passed,
            "runs": outcome.rate.runs,
            "low": low,
            "high": high,
        },
        "findings": [
            {
                "seed": run.seed,
                "turn": turn.index,
                "where": where(outcome.source, turn, finding),
                **asdict(finding),
            }
            for run in outcome.runs
            for turn, finding in run.findings
        ],
        "lines": [
            {"seed": run.seed, "turn": turn.index, "agent": line.agent, "text": line.text}
            | {"emotion": line.emotion, "adapter": line.origin.adapter, "base": line.origin.base}
            | {"prompt": line.origin.prompt_digest, "ttft_ms": round(line.ttft_ms, 1)}
            | {"prompt_tokens": line.prompt_tokens, "completion_tokens": line.completion_tokens}
            for run in outcome.runs
            for turn in run.turns
            for line in turn.seen.lines
        ],
    }


def write_junit(verdict: Verdict, path: Path) -> None:
    """The check as JUnit XML: one test case per script."""
    suite = ElementTree.Element(
        "testsuite",
        name="dialogues",
        tests=str(len(verdict.outcomes)),
        failures=str(sum(not outcome.passed for outcome in verdict.outcomes)),
        time=f"{verdict.wall_s:.3f}",
    )
    for outcome in verdict.outcomes:
        script = outcome.source.script
        names = {"name": script.name, "file": outcome.source.shown}
        case = ElementTree.SubElement(suite, "testcase", names, classname=outcome.source.file.stem)
        if not outcome.passed:
            found = [one for one in failures(outcome) if one[2].severity != "warning"]
            texts = [explain(outcome, *one) for one in found]
            first = found[0][2].message if found else "pass rate too low"
            failure = ElementTree.SubElement(case, "failure", message=_xml(first))
            failure.text = _xml("\n\n".join(texts))
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


def _xml(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)
