"""Bars and sparklines tell the truth about numbers, and about their absence."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tui.chart import bar, columns, curve, sparkline, stacked, waterfall

SAMPLES = st.lists(st.none() | st.floats(0, 1e6), max_size=50)


def test_a_gap_is_a_dot_and_is_never_bridged() -> None:
    assert sparkline([1.0, None, None, 1.0], 4).plain == "█··█"


def test_zero_is_nothing_and_little_is_something() -> None:
    assert sparkline([0.0, 0.001, 100.0], 3).plain == " ▁█"


def test_only_the_latest_samples_are_shown_at_the_right() -> None:
    assert sparkline([9.0, 1.0, 2.0], 2).plain == "▄█"
    assert sparkline([1.0], 3).plain == "  █"


@given(SAMPLES, st.integers(1, 40), st.integers(1, 6))
def test_columns_are_as_wide_and_tall_as_asked(
    samples: list[float | None], width: int, height: int
) -> None:
    drawn = columns(samples, width, height)
    assert len(drawn) == height
    assert all(row.cell_length == width for row in drawn)
    shown = samples[-width:]
    gaps = [i for i, value in enumerate(shown, width - len(shown)) if value is None]
    assert [i for i, c in enumerate(drawn[-1].plain) if c == "·"] == gaps


@given(st.floats(-1, 2), st.integers(1, 60))
def test_a_bar_never_leaves_its_width(share: float, width: int) -> None:
    assert bar(share, width).cell_length == width


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=8), st.integers(10, 80))
def test_every_part_above_zero_is_seen_in_a_stack(amounts: list[float], width: int) -> None:
    drawn = stacked([(a, f"s{i}") for i, a in enumerate(amounts)], sum(amounts), width)
    seen = {str(span.style) for span in drawn.spans if span.end > span.start}
    if sum(amounts) > 0:
        assert {f"s{i}" for i, a in enumerate(amounts) if a > 0} <= seen
        assert drawn.cell_length >= width


def test_a_waterfall_starts_each_stage_where_the_last_ended() -> None:
    rows = [row.plain for row in waterfall([("a", 10, ""), ("b", 30, "")], 61, 5)]
    assert rows[0].index("█") == 5
    assert rows[1].index("█") == rows[0].rindex("█") + 1
    assert rows[0].endswith("10.0 ms")
    assert len(set(map(len, rows))) == 1


def test_a_curve_draws_what_was_wanted_over_what_was() -> None:
    rows = [row.plain for row in curve([10.0, 10.0], [0.0, 9.9], 2, 2, 10.0)]
    assert rows[0] == "█▔"
    assert rows[1] == "▁█"
