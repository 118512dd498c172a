"""A new world: files with comments that a writer can follow, ready to be validated and played."""

from __future__ import annotations

from pathlib import Path

from engine.bases import SMOLLM2
from roles.errors import Problem, WorldError
from roles.world import STARTER, WORLDS

_WORLD = """# {title}. docs/worlds.md explains every key.
# Check it with `biblioteca validate {name}`.

title = "{title}"
premise = "One or two sentences that the director knows: where we are, and what is at stake."
player = "Traveller"          # how characters call the player
emotions = ["calm", "warm", "curious", "wary", "afraid"]

[places]                      # an id, and the words that prompts use
tavern = "the tavern"
road = "the road"

# A base is a folder of this world (models/...), any other folder, a GGUF file, or a hub id such as
# org/name.
[tiers.director]
base = "{director}"
nf4_rounded = true            # the adapter was trained over 4 bit
adapter = "{models}/adapters/director"
context = 1024
[tiers.director.sampling]
temperature = 0.0

[tiers.npc]
base = "{models}/npc-base"
threads = 2                   # CPU threads it may use beside your game
context = 640
[tiers.npc.sampling]
temperature = 0.4             # a small model copies names best when it guesses little
top_p = 0.9
repetition_penalty = 1.0      # names must be repeated as they stand in the notes
no_repeat_ngram_size = 3      # but nobody says their own phrases twice
max_tokens = 80

[tiers.book]                  # a book can be read at once; `biblioteca distill accounts --world
base = "models/students"      # {name}` makes the small model that answers from it
[tiers.book.sampling]
temperature = 0.0

# What characters may want to do. The game says in each request which are possible now.
[actions.give]
description = "hand something over"
arguments = {{ item = "text" }}
[actions.follow]
description = "come along"

# What the director may order; waiting is always possible.
[directives.direct]
description = "give a character a mood and a goal"
arguments = {{ who = "npc", mood = "emotion", goal = "text" }}
tension = 1

# What the game reports, and how much it stirs the story.
[events.stranger_arrives]
text = "A stranger comes in from {{place}}."
tension = 2
importance = 0.7

[pacing]                      # minutes of game time, and the tension (0 to 10) you want then
curve = [[0, 2], [20, 6], [30, 3]]
"""

_NPC = """# One character. The file's name, without .toml, is its id.

name = "Marta"
role = "the innkeeper"
# Second person, one or two sentences: how it talks, what it wants. This never changes in play.
persona = "You are cheerful, nosy and short of money. You want to know who leaves coins at night."
place = "tavern"
places = ["road"]             # where else it may be
scopes = ["locals"]           # groups it belongs to; lore says what each group knows
attitudes = {{ player = "a guest who might pay" }}
greeting = "Come in, come in! Wipe your boots."
mood = "warm"

[fallback]                    # said when no model can answer in time; at least two for `any`
any = ["One moment, the pot boils over.", "Hold that thought."]
afraid = ["Hush! Did you hear that?", "Not so loud."]
"""

_LORE = """---
know: [everyone]
---
# What is true here. A heading is a fact's id, `know` lists who may know it: everyone,
# a character, a group (a scope), or a place. `after` names an event it waits for.

## well
The well in the yard gives warm water in winter.

## cellar
know: locals
The cellar door opens only from the inside.

## coins
know: marta
after: stranger_arrives
The coins at night come from Marta's own brother.
"""

_BOOK = """---
title: The Innkeeper's Accounts
author: Marta's grandmother
spine: What was eaten, and what was owed.
abstain:
  - I kept accounts, not opinions.
  - That was never written down.
---

# The first winter

We opened the inn with four chairs and one good pot. The first guest was a tinker named Orrin
Vale, who paid with a copper bell instead of coins.
"""


def scaffold(folder: Path) -> list[Path]:
    """Write a small world into a new folder; returns its files.

    Raises:
        WorldError: the folder exists already and isn't empty.
    """
    if folder.exists() and any(folder.iterdir()):
        problem = Problem(str(folder), "", "is not empty", "name a folder that isn't there yet")
        raise WorldError([problem])
    title = folder.name.replace("_", " ").replace("-", " ").title()
    models = (WORLDS / STARTER / "models").as_posix()
    files = {
        "world.toml": _WORLD.format(title=title, name=folder, models=models, director=SMOLLM2),
        "npcs/marta.toml": _NPC.format(),
        "lore/inn.md": _LORE,
        "books/accounts.md": _BOOK,
    }
    written = []
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written
