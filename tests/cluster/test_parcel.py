from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.parcel import NodeStore, Parcel, describe
from engine.errors import AdapterError, BackendError


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A student that names its tokenizer's folder, and a blend of two adapters."""
    files = {
        "base/tokenizer.json": "{}",
        "base/model.safetensors": "weights",
        "students/almanac/card.json": json.dumps({"tokenizer": "../../base"}),
        "students/almanac/model.safetensors": "small weights",
        "adapters/a/adapter_config.json": "{}",
        "adapters/b/adapter_config.json": "{ }",
        "adapters/ab/blend.json": json.dumps({"parts": [{"path": "../a"}, {"path": "../b"}]}),
    }
    for name, text in files.items():
        path = tmp_path / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path / "models"


def contents(parcel: Parcel) -> dict[str, bytes]:
    return {name: (Path(parcel.root) / name).read_bytes() for name, _ in parcel.files}


def test_a_parcel_holds_what_its_folder_points_to(models: Path) -> None:
    student = describe(models / "students" / "almanac")
    assert student.entry == "students/almanac"
    assert [name for name, _ in student.files] == [
        "base/tokenizer.json",
        "students/almanac/card.json",
        "students/almanac/model.safetensors",
    ]
    blend = describe(models / "adapters" / "ab")
    assert [name for name, _ in blend.files] == [
        "a/adapter_config.json",
        "ab/blend.json",
        "b/adapter_config.json",
    ]
    assert Parcel.unpack(blend.pack()) == blend
    with pytest.raises(AdapterError, match="there is no folder"):
        describe(models / "nowhere")


def test_a_kept_parcel_is_found_by_content_and_only_while_it_is_whole(
    models: Path, tmp_path: Path
) -> None:
    store, parcel = NodeStore(tmp_path / "store"), describe(models / "students" / "almanac")
    assert store.find(parcel) == models / "students" / "almanac"  # the same disk: used as it is
    foreign = replace(parcel, root="/nowhere")
    assert store.find(foreign) is None
    kept = store.keep(foreign, contents(parcel))
    assert store.find(foreign) == kept
    assert (kept / "../../base/tokenizer.json").read_text(encoding="utf-8") == "{}"
    (kept / "model.safetensors").write_text("other", encoding="utf-8")
    assert store.find(foreign) is None
    assert store.find(replace(foreign, root=parcel.root)) == models / "students" / "almanac"
    assert store.keep(foreign, contents(parcel)) == kept
    assert store.find(foreign) == kept


def test_content_that_differs_or_reaches_outside_is_refused(models: Path, tmp_path: Path) -> None:
    store, parcel = NodeStore(tmp_path / "store"), describe(models / "adapters" / "a")
    with pytest.raises(BackendError, match="its digest differs"):
        store.keep(parcel, {"adapter_config.json": b"{} "})
    with pytest.raises(BackendError, match="its digest differs"):
        store.keep(parcel, {})
    (name, digest), *_ = parcel.files
    outside = replace(parcel, files=((f"../../{name}", digest),))
    with pytest.raises(BackendError, match="outside of itself"):
        store.keep(outside, {f"../../{name}": contents(parcel)[name]})
    assert not (tmp_path / "store").exists() or not list((tmp_path / "store").iterdir())
