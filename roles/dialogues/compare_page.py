"""A comparison for reading: in the terminal, and as one HTML page that opens offline."""

from __future__ import annotations

import io
from html import escape as html

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.terminal_theme import DEFAULT_TERMINAL_THEME

from roles.dialogues.compare import CompareReport, Voice
from roles.dialogues.observation import Spoken
from roles.dialogues.report import shown_diff

_WIDTH = 110  # columns of the page
# No script, no font, no picture: nothing that is elsewhere.
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>TITLE</title><style>
{stylesheet}
body {{ color: {foreground}; background: {background}; margin: 2rem; }}
pre {{ font: 15px/1.5 monospace; white-space: pre-wrap; }}
</style></head><body><pre>{code}</pre></body></html>
"""


def page(report: CompareReport) -> str:
    """The whole page: what the terminal shows, as HTML."""
    console = Console(file=io.StringIO(), record=True, width=_WIDTH, soft_wrap=True)
    print_report(report, console)
    text = console.export_html(theme=DEFAULT_TERMINAL_THEME, code_format=_PAGE)
    return text.replace("TITLE", html(f"{report.a} and {report.b}"), 1)


def print_report(report: CompareReport, console: Console) -> None:
    """The comparison: every line that differs, expectations, voices, a summary."""
    for change in report.changes:
        where = f"{change.script}, turn {change.turn}, seed {change.seed}: {change.said}"
        console.print(f"[bold]{change.a.agent}[/] {escape(where)}", highlight=False)
        diff = shown_diff(_told(change.a), _told(change.b), console)
        console.print(f"  {diff}", highlight=False)
        console.print(f"  because {escape('; '.join(change.causes))}\n", highlight=False)
    for flip in report.flips:
        what = "[red]broken[/]" if flip.broken else "[green]mended[/]"
        told = f"{flip.script} turn {flip.turn}: {flip.key}: {flip.message}"
        console.print(f"{what} {escape(told)}", highlight=False)
    console.print(_voices(report.voices))
    broken = sum(flip.broken for flip in report.flips)
    console.print(f"A: {escape(report.a)}\nB: {escape(report.b)}", highlight=False)
    console.print(
        f"{report.scripts} scripts: {len(report.changes)} of {report.lines} lines differ; "
        f"{broken} expectations broken, {len(report.flips) - broken} mended",
        highlight=False,
    )


def _voices(voices: tuple[Voice, ...]) -> Table:
    table = Table(title="From A to B: voices", title_justify="left")
    table.add_column("agent")
    for name in ("differ", "perplexity", "words shift", "moods shift", "words per line"):
        table.add_column(name, justify="right")
    for voice in voices:
        key = "words per line"
        table.add_row(
            voice.agent,
            f"{voice.changed} of {voice.lines}",
            f"{_number(voice.perplexity_a)} {_number(voice.perplexity_b)}",
            _number(voice.words_shift),
            _number(voice.moods_shift),
            f"{_number(voice.style_a[key])} {_number(voice.style_b[key])}",
        )
    return table


def _told(line: Spoken) -> str:
    calls = [f"> {name} {arguments}" for name, arguments in line.actions]
    return " ".join([f"[{line.emotion}]" if line.emotion else "", line.text, *calls]).strip()


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
