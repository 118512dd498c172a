"""Does a sentence encoder find memories that share no word with what is said?

    python bench/recall.py ENCODER_FOLDER [--json]

A character is told 24 things among 64 other remarks, then asked for each in other words. Counts
how often the thing told is among the two, or three, memories that would come into the prompt, by
words alone and by words and meaning. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

from roles.meaning import EncoderProcess, meaning_of
from roles.memory import Meaning, MemoryBook, heard
from roles.store import Store

PAIRS = {
    "My dog is called Bo.": "What was the name of my pet?",
    "I was born in a harbour town.": "Where did I grow up?",
    "I cannot swim.": "Should I cross the river by myself?",
    "My sister married a miller.": "Who is the husband of my sibling?",
    "I lost my purse at the gate.": "Where did my money go?",
    "I am allergic to walnuts.": "Is there any food that makes me ill?",
    "I paid nine crowns for this coat.": "How expensive was my jacket?",
    "My father was a soldier.": "What did dad do for a living?",
    "I have been awake for three days.": "When did I last sleep?",
    "I am looking for a red book on tides.": "Which volume am I searching for?",
    "My horse is lame.": "What is wrong with the animal I ride?",
    "I hate the smell of fish.": "Which odour can't I stand?",
    "I broke my left arm last winter.": "Which of my limbs was injured?",
    "The baker cheated me.": "Who sold me bread dishonestly?",
    "I promised to be home by midnight.": "At what time do they expect me back?",
    "I play the violin.": "Do I make any music?",
    "My grandmother taught me to read.": "Who showed me my letters?",
    "I am afraid of thunder.": "What frightens me in a storm?",
    "I hid the letter under the stove.": "In which spot did I conceal the message?",
    "We sailed here on a blue ship.": "How did we travel to this place?",
    "My shoes are full of water.": "Why are my feet wet?",
    "I never drink wine.": "Would I like a glass of something strong?",
    "I have three daughters.": "How many girls are in my family?",
    "A raven stole my ring.": "Which bird is a thief?",
}
REMARKS = 4 * (
    "It is very quiet here.",
    "How has your night been?",
    "Tell me about the lamps.",
    "Who wrote this catalogue?",
    "The stairs are steep.",
    "I should rest a while.",
    "Have you seen the inspector?",
    "What is behind that door?",
    "The soup smells good.",
    "I like the globe.",
    "Is the water rising?",
    "Somebody whistled in the stacks.",
    "How many books are there?",
    "Do moths eat paper?",
    "The map has an island too many.",
    "You look tired tonight.",
)
AGENT, AFTER_S, LIMIT_S = "anna", 3000.0, 600.0


def told(book: MemoryBook) -> None:
    """Have everything said, half a minute apart, in an order of chance."""
    remarks = [*PAIRS, *REMARKS]
    random.Random(1).shuffle(remarks)
    for number, remark in enumerate(remarks):
        text, importance = heard("Traveller", remark)
        book.add(AGENT, text, kind="heard", now=30.0 * number, importance=importance)


async def measure(folder: Path) -> dict[str, Any]:
    """Ask for everything, with and without the encoder."""
    book, encoder = MemoryBook(Store()), EncoderProcess(folder)
    told(book)
    found = {(how, limit): 0 for how in ("words", "meaning") for limit in (2, 3)}
    missed, took_ms = [], []

    def comes(thing: str, asked: str, limit: int, meaning: Meaning | None) -> bool:
        memories = book.recall(AGENT, asked, now=AFTER_S, limit=limit, meaning=meaning)
        return f"Traveller said: {thing}" in [memory.text for memory in memories]

    try:
        began = time.perf_counter()
        await encoder.encode(["a"])
        load_s = time.perf_counter() - began
        while book.without_vector(AGENT, encoder.digest, 1):
            await meaning_of(encoder, book, AGENT, "a", LIMIT_S)
        for thing, asked in PAIRS.items():
            began = time.perf_counter()
            meaning = await meaning_of(encoder, book, AGENT, asked, LIMIT_S)
            took_ms.append(1000 * (time.perf_counter() - began))
            for limit in (2, 3):
                found["words", limit] += comes(thing, asked, limit, None)
                found["meaning", limit] += comes(thing, asked, limit, meaning)
            missed += [] if comes(thing, asked, 3, meaning) else [f"{asked} ({thing})"]
    finally:
        await encoder.close()
    figures = {f"{how}_in_{limit}": count for (how, limit), count in found.items()}
    return {
        "asked": len(PAIRS),
        **figures,
        "load_s": round(load_s, 1),
        "query_ms_p50": round(statistics.median(took_ms), 1),
        "query_ms_max": round(max(took_ms), 1),
        "missed": missed,
    }


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("encoder", type=Path, help="folder of the sentence encoder")
    parser.add_argument("--json", action="store_true", help="print the JSON document only")
    arguments = parser.parse_args()
    figures = asyncio.run(measure(arguments.encoder))
    missed = figures.pop("missed")
    if not arguments.json:
        for line in missed:
            print(f"missed: {line}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
