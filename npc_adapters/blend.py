"""Adapters out of adapters: blended, merged into the base, compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.adapters import adapter_digest, read_adapter
from npc_adapters.bases import name_base, replace_folder, save_base
from npc_adapters.card import AdapterCard, base_digest, write_card
from npc_adapters.errors import UsageError
from npc_adapters.methods import SOFT

WAYS = ("exact", "linear", "ties", "dare_linear", "svd")
_DENSITY = 0.5  # share of weights that ties and dare keep


def blend_adapters(
    base: Path,
    folders: Sequence[Path],
    weights: Sequence[float],
    out: Path,
    *,
    name: str,
    how: str = "exact",
) -> AdapterCard:
    """Mix LoRA adapters of one base into a new one.

    Args:
        base: folder of the base model.
        folders: adapter folders, at least two.
        weights: one per adapter.
        out: where the result goes.
        name: of the result.
        how: "exact" concatenates ranks, so that the result is the weighted sum itself; linear,
            ties (Yadav et al. 2023), dare_linear (Yu et al. 2023) and svd approximate it at the
            ranks they were given.

    Raises:
        UsageError: fewer than two adapters, or an unknown way.
    """
    if how not in WAYS:
        raise UsageError(f"no way {how!r} to blend; there are: {', '.join(WAYS)}")
    if len(folders) < 2 or len(folders) != len(weights):
        raise UsageError(f"{len(folders)} adapters and {len(weights)} weights; give two or more")
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    parts = [f"part{i}" for i in range(len(folders))]
    model = PeftModel.from_pretrained(model, folders[0], adapter_name=parts[0])
    for part, folder in zip(parts[1:], folders[1:], strict=True):
        model.load_adapter(folder, adapter_name=part)
    kind = "cat" if how == "exact" else how
    options = {"density": _DENSITY} if how in ("ties", "dare_linear") else {}
    model.add_weighted_adapter(parts, list(weights), name, combination_type=kind, **options)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, selected_adapters=[name], save_embedding_layers=False)
    inner = partial / name  # PEFT puts every adapter but "default" into a folder of its name
    name_base(inner, base)
    card = write_card(
        inner,
        AdapterCard(
            name=name,
            base=base.name,
            base_digest=base_digest(base),
            method=f"blend ({how})",
            rank=read_adapter(inner).rank,
            parents=tuple(adapter_digest(folder) for folder in folders),
        ),
    )
    replace_folder(inner, out)
    shutil.rmtree(partial, ignore_errors=True)
    return card


def lies_on_lora(method: str, parent: Path | None) -> bool:
    """Whether training by this method from this parent lays a soft prompt on a LoRA adapter."""
    if method not in SOFT or parent is None:
        return False
    config = json.loads((parent / "adapter_config.json").read_text(encoding="utf-8"))
    return bool(config["peft_type"] == "LORA")


def lay_on_lora(folder: Path, lora: Path) -> None:
    """Turn a soft prompt's folder into one that holds it on top of a LoRA adapter."""
    for name in ("soft", "lora"):
        (folder / name).mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).rename(folder / "soft" / name)
        shutil.copyfile(lora / name, folder / "lora" / name)
    parts = [{"path": "lora", "weight": 1}, {"path": "soft", "weight": 1}]
    (folder / "blend.json").write_text(json.dumps({"parts": parts}) + "\n", encoding="utf-8")


def merge_adapter(base: Path, adapter: Path, out: Path) -> None:
    """Write the base with an adapter folded into its weights (bf16)."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    save_base(merged, AutoTokenizer.from_pretrained(base), out)


def compare_adapters(first: Path, second: Path) -> dict[str, dict[str, float]]:
    """How alike two LoRA adapters are, module by module.

    Returns:
        For every module: `first` and `second`, the Frobenius norms of what each adds to the
        weights, and `cosine` between them (absent where one has no such module).

    Raises:
        AdapterError: a folder holds no LoRA adapter.
    """
    found = [read_adapter(folder).factors for folder in (first, second)]
    rows: dict[str, dict[str, float]] = {}
    for module in sorted(set(found[0]) | set(found[1])):
        deltas = [f[module][1] @ f[module][0] if module in f else None for f in found]
        row = {
            side: float(delta.norm())
            for side, delta in zip(("first", "second"), deltas, strict=True)
            if delta is not None
        }
        if deltas[0] is not None and deltas[1] is not None:
            product = float((deltas[0] * deltas[1]).sum())
            row["cosine"] = product / max(row["first"] * row["second"], 1e-12)
        rows[module] = row
    return rows
