"""What a player sees in the terminal: lines as they are spoken, several at once, each labelled."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from protocol import administration as admin
from protocol import messages as wire
from protocol import play
from protocol.errors import ProtocolError

_COLOURS = ("cyan", "magenta", "yellow", "bright_blue", "bright_red", "bright_cyan", "green")
_TIER_COLOURS = {"director": "gold3", "book": "dark_sea_green4"}
_PLURALS = {"director": "director", "npc": "characters", "book": "books"}
_FRAMES_PER_S = 12
_BAR_CELLS = 40


@dataclass(slots=True)
class Speech:
    """One line being spoken.

    Attributes:
        first_s, last_s: when its first and last piece came, since the lines began.
    """

    agent: str
    text: str = ""
    reply: wire.LineReply | None = None
    first_s: float | None = None
    last_s: float = 0.0
    error: str = ""


@dataclass(slots=True)
class Screen:
    """Draws on a console; `agents` names who speaks."""

    console: Console
    agents: dict[str, admin.AgentInfo] = field(default_factory=dict)

    def title(self, world: str, about: str) -> None:
        """The head of a game."""
        body = Text(about, style="italic", justify="center")
        self.console.print(Panel(body, title=f"[bold]{escape(world)}[/]", padding=(1, 4)))

    def narrate(self, text: str) -> None:
        """What nobody says."""
        self.console.print(Padding(Text(text, style="italic grey70"), (1, 4, 0, 4)))

    def act(self, text: str) -> None:
        """A new part begins."""
        self.console.print()
        self.console.print(Rule(Text(text, style="bold"), style="grey37"))

    def happened(self, kind: str, text: str, waiting: int) -> None:
        """An event the game reported."""
        self.console.print()
        self.console.print(Text.assemble(("  ⚑ ", "bold red"), (text, "bold")))
        told = "1 event waits" if waiting == 1 else f"{waiting} events wait"
        self.note(f"  event {kind}; {told} for the director")

    def says(self, who: str, to: str, text: str) -> None:
        """What the player says."""
        words = Text.assemble((who, "bold white"), (f" to {self.name(to)}: ", "grey50"), text)
        self.console.print(Padding(words, (1, 2, 1, 2)))

    def page(self, page: play.ReadReply) -> None:
        """A page read aloud."""
        foot = f"page {page.page} of {page.pages} · plain text, no model"
        self.console.print(
            Panel(
                Text(page.text),
                title=f"[bold]{escape(page.title)}[/]",
                subtitle=f"[grey50]{foot}[/]",
                border_style=_TIER_COLOURS["book"],
                padding=(1, 3),
            )
        )

    def note(self, text: str, style: str = "grey50") -> None:
        """A remark of the program's own."""
        self.console.print(Text(f"  {text}", style=style))

    def cast(self) -> None:
        """Everyone who is hosted, in a few lines."""
        table = Table(box=None, padding=(0, 2), show_header=False)
        for tier in ("director", "npc", "book"):
            infos = [info for info in self.agents.values() if info.tier == tier]
            words = Text()
            for info in infos:
                words.append(", " if words else "")
                words.append(info.name or info.agent, style=f"bold {self.colour(info.agent)}")
                if info.state != "ready":
                    why = f": {info.last_error}" if info.last_error else ""
                    words.append(f" ({info.state}{why})", style="red")
            table.add_row(Text(_PLURALS[tier], style="grey50"), words)
        self.console.print(table)

    def listing(self) -> None:
        """Everyone who is hosted, a row each."""
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="grey50")  # fits 80 columns
        for column in ("agent", "tier", "adapter", "state", "lines", "first token"):
            table.add_column(column, overflow="fold")
        for info in self.agents.values():
            table.add_row(
                Text(info.agent, style=f"bold {self.colour(info.agent)}"),
                info.tier,
                f"{info.adapter.name} v{info.adapter.version}" if info.adapter else "-",
                info.state,
                str(info.lines),
                f"{info.ttft_ms:.0f} ms" if info.ttft_ms is not None else "-",
            )
        self.console.print(table)

    async def follow(self, streams: dict[str, AsyncIterator[wire.Body]]) -> list[Speech]:
        """Show lines as they come, all at the same time; returns them when all are over."""
        speeches = [Speech(agent) for agent in streams]
        began = time.monotonic()
        with Live(
            self._group(speeches),
            console=self.console,
            refresh_per_second=_FRAMES_PER_S,
            transient=True,
            get_renderable=lambda: self._group(speeches),
        ):
            listening = zip(speeches, streams.values(), strict=True)
            await asyncio.gather(*(_listen(speech, x, began) for speech, x in listening))
        self.console.print(self._group(speeches))
        if len(speeches) > 1:
            self.console.print(self._overlap(speeches))
        return speeches

    def name(self, agent: str) -> str:
        """An agent's name, as players know it."""
        info = self.agents.get(agent)
        return info.name if info and info.name else agent

    def colour(self, agent: str) -> str:
        """An agent's colour: its own for a character, its tier's for others."""
        info = self.agents.get(agent)
        if info is not None and info.tier in _TIER_COLOURS:
            return _TIER_COLOURS[info.tier]
        npcs = [x.agent for x in self.agents.values() if x.tier == "npc"]
        return _COLOURS[npcs.index(agent) % len(_COLOURS)] if agent in npcs else "white"

    def _group(self, speeches: list[Speech]) -> Group:
        return Group(*(Padding(self._line(speech), (0, 2, 1, 2)) for speech in speeches))

    def _line(self, speech: Speech) -> RenderableType:
        style, reply = self.colour(speech.agent), speech.reply
        head = Text(self.name(speech.agent), style=f"bold {style}")
        if isinstance(reply, wire.SayReply) and reply.emotion:
            head.append(f" ({reply.emotion})", style=f"italic {style}")
        if speech.error:
            return Group(head, Text(f"  {speech.error}", style="red"))
        words = reply.text if reply is not None else speech.text
        parts: list[RenderableType] = [head, Padding(_words(words, reply), (0, 0, 0, 2))]
        for action in reply.actions if isinstance(reply, wire.SayReply) else ():
            wanted = f"wants to {action.name} {json.dumps(action.arguments, ensure_ascii=False)}"
            parts.append(Text(f"  → {wanted}", style="italic"))
        if reply is not None:
            parts.append(Padding(Text(label(reply), style="grey50"), (0, 0, 0, 2)))
        return Group(*parts)

    def _overlap(self, speeches: list[Speech]) -> RenderableType:
        """Who spoke when: bars on one time axis."""
        whole = max(speech.last_s for speech in speeches) or 1.0
        table = Table(box=None, show_header=False, padding=(0, 1))
        for speech in speeches:
            start = round((speech.first_s or 0.0) / whole * _BAR_CELLS)
            end = max(round(speech.last_s / whole * _BAR_CELLS), start + 1)
            bar = Text(" " * start + "━" * (end - start), style=self.colour(speech.agent))
            when = f"{speech.first_s or 0.0:.2f} to {speech.last_s:.2f} s"
            table.add_row(Text(f" {speech.agent}", style="grey50"), bar, Text(when, style="grey50"))
        return table


def label(reply: wire.LineReply) -> str:
    """Where a line came from and what it cost, in one line."""
    adapter = f"adapter {reply.adapter.name} v{reply.adapter.version}" if reply.adapter else "base"
    if reply.fallback:
        return f"{reply.tier} · {reply.agent} · authored line: {reply.cause}"
    used = reply.usage
    if not used.completion_tokens:
        return f"{reply.tier} · {reply.agent} · no model needed"
    parts = [
        reply.tier,
        reply.agent,
        adapter,
        f"first token {used.ttft_ms:.0f} ms",
        f"{used.tokens_per_s:.0f} tokens/s",
    ]
    if isinstance(reply, wire.AskReply) and reply.passages:
        pages = sorted({passage.page for passage in reply.passages})
        parts.append(f"from page {', '.join(map(str, pages))}")
    return " · ".join(parts)


def _words(text: str, reply: wire.LineReply | None) -> Text:
    if isinstance(reply, wire.TickReply):
        return Text(json.dumps(reply.directive, ensure_ascii=False), style="bold")
    return Text(text or "…")


async def _listen(speech: Speech, stream: AsyncIterator[wire.Body], began: float) -> None:
    try:
        async for part in stream:
            now = time.monotonic() - began
            if isinstance(part, wire.Delta):
                speech.text += part.text
                speech.first_s = now if speech.first_s is None else speech.first_s
            elif isinstance(part, wire.LineReply):
                speech.reply = part
            speech.last_s = now
    except ProtocolError as error:
        speech.error = str(error)


def show_inspection(shown: admin.InspectReply, console: Console) -> None:
    """What a model saw, piece by piece, and what it made of it."""
    console.print(Rule(Text(f"{shown.line} · {shown.agent}", style="bold"), style="grey37"))
    table = Table(box=None, padding=(0, 1), show_header=False)
    for segment in shown.segments:
        style = "grey50" if segment.kind == "template" else ""
        span = f"{segment.start}-{segment.end}"
        table.add_row(
            Text(segment.kind, style=style or "bold"),
            Text(span, style="grey50"),
            Text(segment.text, style=style),
        )
    console.print(table)
    console.print(Text(f"raw: {shown.output}", style="bold"))
    console.print(Text(label(shown), style="grey50"))
    used, most = shown.usage.prompt_tokens, shown.context_tokens
    console.print(Text(f"prompt: {used} of {most} tokens; sampler {shown.sampler}", style="grey50"))
    for why in shown.routing:
        console.print(Text(f"- {why}", style="grey50"))
