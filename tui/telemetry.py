"""Figures over time, per engine and for the gateway; where nothing was measured there is a gap."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widget import Widget

from protocol.administration import EngineInfo, StatsReply, StatsRequest
from tui.agents import tier_name
from tui.chart import bar, columns
from tui.page import Page
from tui.pane import Block, Pane
from tui.text import clean, duration, number, size, words

Sample = float | None
_FIGURE_WIDTH = 36  # cells for a figure of the gateway's and its name
_STATE_STYLES = {"ready": "$success", "failed": "$error", "starting": "$warning",
                 "restarting": "$warning", "closed": "$muted"}  # fmt: skip
_Read = Callable[[EngineInfo], Sample]


def _p95(engine: EngineInfo) -> Sample:
    return engine.ttft_p95_ms


# Name, unit, figure, and the figure whose largest value fills the graph where it isn't its own.
_GRAPHS: tuple[tuple[str, str, _Read, _Read | None], ...] = (
    ("tok/s", "", lambda e: e.tokens_per_s, None),
    ("running", "", lambda e: e.running, None),
    ("TTFT p50", " ms", lambda e: e.ttft_p50_ms, _p95),
    ("TTFT p95", " ms", _p95, None),
    ("waiting", "", lambda e: e.waiting, None),
    ("KV slots", "", lambda e: e.kv_slots_used, None),
)


class TelemetryPage(Page):
    """Sparklines per engine, memory by owner, and what the gateway counts."""

    MODE = "telemetry"
    ABOUT = (
        "One sample a second, newest at the right; a dot is a second in which nothing was heard "
        "from the server, and no line is drawn across it. TTFT is the time to the first token: "
        "p50 is the middle one, p95 the one that only one in twenty exceeds; both are drawn on "
        "one scale."
    )
    WATCHES = ("stats",)
    POLL_S = 1.0
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "fetch", "Ask now", id="telemetry.fetch"),
    ]

    def body(self) -> Iterable[Widget]:
        """One scrolling pane of graphs."""
        yield Pane(id="graphs")

    async def fetch(self) -> None:
        """A sample, where the server doesn't send them by itself."""
        newest = self.store.samples[-1][0] if self.store.samples else 0.0
        if time.time() - newest > 2 * (self.POLL_S or 1.0) and self.store.may("stats"):
            await self.request("stats", StatsRequest(), quiet=True)

    def action_fetch(self) -> None:
        """Ask for a sample now."""
        self.run_worker(self.request("stats", StatsRequest()), group="act")

    def on_resize(self) -> None:
        """Graphs take the width there is."""
        self.draw()

    def draw(self) -> None:
        """All graphs."""
        sample = self.store.sample()
        if sample is None:
            why = self.not_offered("stats") or "no sample yet"
            blocks = [Block(key="none", content=words(why, "$muted"))]
        else:
            width = max(40, self.size.width - 4)
            tall = 1 if self.size.height < 36 else 2 if self.size.height < 60 else 3
            blocks = [
                Block(key=f"engine{index}", content=self._engine(engine, width, tall))
                for index, engine in enumerate(sample.engines)
            ]
            blocks.append(Block(key="memory", content=_memory(sample, width)))
            blocks.append(Block(key="gateway", content=_gateway(sample, width)))
        self.query_one(Pane).show(blocks)

    def _engine(self, engine: EngineInfo, width: int, tall: int) -> Content:
        """One engine: a heading, then its graphs side by side."""
        rows = [_heading(engine)]
        per_row = len(_GRAPHS) if width >= 240 else 2  # a minute at least, where there is room
        cell = (width - 2 * (per_row - 1)) // per_row
        for start in range(0, len(_GRAPHS), per_row):
            graphs = [
                _graph(
                    title,
                    unit,
                    self._history(engine, read),
                    cell,
                    tall,
                    self._history(engine, scale) if scale else None,
                )
                for title, unit, read, scale in _GRAPHS[start : start + per_row]
            ]
            rows += [Content("  ").join(parts) for parts in zip(*graphs, strict=True)]
        rows += [_counters(engine), Content("")]
        return Content("\n").join(rows)

    def _history(self, engine: EngineInfo, read: Callable[[EngineInfo], Sample]) -> list[Sample]:
        """A figure of this engine in every sample; None where there was none."""
        values: list[Sample] = []
        last = None
        for time_s, sample in self.store.samples:
            if last is not None and time_s - last > 2.5:
                values += [None] * min(60, int(time_s - last) - 1)
            last = time_s
            same = (
                [e for e in sample.engines if (e.tier, e.base) == (engine.tier, engine.base)]
                if sample
                else []
            )
            values.append(read(same[0]) if same else None)
        return values


def _heading(engine: EngineInfo) -> Content:
    state = Content.styled(f"● {engine.state}", _STATE_STYLES.get(engine.state, ""))
    parts: list[Content | tuple[str, str] | str] = [
        tier_name(engine.tier, f"bold $tier-{engine.tier}"), "  ", state, "  ",
        words(engine.base, "$muted"),
    ]  # fmt: skip
    if engine.restarts:
        parts.append((f"  {engine.restarts} restarts", "$warning"))
    if engine.error:
        parts += ["  ", words(engine.error, "$error")]
    return Content.assemble(*parts)


def _graph(
    title: str,
    unit: str,
    samples: Sequence[Sample],
    width: int,
    tall: int,
    scale: Sequence[Sample] | None = None,
) -> list[Content]:
    """A labelled graph, `tall` rows high and `width` cells wide, full at the most of `scale`."""
    label_width = 19
    now = samples[-1] if samples else None
    known = [value for value in samples if value is not None]
    top = number(max(known, default=None))
    room = width - label_width
    full = max((value for value in (scale or ())[-room:] if value is not None), default=None)
    rows = columns(samples, room, tall, top=full)
    labels = [f"{title:<9}{number(now)}{unit}", f"  most {top}", ""]
    return [
        Content.assemble(
            (labels[i].ljust(label_width)[:label_width], "bold" if i == 0 else "$muted"), row
        )
        for i, row in enumerate(rows)
    ]


def _counters(engine: EngineInfo) -> Content:
    """Cache, adapters and tokens, in one row."""
    prompt = engine.prompt_tokens
    cached = f"{engine.cached_tokens / prompt:.0%}" if prompt else "—"
    slots = f"{engine.kv_slots_used}/{engine.kv_slots_total}"
    share = engine.kv_slots_used / engine.kv_slots_total if engine.kv_slots_total else 0.0
    loads = f"{engine.adapter_misses} loads {engine.adapter_evictions} evicted"
    return Content.assemble(
        ("cached ", "$muted"), cached,
        ("  KV ", "$muted"), bar(share, 8), f" {slots}", ("  adapters ", "$muted"), loads,
        ("  spoken ", "$muted"), number(engine.completion_tokens),
    )  # fmt: skip


def _memory(sample: StatsReply, width: int) -> Content:
    """Memory by owner, as bars."""
    owners = dict(sample.memory) or {
        f"{engine.tier} engine": engine.memory_bytes
        for engine in sample.engines
        if engine.memory_bytes
    }
    rows = [Content.styled("memory by owner", "bold")]
    total = sum(owners.values()) or 1
    for owner, held in sorted(owners.items(), key=lambda item: -item[1]):
        name = clean(owner)[:22].ljust(22)
        rows.append(
            Content.assemble((f"{name} ", "$muted"), bar(held / total, min(40, width - 40)),
                             f" {size(held)}")
        )  # fmt: skip
    if not owners:
        rows.append(words("the server does not tell", "$muted"))
    return Content("\n").join([*rows, Content("")])


def _gateway(sample: StatsReply, width: int) -> Content:
    """What the gateway counts, in columns."""
    gateway = sample.gateway
    figures = {
        "up": duration(gateway.uptime_s), "sessions": gateway.sessions,
        "open requests": gateway.open_requests, "requests": gateway.requests,
        "refused": gateway.refused, "bad frames": gateway.bad_frames, "deltas": gateway.deltas,
        "merged for slow readers": gateway.coalesced,
        "telemetry events": gateway.published,
        "memory": size(gateway.memory_bytes or None), "descriptors": gateway.descriptors,
    }  # fmt: skip
    cells = [
        Content.assemble((f"{name} ", "$muted"), f"{value}").pad_right(
            max(0, _FIGURE_WIDTH - len(f"{name} {value}"))
        )
        for name, value in figures.items()
    ]
    per_row = max(1, width // _FIGURE_WIDTH)
    rows = [Content.styled("gateway", "bold")]
    rows += [Content("").join(cells[i : i + per_row]) for i in range(0, len(cells), per_row)]
    return Content("\n").join(rows)
