"""A table that keeps its place: rows have keys, and the cursor follows its row, not its index.

Drawn straight from the rows that are in view, so thousands of rows cost what twenty do, and
only rows that changed are drawn again. (Textual's `DataTable` draws every visible cell anew
after any change, which at ten refreshes a second takes most of a core.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.visual import Visual

Cell = str | Content
MAX_CACHED = 2_000  # drawn rows kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column.

    Attributes:
        title: its heading.
        width: cells; for a flexible column the least.
        flex: share of the cells left over; 0 is fixed.
        right: whether cells stand at the right edge.
        rank: columns of the highest rank are left out first where the terminal is narrow.
    """

    title: str
    width: int
    flex: int = 0
    right: bool = False
    rank: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A row: what is drawn, what it is sorted by, and the words a filter looks in.

    Attributes:
        key: names the row for as long as it lives.
        cells: one per column; plain strings must be clean already.
        order: one comparable value or None per column.
        search: lower-case text for the filter.
    """

    key: str
    cells: tuple[Cell, ...]
    order: tuple[Any, ...] = ()
    search: str = field(default="", compare=False)


class Table(ScrollView, can_focus=True, inherit_bindings=False):
    """A sortable, filterable list of rows with a cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="table.up"),
        Binding("down,j", "move(1)", "Down", show=False, id="table.down"),
        Binding("pageup", "page(-1)", "Page up", show=False, id="table.page_up"),
        Binding("pagedown", "page(1)", "Page down", show=False, id="table.page_down"),
        Binding("home", "move(-1000000000)", "First", show=False, id="table.first"),
        Binding("end", "move(1000000000)", "Last", show=False, id="table.last"),
        Binding("o", "sort", "Sort by", show=False, id="table.sort"),
        Binding("O", "reverse", "Reverse", show=False, id="table.reverse"),
    ]
    DEFAULT_CSS = """
    Table { text-wrap: nowrap; text-overflow: clip; overflow-x: hidden; height: 1fr; }
    """

    class Highlighted(Message):
        """The cursor moved to another row."""

        def __init__(self, table: Table, key: str) -> None:
            super().__init__()
            self.table = table
            self.key = key

        @property
        def control(self) -> Table:
            """The table, for `@on` selectors."""
            return self.table

    class Chosen(Highlighted):
        """A row was clicked twice."""

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        empty: str = "",
        sort: int | None = None,
        descending: bool = False,
        follow: bool = False,
        id: str | None = None,  # noqa: A002  (Textual's own name)
    ) -> None:
        """Build an empty table.

        Args:
            columns: from left to right.
            empty: said where there are no rows.
            sort: index of the column sorted by; None keeps the given order.
            descending: largest first.
            follow: a cursor on the last row stays on the last row as rows are added.
            id: the widget's id.
        """
        super().__init__(id=id)
        self.columns = tuple(columns)
        self.empty = empty
        self.sort_column = sort
        self.descending = descending
        self.follow = follow
        self.needle = ""
        self.cursor_key: str | None = None
        self._rows: Sequence[Row] = ()
        self._shown: list[Row] = []
        self._index: dict[str, int] = {}
        self._drawn: dict[tuple[Any, ...], Strip] = {}
        self._widths: list[tuple[int, int]] = []

    # --- what is in it ------------------------------------------------------------------

    @property
    def shown(self) -> Sequence[Row]:
        """The rows that pass the filter, in their order."""
        return self._shown

    @property
    def cursor_index(self) -> int:
        """Where the cursor is among the rows shown; 0 for none."""
        return self._index.get(self.cursor_key or "", 0)

    def show(self, rows: Sequence[Row]) -> None:
        """Replace the rows; cursor and scroll position stay with the row they were on."""
        self._rows = rows
        self._arrange()

    def filter(self, needle: str) -> None:
        """Show only rows whose words contain every word of `needle`."""
        self.needle = needle
        self._arrange()

    def _arrange(self) -> None:
        """Filter, sort, and put the cursor back on its row."""
        index_before = self.cursor_index
        at_end = self.follow and (not self._shown or index_before >= len(self._shown) - 1)
        height_before = index_before - self.scroll_offset.y
        needles = self.needle.lower().split()
        shown = [row for row in self._rows if all(word in row.search for word in needles)]
        if self.sort_column is not None:
            column = self.sort_column
            known = [row for row in shown if row.order[column] is not None]
            known.sort(key=lambda row: row.order[column], reverse=self.descending)
            shown = known + [row for row in shown if row.order[column] is None]
        self._shown = shown
        self._index = {row.key: index for index, row in enumerate(shown)}
        self.virtual_size = Size(self.size.width, len(shown) + 1)
        if shown and (at_end or self.cursor_key not in self._index):
            index = len(shown) - 1 if at_end else min(index_before, len(shown) - 1)
            self._set_cursor(shown[index].key)
        if at_end:
            self._scroll_into_view()
        elif self.cursor_index != index_before:
            self.scroll_to(y=self.cursor_index - height_before, animate=False, force=True)
        self.refresh()

    # --- the cursor ---------------------------------------------------------------------

    def _set_cursor(self, key: str) -> None:
        if key != self.cursor_key:
            self.cursor_key = key
            self.post_message(self.Highlighted(self, key))

    def move_to(self, key: str) -> None:
        """Put the cursor on a row, if it is shown."""
        if key in self._index:
            self._set_cursor(key)
            self._scroll_into_view()
            self.refresh()

    def _scroll_into_view(self) -> None:
        index, height = self.cursor_index, self.size.height - 1
        if height < 1:
            return  # not laid out yet
        top = self.scroll_offset.y
        if index < top:
            self.scroll_to(y=index, animate=False, force=True)
        elif index >= top + height:
            self.scroll_to(y=index - height + 1, animate=False, force=True)

    def action_move(self, rows: int) -> None:
        """Move the cursor by so many rows, stopping at the ends."""
        if self._shown:
            index = min(max(self.cursor_index + rows, 0), len(self._shown) - 1)
            self.move_to(self._shown[index].key)

    def action_page(self, pages: int) -> None:
        """Move the cursor by so many screens."""
        self.action_move(pages * max(1, self.size.height - 2))

    def action_sort(self) -> None:
        """Sort by the next column; after the last, keep the given order."""
        sortable = [c for c in range(len(self.columns)) if self._width_of(c) > 0]
        choices: list[int | None] = [None, *sortable]
        here = choices.index(self.sort_column) if self.sort_column in choices else 0
        self.sort_column = choices[(here + 1) % len(choices)]
        self._drawn.clear()
        self._arrange()

    def action_reverse(self) -> None:
        """Turn the order round."""
        self.descending = not self.descending
        self._drawn.clear()
        self._arrange()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Sorting needs rows that say what they are sorted by."""
        if action in {"sort", "reverse"}:
            return bool(self._rows and self._rows[0].order) or self.sort_column is not None
        return True

    def on_click(self, event: events.Click) -> None:
        """A click moves the cursor; two open the row."""
        row = event.y - 1 + self.scroll_offset.y
        if event.y > 0 and 0 <= row < len(self._shown):
            self.move_to(self._shown[row].key)
            if event.chain == 2:
                self.post_message(self.Chosen(self, self._shown[row].key))

    # --- drawing ------------------------------------------------------------------------

    def on_resize(self) -> None:
        """Share the cells out again."""
        self._drawn.clear()
        self._widths = self._share(self.size.width)
        self.virtual_size = Size(self.size.width, len(self._shown) + 1)
        self._scroll_into_view()
        self.refresh()

    def notify_style_update(self) -> None:
        """Forget rows drawn in other colours."""
        super().notify_style_update()
        self._drawn.clear()

    def _width_of(self, column: int) -> int:
        return dict(self._widths).get(column, 0)

    def _share(self, width: int) -> list[tuple[int, int]]:
        """Columns that fit, as (index, cells): the highest ranks go first when they don't."""
        kept = list(enumerate(self.columns))
        while len(kept) > 1 and sum(c.width + 1 for _, c in kept) > width:
            last = max(kept, key=lambda item: (item[1].rank, item[0]))
            kept.remove(last)
        spare = width - sum(c.width + 1 for _, c in kept)
        flex = sum(c.flex for _, c in kept) or 1
        return [(i, c.width + max(0, spare) * c.flex // flex) for i, c in kept]

    def render_line(self, y: int) -> Strip:
        """Row `y` of the widget: the heading stays at the top."""
        width = self.size.width
        if y == 0:
            return self._draw(("heading",), self._heading, "$primary bold on $surface", width)
        index = y - 1 + self.scroll_offset.y
        if index >= len(self._shown):
            said = self.empty if index == 0 and not self._shown else ""
            return self._draw(("empty", said), lambda: Content.styled(f" {said}"), "$muted", width)
        row = self._shown[index]
        if row.key != self.cursor_key:
            style = ""
        elif self.has_focus:
            style = "$foreground on $primary 30%"
        else:
            style = "$foreground on $panel"
        return self._draw((row,), lambda: self._line(row.cells), style, width)

    def _draw(
        self, key: tuple[Any, ...], content: Callable[[], Content], style: str, width: int
    ) -> Strip:
        """A strip from the cache, or drawn and kept."""
        key = (*key, style, width)
        strip = self._drawn.get(key)
        if strip is None:
            if len(self._drawn) > MAX_CACHED:
                self._drawn.clear()
            base = (
                self.visual_style + self.app.stylesheet.parse_style(style)
                if style
                else self.visual_style
            )
            strips = Visual.to_strips(self, content(), width, 1, base, pad=True)
            strip = strips[0] if strips else Strip.blank(width, base.rich_style)
            self._drawn[key] = strip
        return strip

    def _heading(self) -> Content:
        arrow = "▾" if self.descending else "▴"
        titles: list[Cell] = [
            column.title + (arrow if index == self.sort_column else "")
            for index, column in enumerate(self.columns)
        ]
        return self._line(tuple(titles))

    def _line(self, cells: tuple[Cell, ...]) -> Content:
        """The cells of a row, cut or padded to their columns."""
        parts: list[Content | str] = []
        for index, width in self._widths:
            cell = cells[index]
            content = Content(cell) if isinstance(cell, str) else cell
            content = content.truncate(width, ellipsis=True)
            missing = width - content.cell_length
            if self.columns[index].right:
                parts += [" " * missing, content, " "]
            else:
                parts += [content, " " * (missing + 1)]
        return Content.assemble(*parts)
