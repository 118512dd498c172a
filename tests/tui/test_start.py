"""What the console's command refuses before it draws anything."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tui.errors import ConsoleError
from tui.start import ConsoleConfig, start


def test_without_a_terminal_it_says_so_instead_of_drawing_for_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    with pytest.raises(ConsoleError, match="needs a terminal"):
        start(ConsoleConfig())


def test_a_demo_and_a_replay_exclude_each_other() -> None:
    with pytest.raises(ConsoleError, match="exclude each other"):
        start(ConsoleConfig(demo="biblioteca_eterna", replay=Path("seen.jsonl")))
