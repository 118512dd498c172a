"""A scrolling document of blocks: transcripts, prompts, pages.

Each block is wrapped once per width and kept until its content changes, so a line that grows
by a token re-wraps itself and nothing else. A reader at the end stays at the end; one who has
scrolled up is left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.visual import Visual


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """A paragraph.

    Attributes:
        key: names it for as long as it lives.
        content: what is drawn; text in it must be clean already.
        selectable: whether the cursor stops at it.
        indent: so many characters are a column of their own: what wraps begins behind it.
    """

    key: str
    content: Content
    selectable: bool = False
    indent: int = 0


class Pane(ScrollView, can_focus=True, inherit_bindings=False):
    """Blocks of wrapped text, with an optional cursor over the selectable ones."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "step(-1)", "Up", show=False, id="pane.up"),
        Binding("down,j", "step(1)", "Down", show=False, id="pane.down"),
        Binding("pageup", "turn(-1)", "Page up", show=False, id="pane.page_up"),
        Binding("pagedown,space", "turn(1)", "Page down", show=False, id="pane.page_down"),
        Binding("home", "edge(-1)", "Top", show=False, id="pane.top"),
        Binding("end", "edge(1)", "End", show=False, id="pane.end"),
    ]
    DEFAULT_CSS = """
    Pane { overflow-x: hidden; height: 1fr; padding: 0 1; }
    """

    class Highlighted(Message):
        """The cursor moved to another block."""

        def __init__(self, pane: Pane, key: str) -> None:
            super().__init__()
            self.pane = pane
            self.key = key

        @property
        def control(self) -> Pane:
            """The pane, for `@on` selectors."""
            return self.pane

    class Chosen(Highlighted):
        """A block was clicked twice."""

    def __init__(self, *, follow: bool = False, id: str | None = None) -> None:  # noqa: A002
        """Build an empty pane; `follow` keeps a reader at the end at the end."""
        super().__init__(id=id)
        self.follow = follow
        self.cursor_key: str | None = None
        self._blocks: Sequence[Block] = ()
        self._wrapped: dict[str, tuple[Content, list[Strip]]] = {}
        self._lines: list[tuple[Block, Strip]] = []
        self._at_end = True

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Remember whether the reader is at the end: growth alone doesn't change that."""
        super().watch_scroll_y(old_value, new_value)
        self._at_end = new_value >= self.max_scroll_y - 1

    # --- what is in it ------------------------------------------------------------------

    @property
    def text(self) -> str:
        """Everything in it, unstyled."""
        return "\n".join(block.content.plain for block in self._blocks)

    @property
    def selectable(self) -> list[str]:
        """Keys of the blocks the cursor can stop at."""
        return [block.key for block in self._blocks if block.selectable]

    def show(self, blocks: Sequence[Block]) -> None:
        """Replace the blocks; those that are the same are not wrapped again."""
        at_end = self.follow and self._at_end
        keys = self.selectable
        on_last = not keys or self.cursor_key == keys[-1]
        self._blocks = blocks
        keys = self.selectable
        if keys and (self.cursor_key not in keys or (self.follow and on_last and at_end)):
            self._set_cursor(keys[-1] if self.follow else keys[0])
        self._wrap()
        if at_end or self.scroll_offset.y > self.max_scroll_y:
            self.scroll_to(y=self.max_scroll_y, animate=False, force=True)

    def _wrap(self) -> None:
        """Wrap the blocks that changed, and lay all of them out."""
        width = self.scrollable_content_region.width - (1 if self.selectable else 0)
        if width < 1:
            return
        kept: dict[str, tuple[Content, list[Strip]]] = {}
        self._lines = []
        for block in self._blocks:
            before = self._wrapped.get(block.key)
            if before is None or not before[0].is_same(block.content):
                before = (block.content, self._strips(block, width))
            kept[block.key] = before
            self._lines += [(block, strip) for strip in before[1]]
        self._wrapped = kept
        self.virtual_size = Size(self.size.width, len(self._lines))
        self.refresh()

    def _strips(self, block: Block, width: int) -> list[Strip]:
        style = self.visual_style
        if not block.indent:
            return Visual.to_strips(self, block.content, width, None, style, pad=True)
        label, text = block.content.divide([block.indent])
        column = label.cell_length
        left = Visual.to_strips(self, label, column, 1, style, pad=True)[0]
        rows = Visual.to_strips(self, text, max(1, width - column), None, style, pad=True)
        blank = Strip.blank(column, style.rich_style)
        return [Strip.join([blank if y else left, row]) for y, row in enumerate(rows)]

    def on_resize(self) -> None:
        """Wrap everything to the new width; a follower stays at the end."""
        at_end = self.follow and self._at_end
        self._wrapped.clear()
        self._wrap()
        if at_end:
            self.scroll_to(y=self.max_scroll_y, animate=False, force=True)

    def notify_style_update(self) -> None:
        """Draw again in the new colours."""
        super().notify_style_update()
        self._wrapped.clear()
        if self.is_mounted:
            self._wrap()

    # --- the cursor ---------------------------------------------------------------------

    def _set_cursor(self, key: str) -> None:
        if key != self.cursor_key:
            self.cursor_key = key
            self.post_message(self.Highlighted(self, key))

    def move_to(self, key: str) -> None:
        """Put the cursor on a block and bring it into view."""
        if key not in self.selectable:
            return
        self._set_cursor(key)
        rows = [y for y, (block, _) in enumerate(self._lines) if block.key == key]
        height, top = self.scrollable_content_region.height, self.scroll_offset.y
        if rows and rows[0] < top:
            self.scroll_to(y=rows[0], animate=False, force=True)
        elif rows and rows[-1] >= top + height:
            self.scroll_to(y=max(0, min(rows[0], rows[-1] - height + 1)), animate=False, force=True)
        self.refresh()

    def action_step(self, blocks: int) -> None:
        """Move the cursor, or scroll where nothing can be selected."""
        keys = self.selectable
        if not keys:
            self.scroll_to(y=self.scroll_offset.y + blocks, animate=False, force=True)
            return
        here = keys.index(self.cursor_key) if self.cursor_key in keys else 0
        self.move_to(keys[min(max(here + blocks, 0), len(keys) - 1)])

    def action_turn(self, pages: int) -> None:
        """Scroll by pages."""
        step = max(1, self.scrollable_content_region.height - 1)
        self.scroll_to(y=self.scroll_offset.y + pages * step, animate=False, force=True)

    def action_edge(self, direction: int) -> None:
        """Go to the first or the last block."""
        if keys := self.selectable:
            self.move_to(keys[0] if direction < 0 else keys[-1])
        self.scroll_to(y=0 if direction < 0 else self.max_scroll_y, animate=False, force=True)

    def on_click(self, event: events.Click) -> None:
        """A click puts the cursor on a block; two open it."""
        row = event.y + self.scroll_offset.y
        if 0 <= row < len(self._lines) and self._lines[row][0].selectable:
            self.move_to(self._lines[row][0].key)
            if event.chain == 2:
                self.post_message(self.Chosen(self, self._lines[row][0].key))

    # --- drawing ------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        """Row `y` of what is in view."""
        row, width = y + self.scroll_offset.y, self.scrollable_content_region.width
        style = self.visual_style
        if row >= len(self._lines):
            return Strip.blank(width, style.rich_style)
        block, strip = self._lines[row]
        if not self.selectable:
            return strip
        here = block.selectable and block.key == self.cursor_key
        colour = "$primary" if self.has_focus else "$muted"
        mark = Content.styled("▌" if here else " ", colour if here else "")
        gutter = Visual.to_strips(self, mark, 1, 1, style)[0]
        return Strip.join([gutter, strip])
