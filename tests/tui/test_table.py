"""The table keeps its place while rows come, go, change and are sorted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from textual.app import App, ComposeResult
from textual.pilot import Pilot

from tui.table import Column, Row, Table
from tui.themes import DEFAULT_VARIABLES


class Shown(App[None]):
    """One table and nothing else."""

    def __init__(self, table: Table) -> None:
        super().__init__()
        self.table = table

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return DEFAULT_VARIABLES

    def compose(self) -> ComposeResult:
        yield self.table


def rows(*names: str) -> list[Row]:
    return [Row(key=n, cells=(n, str(len(n))), order=(n, len(n)), search=n) for n in names]


@asynccontextmanager
async def shown(follow: bool = False, width: int = 40) -> AsyncIterator[tuple[Table, Pilot[None]]]:
    columns = [Column(title="Name", width=10, flex=1), Column(title="Long", width=6, rank=1)]
    table = Table(columns, empty="nobody", follow=follow)
    async with Shown(table).run_test(size=(width, 8)) as pilot:
        await pilot.pause()
        yield table, pilot


def text(table: Table) -> list[str]:
    return [table.render_line(y).text.rstrip() for y in range(table.size.height)]


async def test_the_cursor_stays_on_its_row_when_rows_come_before_it() -> None:
    async with shown() as (table, pilot):
        table.show(rows("anna", "ben", "cleo"))
        await pilot.press("down")
        assert table.cursor_key == "ben"
        table.show(rows("aaron", "anna", "ben", "cleo"))
        assert table.cursor_key == "ben"
        assert table.cursor_index == 2


async def test_when_its_row_goes_the_cursor_takes_the_one_in_its_place() -> None:
    async with shown() as (table, pilot):
        table.show(rows("anna", "ben", "cleo"))
        await pilot.press("down")
        table.show(rows("anna", "cleo"))
        assert table.cursor_key == "cleo"


async def test_filter_and_sort_keep_the_cursor() -> None:
    async with shown() as (table, pilot):
        table.show(rows("cleo", "anna", "ben"))
        table.move_to("ben")
        await pilot.press("o")  # by name
        assert [row.key for row in table.shown] == ["anna", "ben", "cleo"]
        await pilot.press("O")
        assert [row.key for row in table.shown] == ["cleo", "ben", "anna"]
        assert table.cursor_key == "ben"
        table.filter("n")
        assert [row.key for row in table.shown] == ["ben", "anna"]
        table.filter("nobody at all")
        assert text(table)[1].strip() == "nobody"


async def test_a_follower_on_the_last_row_follows_and_one_above_does_not() -> None:
    async with shown(follow=True) as (table, pilot):
        names = [f"row{i:02}" for i in range(30)]
        table.show(rows(*names[:20]))
        assert table.cursor_key == "row19"
        table.show(rows(*names[:25]))
        assert table.cursor_key == "row24"
        while "row24" not in text(table)[-1]:  # a scroll takes effect with the next frame
            await pilot.pause(0.05)
        await pilot.press("up")
        table.show(rows(*names))
        assert table.cursor_key == "row23"


async def test_rows_fill_the_width_exactly_and_narrow_ones_drop_the_highest_rank() -> None:
    for width in (40, 12):
        async with shown(width=width) as (table, _):
            table.show(rows("x" * 100, "漢字" * 30, "👩‍👩‍👧" * 20))
            for y in range(4):
                assert table.render_line(y).cell_length == width
            assert ("Long" in text(table)[0]) == (width == 40)


async def test_what_has_no_value_is_sorted_last_both_ways() -> None:
    async with shown() as (table, pilot):
        table.show([
            Row(key="none", cells=("none", ""), order=("none", None)),
            Row(key="two", cells=("two", "2"), order=("two", 2)),
            Row(key="one", cells=("one", "1"), order=("one", 1)),
        ])  # fmt: skip
        await pilot.press("o", "o")
        assert [row.key for row in table.shown] == ["one", "two", "none"]
        await pilot.press("O")
        assert [row.key for row in table.shown] == ["two", "one", "none"]
