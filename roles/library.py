"""Adapters while the game runs: what is loaded, who speaks through what, swap and roll back.

Names only: a server never takes a path. Promotion and rollback change the world's folder through
the same command a developer types, in a process of its own (it needs torch; the gateway hasn't).
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from engine.errors import EngineError
from engine.requests import AdapterInfo
from protocol import administration as admin
from protocol import telemetry
from roles.blends import adapter_folder, mixed, serves
from roles.engines import Engine
from roles.errors import AdapterRefusedError, LineError
from roles.house import House
from roles.problems import nearest
from roles.world import DIRECTOR


async def adapters(house: House, body: admin.AdaptersRequest) -> admin.AdaptersReply:
    """Look at the adapters, or change them; what fails leaves everything as it was."""
    if body.op == "list":
        found = [one for engine in house.engines for one in await _listed(house, engine)]
        return admin.AdaptersReply(adapters=found)
    if body.op == "swap":
        return await _swap(house, body)
    agent = body.agent or body.name
    if agent is None:
        raise LineError(f"adapters {body.op} needs a name")
    engine = _engine(house, agent)
    name = body.name or agent
    if body.op in ("promote", "rollback"):
        await _command(house, body.op, agent)
    if body.op == "unload":
        return await _unload(house, engine, name)
    if body.op == "blend":
        return await _blend(house, engine, name, body.weights)
    pinned = {"pin": True, "unpin": False}.get(body.op)
    return await _load(house, engine, name, pinned)


async def _load(
    house: House, engine: Engine, name: str, pinned: bool | None
) -> admin.AdaptersReply:
    """Read an adapter's folder (again); lines being spoken end on the old version."""
    known = engine.adapters.get(name)
    path = adapter_folder(house, engine, name)
    keep = known.pinned if known is not None and pinned is None else bool(pinned)
    try:
        await engine.serve(name, path, pinned=keep)
    except EngineError as error:
        failed = admin.AdapterInfo(name=name, tier=engine.tier, error=str(error))
        _tell(house, failed, "failed")
        raise AdapterRefusedError(str(error)) from error
    shown = _info(house, engine, engine.adapters[name])
    _tell(house, shown, "loaded")
    return admin.AdaptersReply(adapters=[shown])


async def _unload(house: House, engine: Engine, name: str) -> admin.AdaptersReply:
    if name not in engine.adapters:
        raise LineError(f"the {engine.tier} engine has no adapter {name!r}")
    gone = _info(house, engine, engine.adapters[name])
    await engine.backend.unload_adapter(name)
    del engine.adapters[name]
    if not gone.agents:  # a blend that nobody speaks through is forgotten with it
        house.store.set("blends", {k: v for k, v in house.blends.items() if k != name})
    _tell(house, gone, "unloaded")
    return admin.AdaptersReply(adapters=[gone])


async def _swap(house: House, body: admin.AdaptersRequest) -> admin.AdaptersReply:
    """From its next line on a character speaks through another adapter."""
    if body.agent is None or body.name is None:
        raise LineError("adapters swap needs an agent and the name of an adapter")
    character, engine = house.character(body.agent), house.engines["npc"]
    if not await serves(house, engine, body.name):
        await _load(house, engine, body.name, None)  # says why it can't
    character.part.adapter = "" if body.name == body.agent else body.name
    character.keep()
    shown = _info(house, engine, engine.adapters[body.name])
    _tell(house, shown, f"swapped for {body.agent}")
    return admin.AdaptersReply(adapters=[shown])


async def _blend(
    house: House, engine: Engine, name: str, weights: Mapping[str, float]
) -> admin.AdaptersReply:
    """Mix adapters into one more, which belongs to the game, and so to its saves."""
    if name in house.world.agents:
        raise LineError(f"{name!r} is an agent's own adapter; give the blend another name")
    old = house.blends
    recipe = mixed(old, {part: weight for part, weight in weights.items() if weight})
    for part in recipe or [""]:
        if part in ("", name) or not await serves(house, engine, part):
            known = [one for one in engine.adapters if one != name]
            raise LineError(
                f"blends need adapters in `weights`, not {part!r}; {nearest(part, known)}"
            )
    house.store.set("blends", {**old, name: recipe})
    try:
        return await _load(house, engine, name, None)
    except AdapterRefusedError:
        house.store.set("blends", old)
        raise


async def _listed(house: House, engine: Engine) -> list[admin.AdapterInfo]:
    """An engine's adapters, those it refused, and those that only lie in the world's folder."""
    infos = {}
    if engine.state == "ready":
        infos = {info.name: info for info in await engine.backend.adapters()}
    shown = [_info(house, engine, info) for info in infos.values()]
    refused = engine.refused.items()
    shown += [
        admin.AdapterInfo(name=name, tier=engine.tier, error=why)
        for name, why in refused
        if name not in infos
    ]
    if engine.tier == "npc":
        told = {*infos, *engine.refused, DIRECTOR}
        shown += [_on_disk(folder) for folder in _folders(house) if folder.name not in told]
    return shown


def _folders(house: House) -> list[Path]:
    """The world's adapters; candidates and older versions are hidden folders."""
    found = (house.world.root / "models" / "adapters").glob("[!.]*/adapter_config.json")
    return sorted(config.parent for config in found)


def _on_disk(folder: Path) -> admin.AdapterInfo:
    """What can be said of an adapter of characters that no engine has read."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        rank = int(config.get("r") or 0)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return admin.AdapterInfo(name=folder.name, error=f"adapter_config.json: {error}")
    return admin.AdapterInfo(
        name=folder.name,
        rank=rank,
        size_bytes=sum(file.stat().st_size for file in folder.glob("*.safetensors")),
        metrics=_metrics(folder),
    )


def _info(house: House, engine: Engine, info: AdapterInfo) -> admin.AdapterInfo:
    agents = []
    if engine.tier == "npc":
        cast = house.play.cast.items()
        agents = [npc for npc, who in cast if (who.part.adapter or npc) == info.name]
    elif info.name in house.world.agents:
        agents = [info.name]
    return admin.AdapterInfo(
        name=info.name,
        digest=info.digest,
        version=info.version,
        versions=[info.version],
        agents=agents,
        tier=engine.tier,
        resident=info.resident,
        pinned=info.pinned,
        rank=info.rank,
        size_bytes=info.size_bytes,
        running=info.num_running,
        metrics=_metrics(Path(info.path)),
        error=engine.refused.get(info.name, ""),
    )


def _metrics(folder: Path) -> dict[str, object]:
    """What its report says, numbers only."""
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(report, dict):
        return {}
    return {key: value for key, value in report.items() if isinstance(value, int | float)}


def _engine(house: House, agent: str) -> Engine:
    """The engine that holds an agent's adapter, or any adapter of that name."""
    if agent == DIRECTOR:
        return house.engines["director"]
    if agent in house.world.books and (engine := house.engine_of(agent)) is not None:
        return engine
    return house.engines["npc"]


async def _command(house: House, op: str, name: str) -> None:
    """Run `biblioteca adapters OP NAME` on the world's folder."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "biblioteca",
        "adapters",
        op,
        name,
        "--world",
        str(house.world.root),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate()
    if process.returncode != 0:
        lines = errors.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise AdapterRefusedError(lines[-1].removeprefix("biblioteca: "))


def _tell(house: House, info: admin.AdapterInfo, what: str) -> None:
    changed = telemetry.AdapterChanged.model_validate({**info.model_dump(), "what": what})
    house.publish("adapter_changed", changed)
