from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from books.distill import read_volumes
from books.special import SPECIAL, train_special
from engine.adapters import read_adapter
from npc_adapters.card import read_card


def test_a_special_book_becomes_an_adapter_on_the_base(
    tmp_path: Path, base: Path, book_path: Path
) -> None:
    volume = read_volumes(book_path.parent)["well_of_ink"]
    quick = replace(SPECIAL, epochs=1, max_rows=16, rank=4)
    outcome = train_special(volume, [volume], base, tmp_path / "well", quick, show=False)
    assert read_adapter(outcome.folder).rank == 4
    assert read_card(outcome.folder).name == "well_of_ink"
    assert outcome.report["num_train_rows"] == 16
