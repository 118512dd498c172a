"""The replay command's work: play a recording, say what differs and why, or make it a script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from roles.dialogues.errors import RecordingError
from roles.dialogues.hosting import hosted
from roles.dialogues.recording import Told, read_recording
from roles.dialogues.rehearsal import new_house
from roles.dialogues.replay import Comparison, Replay, replay
from roles.dialogues.report import shown_diff
from roles.dialogues.transcription import script_of
from roles.engines import Engines
from roles.problems import nearest
from roles.world import World


async def run_replay(file: Path, world: World, adapters: dict[str, Path]) -> Replay:
    """Play a recording on a world's models.

    Args:
        file: the recording.
        world: the world; its files and models may have changed since.
        adapters: folders that take the place of characters' own adapters.

    Raises:
        RecordingError: the recording can't be read, or a character is unknown.
    """
    recording = read_recording(file)
    async with hosted(world) as host:
        for npc, folder in adapters.items():
            if npc not in world.npcs:
                raise RecordingError(f"no character {npc!r}; {nearest(npc, world.npcs)}")
            await host.manager.house.engines["npc"].serve(npc, folder)
        return await replay(recording, host)


def write_script(file: Path, world: World, target: Path) -> None:
    """Turn a recording into a script file.

    Raises:
        RecordingError: the recording can't be read, or the script exists already.
    """
    if target.exists():
        raise RecordingError(f"{target} exists already; name a new file")
    recording = read_recording(file)
    house = new_house(world, Engines(world))
    try:
        text = script_of(recording, house, target.stem)
    finally:
        house.store.close()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


def print_replay(played: Replay, console: Console) -> None:
    """The replay for people: the first difference in full, then the count."""
    if (first := played.first_difference) is not None:
        _print_difference(first, console)
    for refusal in played.refusals:
        console.print(f"[red]differs[/] {escape(refusal)}")
    for name in (*played.changed_files, *played.changed_adapters):
        console.print(f"changed since: {escape(name)}")
    total, colour = len(played.lines), "green" if played.passed else "red"
    console.print(f"[{colour}]{played.num_same} of {total} lines identical[/]", highlight=False)


def _print_difference(line: Comparison, console: Console) -> None:
    recorded, now = line.recorded, line.replayed
    console.print(f"[red]first difference[/]: request {line.number}, {escape(recorded.agent)}")
    diff = shown_diff(_told(recorded), _told(now) if now else "", console)
    console.print(diff, highlight=False)
    for cause in line.causes:
        console.print(f"  because {escape(cause)}", highlight=False)


def _told(line: Told) -> str:
    """Everything that must be the same: mood, words, actions."""
    mood = f"[{line.emotion}]" if line.emotion else ""
    calls = [f"> {call['name']} {call['arguments']}" for call in line.actions]
    return " ".join([mood, line.text, *calls]).strip()


def as_json(played: Replay) -> dict[str, Any]:
    """The replay as one JSON document."""
    first = played.first_difference
    return {
        "passed": played.passed,
        "lines": len(played.lines),
        "identical": played.num_same,
        "first_difference": first
        and {
            "request": first.number,
            "agent": first.recorded.agent,
            "recorded": _told(first.recorded),
            "replayed": _told(first.replayed) if first.replayed else None,
            "causes": list(first.causes),
        },
        "refusals": list(played.refusals),
        "changed_files": list(played.changed_files),
        "changed_adapters": list(played.changed_adapters),
    }
