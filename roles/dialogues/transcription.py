"""Turns recordings into scripts: what was said then becomes what must be said from now on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from roles.dialogues.recording import Entry, Recording, Told, unpack_state
from roles.house import House

_MOST_MEMORIES = 50  # per character, the newest


def script_of(recording: Recording, house: House, name: str) -> str:
    """A script's YAML with the recording's turns and its words as goldens.

    Args:
        house: an empty game in the recorded world; it becomes what the recording began with.

    Raises:
        RecordingError: the recording's state is damaged.
    """
    unpack_state(recording.head.state, house.store)
    turns = [
        turn for entry in recording.entries.values() if (turn := _turn(entry, house)) is not None
    ]
    script = {
        "name": name,
        "about": f"Recorded in {recording.head.world}.",
        "tags": ["recorded"],
        "scene": _scene(house),
        "seed": house.world.spec.seed,
        "turns": turns,
    }
    return yaml.safe_dump(script, sort_keys=False, allow_unicode=True, width=100)


def _scene(house: House) -> dict[str, Any]:
    stage = house.store.get("director", {})
    memories = {
        npc: [
            {"text": m.text, "now": m.now, "importance": m.importance, "pinned": m.pinned}
            for m in reversed(house.play.memories.all(npc, limit=_MOST_MEMORIES))
        ]
        for npc in house.world.npcs
    }
    scene = {
        "now": stage.get("now", 0.0),
        "happened": stage.get("happened", []),
        "memories": {npc: planted for npc, planted in memories.items() if planted},
    }
    return {key: value for key, value in scene.items() if value}


def _turn(entry: Entry, house: House) -> dict[str, Any] | None:
    """A request as a turn, or None for one that scripts don't have."""
    body = entry.body
    if entry.cancelled or entry.type not in _TURNS:
        return None
    turn = _TURNS[entry.type](body)
    if entry.refused:
        turn["expect"] = {"refused": entry.refused}
    elif entry.lines:
        turn |= _sampling(body, entry.lines[0], house)
        turn["expect"] = _expectation(entry)
    return turn


def _sampling(body: dict[str, Any], told: Told, house: House) -> dict[str, Any]:
    """What the request asked for itself; and the seed it began with.

    The sampler's own may be a later attempt's: what was said before is tried again with another.
    """
    return {"seed": house.play.seed(told.line)} | _some(body, "seed", "temperature", "max_tokens")


def _expectation(entry: Entry) -> dict[str, Any]:
    wanted: dict[str, Any] = {"exact": "\n".join(told.text for told in entry.lines)}
    if entry.type == "say":
        told = entry.lines[0]
        wanted["emotion"] = told.emotion
        wanted["actions"] = [
            {"action": call["name"], "with": call["arguments"]} for call in told.actions
        ]
    if any(told.fallback for told in entry.lines):
        return {"fallback": True}  # for time: no words to expect
    return wanted


def _some(body: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: body[key] for key in keys if key in body}


def _say(body: dict[str, Any]) -> dict[str, Any]:
    turn = {"say": body["text"], "to": body["agent"]}
    turn |= _some(body, "speaker", "conversation", "focus") | _in_scene(body)
    if body.get("actions") is not None:
        turn["actions"] = [
            {"action": one["name"], "with": one.get("arguments", {})} for one in body["actions"]
        ]
    return turn


def _event(body: dict[str, Any]) -> dict[str, Any]:
    told = _some(body, "text", "who", "importance", "now", "data")
    return {"event": body["kind"]} | told | _in_scene(body)


def _in_scene(body: dict[str, Any]) -> dict[str, Any]:
    return {} if body.get("scene") else {"in_scene": False}


def _scene_turn(body: dict[str, Any]) -> dict[str, Any]:
    return {"present": body.get("present", [])} | _some(body, "place")


def _read(body: dict[str, Any]) -> dict[str, Any]:
    speaker = {"speaker": body["reader"]} if "reader" in body else {}
    return {"read": body["agent"]} | _some(body, "page") | speaker


def _converse(body: dict[str, Any]) -> dict[str, Any]:
    return {"converse": body["text"]} | _some(body, "speaker", "aside_to", "max_lines")


def _result(body: dict[str, Any]) -> dict[str, Any]:
    kept = {"ok": body.get("ok", True), "index": body.get("index", 0)}
    return {"result": body.get("text") or "done", **kept}


def _ask(body: dict[str, Any]) -> dict[str, Any]:
    return {"ask": body["text"], "to": body["agent"]} | _some(body, "speaker")


_TURNS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "say": _say,
    "ask": _ask,
    "tick": lambda body: {"tick": body.get("now")},
    "converse": _converse,
    "event": _event,
    "read": _read,
    "scene": _scene_turn,
    "action_result": _result,
    "save": lambda body: {"save": body["slot"]},
    "restore": lambda body: {"restore": body["slot"]},
}
