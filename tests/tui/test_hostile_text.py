"""Nothing anybody writes can steer the terminal, break a screen or hide from the reader."""

from __future__ import annotations

import asyncio
import unicodedata
from typing import Any

import pytest

from protocol.administration import (
    AdaptersReply,
    AgentsReply,
    DirectorReply,
    InspectReply,
    LineInfo,
    LinesReply,
    LoreInfo,
    LoreReply,
    MemoryReply,
    StatsReply,
)
from protocol.messages import Body
from protocol.play import ReadReply, SavesReply
from protocol.telemetry import LineEnded, LineStarted, Logged, WorldEvent
from tests.tui.conftest import NARROW, WIDE, Console, Hosted, console_on
from tests.tui.fakes import inspection
from tui.prompt import VIEWS, PromptPage
from tui.text import clean

HOSTILE = [
    "[/", "[/b]", "[bold", "[@click=app.quit]press[/]", "[link=file:///etc/passwd]x[/link]",
    "\\[/b]", "[[[", "]]]", "[red]red[/red]", "$primary", "{agent}", "%s%n", "[",
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x1b]52;c;aGk=\x07", "\x9b2J", "\x1bP1$r\x1b\\",
    "a\rb", "a\bb", "a\x00b", "tab\there", "line\nbreak", "sep\u2028para\u2029",
    "\u202eright to left\u202c", "\u2066isolate\u2069", "\u200b\u200e\ufeff", "\ud800",
    "👩‍👩‍👧‍👦 family", "e" + "\u0301" * 40, "ﷺ" * 30, "漢字" * 40, "x" * 5_000, "", "\U000e0041tag",
]  # fmt: skip
# Fields that people and models fill with words; ids and enumerations are left alone.
FREE = {
    "about", "base", "cause", "digest", "emotion", "error", "feeling", "file", "last_error",
    "last_text", "message", "name", "note", "output", "routing", "said", "saved_at", "scopes",
    "server", "speaker", "text", "title", "token_texts", "what", "who", "world", "participants",
}  # fmt: skip
FORBIDDEN = {"Cc", "Cs"}
BIDI = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\u2028\u2029")


def poison(value: Any, text: str, key: str = "") -> Any:
    """The value with every free text replaced."""
    if isinstance(value, dict):
        return {k: poison(v, text, k) for k, v in value.items()}
    if isinstance(value, list):
        return [poison(v, text, key) for v in value]
    return text if isinstance(value, str) and key in FREE else value


def poisoned(body: Body, text: str, **ids: Any) -> Any:
    """A body whose words are all `text`; adapter names stay, as keys of rows."""
    fields = poison(body.model_dump(), text)
    return type(body).model_validate({**fields, **ids})


def assert_harmless(console: Console) -> None:
    """The screen holds only visible characters, in rows as wide as the terminal."""
    width = console.app.size.width
    for strip in console.app.screen._compositor.render_strips():
        assert strip.cell_length == width, repr(strip.text)
        for character in strip.text:
            assert unicodedata.category(character) not in FORBIDDEN, repr(strip.text)
            assert character not in BIDI, repr(strip.text)


def fill(console: Console, hosted: Hosted) -> None:
    """Let the store see every hostile string in every kind of message."""
    see, world = console.session.note, hosted.world
    agents, lines, adapters, memories, facts, saves, items = [], [], [], [], [], [], []
    for i, text in enumerate(HOSTILE):
        used = {"name": text}
        agents.append(poisoned(world.agent("ottavia"), text, agent=f"a{i}", adapter=used))
        told = {"text": text, "said": text, "speaker": text, "emotion": text, "cause": text}
        lines.append(LineInfo.model_validate(
            {"line": f"h{i}", "agent": f"a{i}", "tier": "npc", "fallback": i % 2 == 0, **told}
        ))  # fmt: skip
        shelf = world.adapters()[0]
        adapters.append(poisoned(shelf, text, name=f"ad{i}", metrics={text: text}))
        memories.append(poisoned(world.memories["pim"][0], text, memory=f"m{i}"))
        facts.append(LoreInfo(fact=f"f{i}", text=text, scopes=[text]))
        saves.append(poisoned(world.saves[0], text, slot=f"s{i}"))
        items.append(world.timeline[1].model_copy(update={"text": text}))
        see("line_started", body=LineStarted(line=f"t{i}", agent=f"a{i}", tier="npc", text=text,
                                             speaker=text))  # fmt: skip
        see(
            "line_ended", body=LineEnded.model_validate({**lines[-1].model_dump(), "line": f"t{i}"})
        )
        see("log", body=Logged(level="warning", text=text, agent=text, request=text))
        see("world_event", body=WorldEvent(kind=text, text=text))
        see("inspect", body=_inspection(lines[-1], world, text))
        see("trouble", f"ad{i}\n{text}")
    see("agents", body=AgentsReply(world=HOSTILE[13], agents=agents))
    see("lines", body=LinesReply(lines=lines))
    see("adapters", "list", AdaptersReply(adapters=adapters))
    see("memory", "a0", MemoryReply(memories=memories))
    see("lore", "a0", LoreReply(facts=facts))
    see("saves", body=SavesReply(saves=saves))
    see("director", body=DirectorReply(items=items, state={t: t for t in HOSTILE}))
    see("read", "", ReadReply(agent="tide_tables", title=HOSTILE[0], page=1, pages=2,
                              text="\n".join(HOSTILE), bookmark=2))  # fmt: skip
    stats = world.stats()
    see("stats", body=poisoned(stats, HOSTILE[13], memory=dict.fromkeys(HOSTILE[:20], 5)))
    assert isinstance(stats, StatsReply)


def _inspection(line: LineInfo, world: Any, text: str) -> InspectReply:
    whole = inspection(line, world.agent("ottavia"))
    fields = poison(whole.model_dump(), text)
    fields["segments"] = [{**s, "kind": text if i == 1 else s["kind"]}
                          for i, s in enumerate(fields["segments"])]  # fmt: skip
    return InspectReply.model_validate({**fields, "sampler": {text: text}})


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["80x24", "160x50"])
async def test_hostile_text_is_harmless_on_every_screen(
    hosted: Hosted, size: tuple[int, int]
) -> None:
    async with console_on(hosted.connection, size) as console:
        await hosted.stop()  # nothing honest comes in between
        fill(console, hosted)
        console.session.look_at("a0")
        for digit in (1, 2, 4, 5, 6, 7, 8, 9):
            await console.go(digit)
            await console.pilot.pause()
            assert_harmless(console)
            await console.pilot.press("end")
            assert_harmless(console)
        for key in "rlv":
            await console.go(7)
            await console.pilot.press(key)
            assert_harmless(console)
        await _every_prompt(console)


async def _every_prompt(console: Console) -> None:
    """All views of every hostile line, and the whole list of agents in a dialog."""
    await console.go(3)
    page = console.page
    assert isinstance(page, PromptPage)
    for i in range(len(HOSTILE)):
        console.session.look_at(line=f"h{i}")
        few = console.app.size == WIDE  # at this size one view each, to save time
        for view in [list(VIEWS)[i % len(VIEWS)]] if few else VIEWS:
            page.action_view(view)
            await asyncio.sleep(0)
            assert page.line_id == f"h{i}"
            assert_harmless(console)
    await console.go(2)
    await console.leave_input()
    await console.pilot.press("a")
    await console.dialog()
    assert_harmless(console)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("lines", [False, True], ids=["row", "lines"])
def test_clean_text_is_all_visible(text: str, lines: bool) -> None:
    shown = clean(text, lines=lines)
    for character in shown:
        allowed = character == "\n" and lines
        assert allowed or unicodedata.category(character) not in FORBIDDEN | {"Zl", "Zp"}
        assert character not in BIDI


def test_an_escape_sequence_is_shown_not_dropped() -> None:
    assert clean("\x1b[31m") == "␛[31m"
    assert clean("a\u202eb") == "a⟨202E⟩b"
    assert clean("\ud800") == "\ufffd"
    assert clean("a\nb") == "a⏎b"
    assert clean("a\nb", lines=True) == "a\nb"


def test_honest_text_stays_as_it_is() -> None:
    for text in ("Hush.", "¿Dónde está?", "漢字", "👩‍👩‍👧 and me", "नमस्ते", "می‌خواهم"):
        assert clean(text) == text
