"""Each screen looks as it did when somebody last looked at it and was content.

The pictures are the screens' text, in `snapshots/`. After a change that is meant:

    UPDATE_SNAPSHOTS=1 pytest tests/tui/test_snapshots.py

and look at the difference before committing it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tui.conftest import NARROW, WIDE, Console
from tests.tui.evening import seen
from tui.app import ConsoleApp
from tui.recording import ReplayLink
from tui.session import Session

PATIENCE_S = 10.0  # for each picture
FOLDER = Path(__file__).parent / "snapshots"
# What to press to come to each picture.
SCREENS = {
    "agents": ["alt+1"],
    "talk": ["alt+2"],
    "prompt_text": ["alt+3"],
    "prompt_ids": ["alt+3", "i"],
    "prompt_diff": ["alt+3", "d"],
    "prompt_logits": ["alt+3", "l"],
    "adapters": ["alt+4"],
    "director": ["alt+5"],
    "books": ["alt+6"],
    "memory": ["alt+7"],
    "saves": ["alt+7", "v"],
    "telemetry": ["alt+8"],
    "log": ["alt+9"],
    "help": ["alt+1", "f1"],
}


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["80x24", "160x50"])
async def test_screens_look_as_they_did(size: tuple[int, int]) -> None:
    app = ConsoleApp(Session(ReplayLink(seen(), "an evening", speed=0)))
    different = []
    async with app.run_test(size=size) as pilot:
        console = Console(app, pilot)
        await console.until(lambda: len(console.session.store.samples) > 50, "all seen")
        for name, keys in SCREENS.items():
            console.session.look_at("ottavia", "line-3")
            await pilot.press("escape", *keys)
            if not await _is_as_before(f"{name}-{size[0]}x{size[1]}.txt", console):
                different.append(name)
            if name == "help":
                await pilot.press("escape")
    assert not different, f"these look different: {different}; see this file's docstring"


async def _is_as_before(name: str, console: Console) -> bool:
    """Compare with the picture, or make it anew where that was asked for."""
    path = FOLDER / name
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(await _settled(console), encoding="utf-8")
    expected = path.read_text(encoding="utf-8")
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:  # a slow machine draws the last key late
        if _rows(console) == expected:
            return True
        await console.pilot.pause(0.05)
    return await _settled(console) == expected


async def _settled(console: Console) -> str:
    """The screen once it has stopped changing and its keys stand below."""
    same, before = 0, ""
    while same < 10:
        await console.pilot.pause(0.1)
        now = _rows(console)
        same = same + 1 if now == before and now.splitlines()[-1] else 0
        before = now
    return before


def _rows(console: Console) -> str:
    return "\n".join(row.rstrip() for row in console.text.splitlines()) + "\n"
