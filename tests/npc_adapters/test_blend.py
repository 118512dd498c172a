from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.adapters import read_adapter
from npc_adapters.blend import WAYS, blend_adapters, compare_adapters, merge_adapter
from npc_adapters.card import read_card
from npc_adapters.errors import UsageError
from tests.tiny_models import tiny_adapter


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, base: Path) -> list[Path]:
    folder = tmp_path_factory.mktemp("parts")
    return [tiny_adapter(folder / name, base, seed=i) for i, name in enumerate("ab")]


def test_an_exact_blend_is_the_weighted_sum(tmp_path: Path, base: Path, parts: list[Path]) -> None:
    blend_adapters(base, parts, [0.7, 0.3], tmp_path / "mix", name="mix")
    a, b, mix = (read_adapter(path).factors for path in (*parts, tmp_path / "mix"))
    for module, (down, up) in mix.items():
        wanted = 0.7 * a[module][1] @ a[module][0] + 0.3 * b[module][1] @ b[module][0]
        torch.testing.assert_close(up @ down, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("how", WAYS)
def test_every_way_gives_an_adapter_with_a_card(
    tmp_path: Path, base: Path, parts: list[Path], how: str
) -> None:
    card = blend_adapters(base, parts, [0.5, 0.5], tmp_path / "mix", name="mix", how=how)
    assert read_card(tmp_path / "mix") == card
    assert len(card.parents) == 2


def test_a_blend_of_one_or_in_no_known_way_is_refused(
    tmp_path: Path, base: Path, parts: list[Path]
) -> None:
    with pytest.raises(UsageError, match="two or more"):
        blend_adapters(base, parts[:1], [1.0], tmp_path / "mix", name="mix")
    with pytest.raises(UsageError, match="no way 'soup'"):
        blend_adapters(base, parts, [0.5, 0.5], tmp_path / "mix", name="mix", how="soup")


def test_a_merged_base_holds_the_adapter(tmp_path: Path, base: Path, parts: list[Path]) -> None:
    from transformers import AutoModelForCausalLM

    merge_adapter(base, parts[0], tmp_path / "merged")
    before = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).state_dict()
    after = AutoModelForCausalLM.from_pretrained(
        tmp_path / "merged", dtype=torch.float32
    ).state_dict()
    module = "0.self_attn.q_proj"
    down, up = read_adapter(parts[0]).factors[module]
    name = f"model.layers.{module}.weight"
    torch.testing.assert_close(after[name], before[name] + up @ down, atol=0.02, rtol=0.01)


def test_an_adapter_is_like_itself_and_unlike_another(parts: list[Path]) -> None:
    same, other = compare_adapters(parts[0], parts[0]), compare_adapters(*parts)
    assert all(figures["cosine"] == pytest.approx(1, abs=1e-4) for figures in same.values())
    assert all(abs(figures["cosine"]) < 0.5 for figures in other.values())
