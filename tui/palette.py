"""The command palette: jump to a screen or an agent by typing a part of its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.content import Content

from tui.page import TABS, Page
from tui.text import clean


class JumpProvider(Provider):
    """Screens; and for every agent its talk and the prompt of its last line."""

    def _jumps(self) -> Iterator[tuple[str, str, Callable[[], Any]]]:
        for digit, (mode, title, _) in enumerate(TABS, 1):
            yield title, f"screen {digit}", partial(self.app.switch_mode, mode)
        page = self.screen
        if not isinstance(page, Page):
            return
        for key, info in page.store.agents.items():
            name = clean(info.name or key)
            yield f"Talk to {name}", clean(info.about), partial(self._go, key, "talk")
            yield f"Why did {name} say that?", "its last prompt", partial(self._go, key, "prompt")

    def _go(self, agent: str, mode: str) -> None:
        page = self.screen
        if isinstance(page, Page):
            page.session.look_at(agent)
        self.app.switch_mode(mode)

    async def search(self, query: str) -> Hits:
        """Jumps that match what was typed."""
        matcher = self.matcher(query)
        for title, about, go in self._jumps():
            if (score := matcher.match(title)) > 0:
                yield Hit(score, matcher.highlight(title), go, text=title, help=about)

    async def discover(self) -> Hits:
        """All screens."""
        for title, about, go in list(self._jumps())[: len(TABS)]:
            yield DiscoveryHit(Content(title), go, text=title, help=about)
