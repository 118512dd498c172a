"""A comparison for reading: in the terminal, and as one HTML page that opens offline.

The page has no script, no font and no link to anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from rich.console import Console
from rich.markup import escape as literal

from roles.dialogues.compare import Change, CompareReport, Flip, Voice
from roles.dialogues.observation import Spoken
from roles.dialogues.report import rich_diff, word_diff

_STYLE = """
body { font: 16px/1.5 Georgia, serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #222; background: #fdfcf8; }
h1, h2 { font-weight: normal; } h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #e4e0d6; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
del { background: #fbdcd8; text-decoration-color: #b33; } ins { background: #d9f2d9;
text-decoration: none; } .said { color: #666; } .why { color: #666; font-size: .85rem; }
article { margin: 1.2rem 0; } .bad { color: #a22; } .good { color: #272; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #1c1b19; }
del { background: #5a2622; } ins { background: #23452a; } th, td { border-color: #3a3833; } }
"""


def page(report: CompareReport) -> str:
    """The whole page."""
    body = "".join([_head(report), _flips(report.flips), _voices(report.voices), _changes(report)])
    title = f"{escape(report.a)} and {escape(report.b)}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )


def print_report(report: CompareReport, console: Console) -> None:
    """The comparison in the terminal."""
    for change in report.changes:
        console.print(f"[bold]{change.a.agent}[/] {literal(change.script)} turn {change.turn}")
        console.print(f"  {rich_diff(_told(change.a), _told(change.b))}", highlight=False)
        console.print(f"  because {literal('; '.join(change.causes))}", highlight=False)
    for flip in report.flips:
        what = "[red]broken[/]" if flip.broken else "[green]mended[/]"
        console.print(f"{what} {literal(f'{flip.script} turn {flip.turn}: {flip.key}')}")
    for voice in report.voices:
        before, after = _number(voice.perplexity_a), _number(voice.perplexity_b)
        told = f"{voice.changed} of {voice.lines} lines differ, perplexity {before} to {after}"
        shift = f"words shift {voice.words_shift:.2f}, moods {voice.moods_shift:.2f}"
        console.print(f"{literal(voice.agent)}: {told}, {shift}", highlight=False)
    broken = sum(flip.broken for flip in report.flips)
    console.print(
        f"{len(report.changes)} of {report.lines} lines differ; {broken} expectations broken, "
        f"{len(report.flips) - broken} mended",
        highlight=False,
    )


def _head(report: CompareReport) -> str:
    broken = sum(flip.broken for flip in report.flips)
    return (
        f"<h1>A: {escape(report.a)}<br>B: {escape(report.b)}</h1>"
        f"<p>{report.scripts} scripts, {report.lines} lines: {len(report.changes)} lines differ; "
        f"{broken} expectations broken by B, {len(report.flips) - broken} mended.</p>"
    )


def _flips(flips: Iterable[Flip]) -> str:
    rows = "".join(
        f"<tr><td class={'bad' if flip.broken else 'good'}>"
        f"{'broken' if flip.broken else 'mended'}</td><td>{escape(flip.script)}</td>"
        f"<td class=n>{flip.turn}</td><td>{escape(flip.key)}</td>"
        f"<td>{escape(flip.message)}</td></tr>"
        for flip in flips
    )
    head = "<tr><th></th><th>script</th><th>turn</th><th>expectation</th><th>finding</th></tr>"
    return f"<h2>Expectations</h2>{_table(head, rows)}"


def _voices(voices: Iterable[Voice]) -> str:
    rows = "".join(map(_voice, voices))
    head = (
        "<tr><th>agent</th><th>lines</th><th>differ</th><th>perplexity A</th><th>B</th>"
        "<th>words shift</th><th>moods shift</th><th>words per line A</th><th>B</th></tr>"
    )
    return f"<h2>Voices</h2>{_table(head, rows)}"


def _voice(voice: Voice) -> str:
    key = "words per line"
    numbers = [
        str(voice.lines),
        str(voice.changed),
        _number(voice.perplexity_a),
        _number(voice.perplexity_b),
        _number(voice.words_shift),
        _number(voice.moods_shift),
        _number(voice.style_a[key]),
        _number(voice.style_b[key]),
    ]
    cells = "".join(f"<td class=n>{number}</td>" for number in numbers)
    return f"<tr><td>{escape(voice.agent)}</td>{cells}</tr>"


def _changes(report: CompareReport) -> str:
    return "<h2>Lines</h2>" + ("".join(map(_change, report.changes)) or "<p>None differs.</p>")


def _change(change: Change) -> str:
    marks = {" ": "{}", "-": "<del>{}</del>", "+": "<ins>{}</ins>"}
    pieces = word_diff(_told(change.a), _told(change.b))
    diff = "".join(marks[sign].format(escape(piece)) for sign, piece in pieces)
    where = f"{change.script}, turn {change.turn}, seed {change.seed}"
    return (
        f"<article><b>{escape(change.a.agent)}</b> <span class=said>{escape(where)}: "
        f"{escape(change.said)}</span><br>{diff}"
        f"<div class=why>because {escape('; '.join(change.causes))}</div></article>"
    )


def _told(line: Spoken) -> str:
    calls = [f"> {name} {arguments}" for name, arguments in line.actions]
    return " ".join([f"[{line.emotion}]" if line.emotion else "", line.text, *calls]).strip()


def _table(head: str, rows: str) -> str:
    return f"<table>{head}{rows}</table>" if rows else "<p>Nothing.</p>"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
