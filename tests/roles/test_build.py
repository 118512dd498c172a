from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from npc_adapters.errors import StoreError, UsageError
from roles import build, training
from roles.world import World

STARTER = World.load("biblioteca_eterna")


class Promotions:
    """Stands for `training.promote` behind a gate that nothing passes."""

    def __init__(self) -> None:
        self.forced: list[str] = []

    def __call__(self, world: World, name: str, *, force_reason: str = "", **_: Any) -> None:
        if not force_reason:
            raise StoreError(f"{name} does not pass its gate")
        self.forced.append(name)


@pytest.mark.parametrize("fits", [True, False])
def test_a_failed_gate_matters_only_where_something_live_fits_the_base(
    fits: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def verify(folder: Path, base: Path) -> None:
        if not fits:
            raise StoreError("trained on another base")

    promotions = Promotions()
    monkeypatch.setattr(training, "promote", promotions)
    monkeypatch.setattr(training, "base_folder", lambda world, tier: tmp_path)
    library = SimpleNamespace(live=lambda name: tmp_path / name, verify=verify)
    monkeypatch.setattr(training, "library", lambda world: library)
    build._promote(STARTER, "pim", "npc", tmp_path, Console())
    assert promotions.forced == ([] if fits else ["pim"])
    assert "does not pass its gate" in capsys.readouterr().out


def test_a_shorter_build_trains_everything_for_less() -> None:
    assert build._scaled(600, build.MINUTES, at_least=40) == 600
    assert build._scaled(600, build.MINUTES / 4, at_least=40) == 150
    assert build._scaled(600, 1, at_least=40) == 40
    assert build._scaled(600, 3 * build.MINUTES, at_least=40) == 600


def test_a_step_that_does_not_exist_is_named_with_those_that_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no step 'poems'; there are: corpus, book-base, npc-base"):
        build.build_world(STARTER, corpus=tmp_path, only=["poems"])
