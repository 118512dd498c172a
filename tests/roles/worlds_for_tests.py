"""A small world written to a folder, for tests that need one to load, serve or break."""

from __future__ import annotations

from pathlib import Path

WORLD = """
title = "The Test House"
premise = "A house with two people and a book."
player = "Guest"
emotions = ["calm", "afraid"]

[places]
hall = "the hall"
cellar = "the cellar"

[tiers.director]
base = "models/director-base"
quantization = "int8"
backend = "inline"
threads = 1
[tiers.director.sampling]
temperature = 0.0
[tiers.npc]
base = "models/npc-base"
quantization = "int8"
backend = "inline"
threads = 1
[tiers.npc.sampling]
max_tokens = 60

[actions.give]
description = "hand something over"
arguments = { item = "text" }
[actions.leave]
description = "leave the room"

[directives.direct]
description = "give a character a mood and a goal"
arguments = { who = "npc", mood = "emotion", goal = "text" }
tension = 1

[events.lamp_out]
text = "The lamp goes out in {place}."
tension = 2
importance = 0.8
"""

ANNA = """
name = "Anna"
role = "the keeper of the house"
persona = "You are brisk and count every spoon."
place = "hall"
scopes = ["staff"]
attitudes = { player = "wary", ben = "fond" }
greeting = "Good evening."
[fallback]
any = ["One moment.", "Let me think."]
afraid = ["Hush!", "Not now!"]
"""

BEN = """
name = "Ben"
role = "the gardener"
persona = "You speak of roses."
place = "cellar"
greeting = "Hello."
[fallback]
any = ["Hm.", "Well now."]
"""

LORE = """---
know: [everyone]
---
# The house
## clock
The clock in the hall stopped at nine.

## spoons
know: staff
Anna hid the silver spoons under the third stair.

## key
know: everyone
after: lamp_out
The key hangs behind the lamp.
"""

BOOK = """---
title: The Salt Almanac
author: Ines Quarto
spine: Salt, wind and weather.
abstain: [My pages are silent on that., I hold no word of it.]
---

# The first page

Salt was first boiled at Marrow Point by Captain Oda Reyes in the year of the white storm.
She used nine iron pans and burned driftwood under them for eleven days.

# The second page

The north wind carries fog to the harbour, and the south wind takes it away again. Fishermen
of the point call the fog their grey aunt, and leave a lamp for her on the wall.
"""


def write_world(folder: Path) -> Path:
    """Write the small world into `folder`, without models."""
    files = {
        "world.toml": WORLD,
        "npcs/anna.toml": ANNA,
        "npcs/ben.toml": BEN,
        "lore/house.md": LORE,
        "books/salt_almanac.md": BOOK,
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip("\n"), encoding="utf-8")
    return folder
