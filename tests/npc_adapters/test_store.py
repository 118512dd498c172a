from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from npc_adapters.card import AdapterCard, base_digest, read_card, write_card
from npc_adapters.errors import StoreError
from npc_adapters.store import AdapterLibrary
from tests.tiny_models import tiny_adapter, tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def adapter(folder: Path, base: Path, seed: int) -> Path:
    tiny_adapter(folder, base, seed=seed)
    (folder / "README.md").unlink(missing_ok=True)
    write_card(folder, AdapterCard(name="pim", base="base", base_digest=base_digest(base)))
    return folder


@pytest.fixture
def library(tmp_path: Path, base: Path) -> AdapterLibrary:
    """Pim is live with seed 1; seed 2 is the candidate."""
    library = AdapterLibrary(tmp_path / "adapters")
    library.promote("pim", adapter(tmp_path / "first", base, 1), base=base)
    adapter(library.candidate("pim"), base, 2)
    return library


def test_promoting_keeps_the_old_one_and_rollback_brings_it_back(library: AdapterLibrary) -> None:
    first = read_card(library.live("pim")).digest
    second = library.promote("pim").digest
    assert second != first
    assert read_card(library.live("pim")).digest == second
    assert library.rollback("pim").digest == first
    assert read_card(library.live("pim")).digest == first
    assert [entry["action"] for entry in library.log("pim")] == ["promote", "promote", "rollback"]
    with pytest.raises(StoreError, match="no earlier version"):
        library.rollback("pim")


def test_a_failed_gate_leaves_the_live_adapter(library: AdapterLibrary) -> None:
    before = read_card(library.live("pim"))
    with pytest.raises(StoreError, match="too dull"):
        library.promote("pim", checks=[lambda name, folder: [f"{name} is too dull"]])
    assert read_card(library.live("pim")) == before


def test_force_needs_a_reason_and_is_written_down(library: AdapterLibrary) -> None:
    library.promote("pim", checks=[lambda *_: ["dull"]], force_reason="wanted for the demo")
    assert library.log("pim")[-1]["reason"] == "dull; wanted for the demo"


@pytest.mark.parametrize("name", ["adapter_model.bin", "modeling.py", "weights.pkl"])
def test_code_and_pickles_are_refused(library: AdapterLibrary, name: str) -> None:
    (library.candidate("pim") / name).write_bytes(b"x")
    with pytest.raises(StoreError, match=name):
        library.promote("pim")
    assert library.live("pim").is_dir()


def test_an_adapter_of_another_base_is_refused(library: AdapterLibrary, tmp_path: Path) -> None:
    other = tiny_base(tmp_path / "other", seed=9)
    with pytest.raises(StoreError, match="was trained on the base"):
        library.promote("pim", base=other)


def test_weights_that_changed_since_their_card_are_refused(library: AdapterLibrary) -> None:
    weights = library.candidate("pim") / "adapter_model.safetensors"
    shutil.copy(library.live("pim") / weights.name, weights)
    with pytest.raises(StoreError, match="damaged"):
        library.promote("pim")


def test_a_full_disk_leaves_the_live_adapter(
    library: AdapterLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_card(library.live("pim"))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(StoreError, match="No space left on device"):
        library.promote("pim")
    assert read_card(library.live("pim")) == before
    assert library.names() == ["pim"]


def test_a_removed_adapter_can_come_back(library: AdapterLibrary) -> None:
    library.remove("pim")
    assert library.names() == []
    with pytest.raises(StoreError, match="no adapter 'pim'"):
        library.remove("pim")
    library.rollback("pim")
    assert library.names() == ["pim"]
