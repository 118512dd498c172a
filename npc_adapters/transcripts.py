"""Talks as plain text, the way a prompt shows them: what a writer writes without any JSON.

    Fact: The ferry rests on Sundays.
    Traveller: when is there no ferry
    [calm] Sundays. The river needs a day without oars, and so do I.
    ---
    (the next talk)

Before a player's line may stand notes, after a reply its action lines (`> give {...}`). A talk
with somebody else than the file's own character begins with a line `System: `.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Messages = list[dict[str, str]]
_END = "---"
_SYSTEM = "System: "
_NOTE = re.compile(r"(?:Place|Present|Fact|Memory|Mood|Goal|Actions): \S")
_SPOKEN = re.compile(r"[^\W_][^:\[\]>]{0,40}: \S")
_REPLY = re.compile(r"\[\w+\] \S")


def read_transcript(text: str) -> Iterator[tuple[int, Messages | str]]:
    """The talks of a text, in order.

    Yields:
        The line a talk begins on and its messages (`role`, `content`); or the line that can't be
        read, and what is wrong with it.
    """
    first, messages, fault = 0, Messages(), ""
    for number, line in enumerate([*text.splitlines(), _END], 1):
        if line.rstrip() == _END:
            if messages and not fault and messages[-1]["role"] != "assistant":
                yield first, "the talk that begins here ends without a reply"
            elif messages and not fault:
                yield first, messages
            first, messages, fault = 0, Messages(), ""
        elif line.strip() and not fault:
            first = first or number
            fault = _add(line.strip(), messages)
            if fault:
                yield number, f"{line.strip()!r} {fault}"


def _add(line: str, messages: Messages) -> str:
    """Put a line where it belongs; returns what is wrong with it, if anything."""
    last = messages[-1] if messages else {"role": "", "content": ""}
    asked = last["role"] == "user" and not _NOTE.match(last["content"].rpartition("\n")[2])
    if line.startswith(_SYSTEM):
        if messages:
            return "must be the first line of a talk"
        messages.append({"role": "system", "content": line.removeprefix(_SYSTEM)})
    elif _REPLY.match(line):
        if not asked:
            return "answers nobody; a line like `Traveller: Hello.` must come before it"
        messages.append({"role": "assistant", "content": line})
    elif line.startswith("> ") and last["role"] == "assistant":
        last["content"] += f"\n{line}"
    elif asked:
        return "must be a reply like `[calm] Good evening.`"
    elif not _SPOKEN.match(line):
        return "is neither a note nor speech like `Traveller: Hello.`"
    elif last["role"] == "user":
        last["content"] += f"\n{line}"
    else:
        messages.append({"role": "user", "content": line})
    return ""
