from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from protocol import messages as wire
from protocol import play
from protocol.errors import Refusal
from roles.dialogues.hosting import with_backends
from roles.errors import SaveError
from roles.manager import Manager
from roles.saves import Saves
from roles.store import VERSION, Store
from roles.world import STARTER, WORLDS, World
from tests.roles.test_manager import ask, interrupted, prompt_text, say

EVENING = [(("anna", "ben")[i % 2], f"Tell me about spoon number {i}.") for i in range(8)]


QUESTIONS = (
    "Where is the lamp oil kept?",
    "What are you working on?",
    "What is my dog called?",
    "Who else is here tonight?",
    "Tell me a secret.",
)


async def hosted(world: Path, state: Path) -> Manager:
    """A manager whose game is kept in a folder, its engines ready, all in this process."""
    manager = Manager(with_backends(World.load(world)), Store(state / "game.sqlite"))
    manager.house.deadline_ms = 600_000  # no line may fall back on a busy machine
    await manager.start()
    await manager.wait_ready()
    return manager


async def talk(manager: Manager) -> list[str]:
    return [(await say(manager, text, agent=agent)).text for agent, text in EVENING]


async def starter_talk(manager: Manager) -> list[str]:
    """Twenty lines, four characters, two of them at once now and then."""
    words = []
    for text in QUESTIONS:
        one = await say(manager, text, agent="ottavia", max_tokens=24)
        pair = [say(manager, text, agent=agent, max_tokens=24) for agent in ("pim", "sable")]
        two = await asyncio.gather(*pair)
        three = await say(manager, text, agent="cosimo", max_tokens=24)
        words += [f"[{line.emotion}] {line.text}" for line in (one, *two, three)]
        assert not any(line.fallback for line in (one, *two, three))
    return words


@pytest.fixture
async def kept(world_folder: Path, tmp_path: Path) -> AsyncIterator[Manager]:
    """A manager whose game is kept in tmp_path/state."""
    manager = await hosted(world_folder, tmp_path / "state")
    yield manager
    await manager.close()


async def test_after_a_restore_the_same_inputs_give_the_same_words(kept: Manager) -> None:
    await say(kept, "Good evening.")
    await ask(kept, "event", play.EventRequest(kind="lamp_out", text="Dark.", who=["anna"]))
    await ask(kept, "save", play.SaveRequest(slot="one"))
    first = await talk(kept)
    await ask(kept, "restore", play.RestoreRequest(slot="one"))
    assert await talk(kept) == first


ELSEWHERE = """
import asyncio, json, sys
from pathlib import Path
from protocol import play
from tests.roles.test_manager import ask
from tests.roles.test_saves import hosted, starter_talk

async def main():
    manager = await hosted(Path(sys.argv[1]), Path(sys.argv[2]))
    await ask(manager, "restore", play.RestoreRequest(slot="one"))
    print("WORDS" + json.dumps(await starter_talk(manager)))
    await manager.close()

asyncio.run(main())
"""


async def words_elsewhere(world: Path, state: Path, elsewhere: Path) -> list[str]:
    """What is said after the save `one` was copied to another folder, by another process."""
    shutil.copytree(state / "saves", elsewhere / "saves")
    run = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", ELSEWHERE, str(world), str(elsewhere)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    words: list[str] = json.loads(run.stdout.split("WORDS")[1])
    return words


@pytest.mark.timeout(600)
async def test_twenty_lines_of_the_starter_world_come_again_after_a_restore_here_and_elsewhere(
    tmp_path: Path,
) -> None:
    world = WORLDS / STARTER
    manager = await hosted(world, tmp_path / "state")
    try:
        await say(manager, "Good evening. My dog is called Bodorfen.", agent="ottavia")
        event = play.EventRequest(kind="lamp_out", text="A lamp goes out.", who=["pim"])
        await ask(manager, "event", event)
        await ask(manager, "save", play.SaveRequest(slot="one"))
        first = await starter_talk(manager)
        assert len(first) == len(set(first)) == 20
        await ask(manager, "restore", play.RestoreRequest(slot="one"))
        assert await starter_talk(manager) == first
    finally:
        await manager.close()
    state, elsewhere = tmp_path / "state", tmp_path / "elsewhere"
    assert await words_elsewhere(world, state, elsewhere) == first


async def test_a_restore_forgets_the_future(kept: Manager) -> None:
    await ask(kept, "save", play.SaveRequest(slot="one", note="before"))
    await say(kept, "My name is Nobody Important.")
    assert kept.house.play.memories.all("anna")
    await ask(kept, "restore", play.RestoreRequest(slot="one"))
    assert kept.house.play.memories.all("anna") == []
    assert kept.house.play.dialogue("anna", "player", "").turns == []
    after = await say(kept, "Hello?")
    assert "Nobody" not in prompt_text(kept, after.line)


async def test_a_restored_conversation_finds_its_cached_context_again(kept: Manager) -> None:
    await say(kept, "Good evening.")
    await ask(kept, "save", play.SaveRequest(slot="one"))
    before = await say(kept, "And now?")
    await ask(kept, "restore", play.RestoreRequest(slot="one"))
    after = await say(kept, "And now?")
    assert after.text == before.text
    assert after.usage.cached_tokens >= before.usage.cached_tokens > 0


async def test_a_line_being_spoken_is_stopped_by_a_restore(kept: Manager) -> None:
    await ask(kept, "save", play.SaveRequest(slot="one"))
    body = wire.SayRequest(agent="anna", text="Tell me all.", max_tokens=600)
    restore = play.RestoreRequest(slot="one")
    with pytest.raises(Refusal) as caught:
        await interrupted(kept, "say", body, lambda: ask(kept, "restore", restore))
    assert caught.value.code == "cancelled"
    assert kept.house.play.dialogue("anna", "player", "").turns == []


async def test_slots_are_listed_with_their_notes(kept: Manager) -> None:
    await ask(kept, "save", play.SaveRequest(slot="b", note="second"))
    await ask(kept, "save", play.SaveRequest(slot="a", note="first"))
    reply = (await ask(kept, "saves", play.SavesRequest()))[0]
    assert isinstance(reply, play.SavesReply)
    assert [(one.slot, one.note) for one in reply.saves] == [("a", "first"), ("b", "second")]


async def test_a_save_can_be_read_by_a_person(kept: Manager, tmp_path: Path) -> None:
    reply = await say(kept, "My dog is called Bo.")
    await ask(kept, "save", play.SaveRequest(slot="one", note="by the fire"))
    content = Saves(tmp_path / "state" / "saves").export("one")
    assert content["save"]["note"] == "by the fire"
    assert content["conversations"]["anna|player|"] == [
        "user: Guest: My dog is called Bo.",
        f"assistant: [{reply.emotion}] {reply.text}",
    ]
    assert content["memories"]["anna"][0]["text"] == "Guest said: My dog is called Bo."


@pytest.mark.parametrize("damage", ["truncated", "scribbled", "newer", "missing"])
async def test_a_bad_save_is_refused_and_the_game_goes_on(
    kept: Manager, tmp_path: Path, damage: str
) -> None:
    first = await say(kept, "Hello?")
    await ask(kept, "save", play.SaveRequest(slot="one"))
    path = tmp_path / "state" / "saves" / "one.sqlite"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "scribbled":
        path.write_bytes(b"not a save at all" * 100)
    elif damage == "newer":
        with closing(sqlite3.connect(path)) as database:
            database.execute(f"PRAGMA user_version={VERSION + 1}")
    else:
        path.unlink()
    with pytest.raises(Refusal, match="one"):
        await ask(kept, "restore", play.RestoreRequest(slot="one"))
    second = await say(kept, "And now?")
    assert first.text in prompt_text(kept, second.line)


def test_a_save_that_cannot_be_written_leaves_the_last_one(tmp_path: Path) -> None:
    store, saves = Store(tmp_path / "game.sqlite"), Saves(tmp_path / "saves")
    before = saves.save(store, "one", {})
    (tmp_path / "saves" / ".one.sqlite.partial").mkdir()
    with pytest.raises(SaveError, match="unharmed"):
        saves.save(store, "one", {})
    assert saves.info("one").digest == before.digest
    store.close()


KILLED = """
import sys
from pathlib import Path
from roles.saves import Saves
from roles.store import Store
from roles.dialogue import Dialogue
from engine.requests import Message, Segment
folder = Path(sys.argv[1])
store, saves = Store(folder / "game.sqlite"), Saves(folder / "saves")
dialogue = Dialogue(store, "anna|player|")
number = store.get("done", 0)
while True:
    number += 1
    words = (Segment(kind="x", text=str(number)),)
    text = [Message(role=role, segments=words) for role in ("user", "assistant")]
    with store.transaction():
        dialogue.append(f"l{number}", text)
        store.set("done", number)
    print(number, flush=True)
    if number % 3 == 0:
        saves.save(store, "one", {"number": number})
"""


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_the_game_and_its_save_load_with_at_most_one_line_lost(
    tmp_path: Path, seed: int
) -> None:
    rounds = int(os.environ.get("BIBLIOTECA_KILLS", "3"))
    moment = random.Random(seed)
    for _ in range(rounds):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        told = int(process.stdout.readline())
        time.sleep(moment.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
        process.stdout.close()
        process.wait()
        told = int(rest[-1]) if rest else told
        store = Store(tmp_path / "game.sqlite")
        kept = store.get("done", 0)
        turns = store.database.execute("SELECT count(*) FROM turns").fetchone()[0]
        assert kept in (told, told + 1)
        assert turns == 2 * kept
        if (tmp_path / "saves" / "one.sqlite").exists():
            Saves(tmp_path / "saves").restore(Store(), "one")
        store.close()
