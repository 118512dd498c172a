"""Reads a world's files again while it is played; a broken edit keeps the old world live."""

from __future__ import annotations

from typing import Literal

from engine.errors import EngineError
from protocol import administration as admin
from protocol import messages as wire
from roles.engines import Engine, adapters_of
from roles.house import House
from roles.world import World


async def reload(house: House, body: admin.ReloadRequest) -> admin.ReloadReply:
    """Take the files as they are now; conversations go on.

    Raises:
        WorldError: an edit is broken; nothing has changed.
    """
    old, new = house.world, World.load(house.world.root)
    changes = differences(old, new)
    if changes and not body.check_only:
        house.world = new
        house.play.take_world(new)
        house.engines.world = new
        for engine in house.engines:
            await _serve_new(engine, new)
        files = ", ".join(change.file for change in changes)
        house.notify(wire.Notice(kind="reloaded", message=f"changed: {files}"))
    return admin.ReloadReply(changes=changes)


def differences(old: World, new: World) -> list[admin.FileChange]:
    """What changed from one reading of the files to the next."""
    changes = []
    for file in sorted({*old.files, *new.files}):
        if old.files.get(file) == new.files.get(file):
            continue
        kind: Literal["added", "changed", "removed"] = "changed"
        if file not in old.files or file not in new.files:
            kind = "added" if file in new.files else "removed"
        changes.append(admin.FileChange(file=file, change=kind, about=_about(file, old, new)))
    return changes


def _about(file: str, old: World, new: World) -> str:
    """A few words on what a change means."""
    if file == "world.toml" and (old.spec.tiers, old.encoder) != (new.spec.tiers, new.encoder):
        return "tiers and encoder take effect when the server starts again"
    if not file.startswith("lore/"):
        return ""
    before = {fact.id: fact.text for fact in old.facts.values()}
    after = {fact.id: fact.text for fact in new.facts.values()}
    parts = [f"+{fact}" for fact in after if fact not in before]
    parts += [f"-{fact}" for fact in before if fact not in after]
    parts += [f"~{fact}" for fact in after if before.get(fact, after[fact]) != after[fact]]
    return ", ".join(parts)


async def _serve_new(engine: Engine, world: World) -> None:
    """Load adapters that the new files name and the engine has not got."""
    for name, path in adapters_of(world, engine.tier):
        known = engine.adapters.get(name)
        if engine.state == "ready" and (known is None or known.path != str(path)):
            try:
                await engine.serve(name, path)
            except EngineError:
                continue  # noted in `refused`, and shown by `agents`
