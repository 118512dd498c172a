"""Blends: adapters that are the weighted sum of others, made while the game runs.

A blend is a recipe, shares by adapter; it is kept in the game's store, so a save holds it and plays
on with it elsewhere. The engine reads it from a folder with a blend.json, whose name tells the
recipe, so that an engine started again finds the very same mixture.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from engine.errors import EngineError
from roles.engines import Engine
from roles.errors import AdapterRefusedError
from roles.house import House

Recipe = dict[str, float]


def mixed(blends: Mapping[str, Recipe], weights: Mapping[str, float]) -> Recipe:
    """A recipe of trained adapters alone: a blend among the parts counts as what is in it."""
    recipe: Recipe = {}
    for part, weight in weights.items():
        for inner, share in blends.get(part, {part: 1.0}).items():
            recipe[inner] = recipe.get(inner, 0.0) + weight * share
    return recipe


def adapter_folder(house: House, engine: Engine, name: str) -> Path:
    """Where an adapter is read from: a blend's folder (written here), its own, or the world's.

    Raises:
        AdapterRefusedError: it is a link to somewhere else.
    """
    recipe = house.blends.get(name)
    if recipe is not None and recipe.keys() <= engine.adapters.keys():
        return _write(house.folder / "blends", engine, recipe)
    home = house.world.root / "models" / "adapters"
    path = Path(engine.adapters[name].path) if name in engine.adapters else home / name
    if path.is_symlink() and not path.resolve().is_relative_to(home.resolve()):
        raise AdapterRefusedError(f"{name}: {path} leads out of the folder of adapters")
    return path


async def serves(house: House, engine: Engine, name: str) -> bool:
    """Whether the engine serves an adapter as this game knows it; loads it if it can."""
    if name in engine.adapters and name not in house.blends:
        return True
    folder = adapter_folder(house, engine, name)
    if name in engine.adapters and engine.adapters[name].path == str(folder):
        return True
    if not folder.is_dir():
        return False
    try:
        await engine.serve(name, folder)
    except EngineError:
        return False  # noted in `refused`, by name
    return True


def _write(root: Path, engine: Engine, recipe: Recipe) -> Path:
    """The folder of a recipe. What has more ranks than a slot is rounded to the slot's."""
    parts = [{"path": engine.adapters[x].path, "weight": weight} for x, weight in recipe.items()]
    ranks = sum(engine.adapters[part].rank for part in recipe)
    described: dict[str, object] = {"parts": parts}
    if ranks > engine.table.max_rank:
        described["rank"] = engine.table.max_rank
    text = json.dumps(described)
    folder = root / hashlib.sha256(text.encode()).hexdigest()[:16]  # a save's names are no paths
    if not (folder / "blend.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        report = json.dumps({**recipe, "rank_of_parts": ranks})
        (folder / "report.json").write_text(report, encoding="utf-8")
        (folder / "blend.json").write_text(text, encoding="utf-8")
    return folder
