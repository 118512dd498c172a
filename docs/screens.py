"""Pictures of the console for the documentation, from the real thing on a real world.

    python docs/screens.py [--world WORLD] [--theme daylight] [--size 120x36]

Hosts the world, lets its demo play, talks to two characters and a book, and writes each screen
as `docs/screens/NAME.svg`, exported by Textual. Nothing in the pictures is made up.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from textual.pilot import Pilot

from tui.app import ConsoleApp
from tui.demo import Demo
from tui.link import LiveLink
from tui.session import Session

FOLDER = Path(__file__).parent / "screens"
PATIENCE_S = 240.0
# Name of the picture, and the keys that lead to it.
SCREENS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("agents", ("alt+1",)),
    ("talk", ("alt+2",)),
    ("prompt", ("alt+3", "t")),
    ("prompt_ids", ("alt+3", "i")),
    ("prompt_diff", ("alt+3", "d")),
    ("prompt_logits", ("alt+3", "l")),
    ("adapters", ("alt+4",)),
    ("director", ("alt+5",)),
    ("books", ("alt+6",)),
    ("memory", ("alt+7",)),
    ("telemetry", ("alt+8",)),
    ("log", ("alt+9",)),
)
_KEYS = {" ": "space", "?": "question_mark", ".": "full_stop", ",": "comma", "'": "apostrophe"}


async def until(pilot: Pilot[None], true: Callable[[], object], what: str) -> None:
    """Wait for something to be so.

    Raises:
        TimeoutError: it never was.
    """
    end = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {PATIENCE_S:.0f} s")
        await pilot.pause(0.1)


async def say(pilot: Pilot[None], session: Session, agent: str, text: str) -> None:
    """Type a line to an agent on the Talk screen and wait for its answer."""
    session.look_at(agent)
    await pilot.press("alt+2")
    await pilot.pause(0.2)
    await pilot.press("escape", "i", *(_KEYS.get(c, c) for c in text), "enter")

    def answered() -> bool:
        last = session.store.last_line(agent)
        return last is not None and last.said == text and last.state != "speaking"

    await until(pilot, answered, f"{agent} answers")


async def shoot(world: str, theme: str, size: tuple[int, int]) -> None:
    """Host the world, talk, and write the pictures."""
    with Demo(world) as demo:
        session = Session(LiveLink(demo.connection, demo.why))
        app = ConsoleApp(session, theme=theme)
        async with app.run_test(size=size) as pilot:
            agents = session.store.agents
            await until(pilot, lambda: session.store.agents, session.link.endpoint)
            await until(
                pilot,
                lambda: all(a.state in {"ready", "failed"} for a in session.store.agents.values()),
                "engines load",
            )
            agents = session.store.agents
            npcs = [key for key, agent in agents.items() if agent.tier == "npc"]
            books = [key for key, agent in agents.items() if agent.tier == "book"]
            await until(pilot, lambda: len(session.store.lines) >= 8, "the demo plays")
            if books:
                await pilot.press("alt+6")
                await pilot.pause(1.0)
                question = "When does the sea come into the library?"
                await pilot.press("a", *(_KEYS.get(c, c) for c in question), "enter")
                await until(pilot, lambda: session.store.last_line(books[0]), "a book answers")
                await pilot.press("escape")
            for text in ("Good evening.", "Where is the lamp oil kept?"):
                await say(pilot, session, npcs[0], text)
            await pilot.pause(1.0)
            for name, keys in SCREENS:
                session.look_at(npcs[0])
                await pilot.press("escape", *keys)
                await pilot.pause(1.2)
                path = FOLDER / f"{name}.svg"
                path.write_text(app.export_screenshot(title=app.title) + "\n", encoding="utf-8")
                print(path.relative_to(FOLDER.parent.parent))


def main() -> None:
    """Read the options and shoot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="biblioteca_eterna", help="folder or name of a world")
    parser.add_argument("--theme", default="lamplight", help="lamplight or daylight")
    parser.add_argument("--size", default="120x36", help="COLUMNSxROWS")
    arguments = parser.parse_args()
    columns, rows = map(int, arguments.size.split("x"))
    FOLDER.mkdir(exist_ok=True)
    asyncio.run(shoot(arguments.world, arguments.theme, (columns, rows)))


if __name__ == "__main__":
    main()
