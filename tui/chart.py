"""Numbers as pictures in text: bars, sparklines, columns and waterfalls.

Pure functions from numbers to styled content. A missing sample (None) is drawn as a gap and
never bridged, so that an outage looks like one.
"""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_PARTIAL = " ▏▎▍▌▋▊▉█"
_LINES = "▁━▔"  # a line low, midway and high in its cell
_GAP = "·"
Sample = float | None


def sparkline(samples: Sequence[Sample], width: int, style: str = "$accent") -> Content:
    """The latest `width` samples on one row, scaled to their own largest; gaps as dots."""
    rows = columns(samples, width, 1, style)
    return rows[0]


def columns(
    samples: Sequence[Sample], width: int, height: int, style: str = "$accent", top: Sample = None
) -> list[Content]:
    """The latest `width` samples as columns `height` rows tall, newest at the right.

    Args:
        samples: one per column, oldest first; None is a gap.
        width: columns drawn; where there are fewer samples the left stays empty.
        height: rows.
        style: of the columns.
        top: value of a full column; None takes the largest sample.
    """
    shown = list(samples[-width:]) if width > 0 else []
    known = [value for value in shown if value is not None]
    scale = top or max(known, default=0.0) or 1.0
    pad = " " * (width - len(shown))
    rows = []
    for row in range(height - 1, -1, -1):
        drawn = "".join(_cell(value, scale, row, height) for value in shown)
        rows.append(Content.assemble(pad, *_gaps_dimmed(drawn, style)))
    return rows


def _cell(value: Sample, scale: float, row: int, height: int) -> str:
    """One character of a column; row 0 is the lowest."""
    if value is None:
        return _GAP if row == 0 else " "
    eighths = round(min(max(value / scale, 0.0), 1.0) * height * 8)
    if value > 0:
        eighths = max(eighths, 1)  # something is not nothing
    return _EIGHTHS[min(max(eighths - row * 8, 0), 8)]


def _gaps_dimmed(drawn: str, style: str) -> list[tuple[str, str]]:
    """Runs of gaps and of columns, each in its style."""
    runs: list[tuple[str, str]] = []
    for character in drawn:
        wanted = "$muted" if character == _GAP else style
        if runs and runs[-1][1] == wanted:
            runs[-1] = (runs[-1][0] + character, wanted)
        else:
            runs.append((character, wanted))
    return runs


def bar(share: float, width: int, style: str = "$primary", rest: str = "$rule") -> Content:
    """A horizontal bar `width` cells wide, filled to `share` (0 to 1)."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    full, part = divmod(eighths, 8)
    drawn = "█" * full + (_PARTIAL[part] if part else "")
    return Content.assemble((drawn, style), ("╌" * (width - len(drawn)), rest))


def stacked(parts: Sequence[tuple[float, str]], total: float, width: int) -> Content:
    """A bar of coloured parts out of a total; every part above zero gets at least one cell."""
    if total <= 0 or width <= 0:
        return Content("")
    cells = [max(1, round(amount / total * width)) if amount > 0 else 0 for amount, _ in parts]
    while sum(cells) > width:
        widest = cells.index(max(cells))
        if cells[widest] <= 1:
            break
        cells[widest] -= 1
    runs = [("█" * n, style) for n, (_, style) in zip(cells, parts, strict=True) if n]
    return Content.assemble(*runs, ("╌" * max(0, width - sum(cells)), "$rule"))


def waterfall(
    stages: Sequence[tuple[str, float, str]], width: int, label_width: int = 9
) -> list[Content]:
    """One row per stage, each bar starting where the one before it ended.

    Args:
        stages: label, length in milliseconds, style.
        width: cells for label, bar and figure together.
        label_width: cells kept for the label.
    """
    total = sum(length for _, length, _ in stages) or 1.0
    room = max(8, width - label_width - 12)
    rows, start = [], 0.0
    for label, length, style in stages:
        before = round(start / total * room)
        cells = max(1 if length > 0 else 0, round((start + length) / total * room) - before)
        before = min(before, room - cells)
        after = room - before - cells
        rows.append(
            Content.assemble(
                (label.ljust(label_width), "$muted"),
                ("┄" * before, "$rule"), ("█" * cells, style), ("┄" * after, "$rule"),
                (f"{length:9,.1f} ms", ""),
            )
        )  # fmt: skip
        start += length
    return rows


def curve(
    actual: Sequence[Sample], wanted: Sequence[Sample], width: int, height: int, top: float
) -> list[Content]:
    """Columns of what was, with a line of what was wanted drawn over them.

    Both series hold one sample per column, oldest first, on a scale from 0 to `top`.
    """
    rows = columns(actual, width, height, "$tier-director", top)
    shown = list(wanted[-width:])
    left = width - len(shown)
    for index, value in enumerate(shown):
        if value is None:
            continue
        exact = min(max(value / top, 0.0), 1.0) * height
        level = min(height - 1, int(exact))
        mark = _LINES[min(2, int((exact - level) * 3))]
        row = height - 1 - level
        column = left + index
        line = rows[row]
        covered = " on $tier-director" if line.plain[column] == "█" else ""
        over = (mark, f"bold $accent{covered}")
        rows[row] = Content.assemble(line[:column], over, line[column + 1 :])
    return rows
