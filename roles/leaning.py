"""What a reply leans towards: the notes that a line asks about, and the actions it asks for.

A small model reads a note and talks past it, and promises rather than acts. So the words of notes
that share a word with the player's line, those of the director's goal, and the new line with
which an action begins are made likelier, by a constant added to their logits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from books.retrieval import content_words
from engine.requests import LogitBias, Message
from roles.lore import SMALL_TALK, uncontracted
from roles.offers import Offer
from roles.prompt import noted, speaker_and_words
from roles.world import World

_SAYS_LITTLE = SMALL_TALK - {"name", "call", "called"}  # "What was my name?" is about a name
# Of 183 held-out rows that want a noted fact or a goal's name 79 % get it without, 84 % with it.
NOTE_BIAS = 2.0
ACT_BIAS = 2.0  # 1 changed nothing
_ADDRESSED = {"player", "visitor", "guest", "traveller"}  # in goals: who is spoken to


def leaning(world: World, offers: Sequence[Offer], messages: Sequence[Message]) -> LogitBias:
    """The `logit_bias` of a reply in play; none without messages."""
    if not messages:
        return ()
    return (*towards_notes(messages), *towards_acting(world, offers, messages[-1]))


def towards_notes(messages: Sequence[Message]) -> LogitBias:
    """The `logit_bias` of a reply: towards words of the note that is asked about.

    That is the one, or those, of all turns that shares most words with what is said now; what was
    said before is noted too. The director's goal of this turn counts as well.

    Args:
        messages: system message, talk so far and what is said now.
    """
    said = messages[-1]
    speaker, words = speaker_and_words(said)
    asked = set(content_words(uncontracted(words)))
    you_are = messages[0].text.partition(",")[0]  # "You are Indice"
    known = asked.union(content_words(f"{you_are} {speaker}"))
    turns = [message for message in messages if message.role == "user"]
    notes = [text for message in turns for text in noted(message, "Fact", "Memory")]
    notes += (speaker_and_words(message)[1] for message in turns[:-1])
    telling = asked - _SAYS_LITTLE
    shared = [len(telling.intersection(content_words(text))) for text in notes]
    most = max(shared, default=0) or 1
    texts = [text for text, count in zip(notes, shared, strict=True) if count == most]
    wanted = [text.partition(" ")[2] for text in noted(said, "Goal")]  # without its verb
    likelier = (*_words(texts, known), *_words(wanted, known | _ADDRESSED))
    return tuple((f" {word}", NOTE_BIAS) for word in dict.fromkeys(likelier))


def _words(texts: Sequence[str], known: set[str]) -> Iterator[str]:
    """The words of some texts as they are written, without those that ask or are known."""
    for text in texts:
        for word in re.findall(r"[^\W_]+(?:-[^\W_]+)*", uncontracted(text)):
            meant = content_words(word)
            if meant and not known.intersection(meant) and (len(word) > 2 or not word.islower()):
                yield word


def towards_acting(world: World, offers: Sequence[Offer], said: Message) -> LogitBias:
    """The `logit_bias` of a reply: towards acting, if what is asked for speaks of an offer.

    An offer is spoken of by a word of its name or its values, or by the verb that its description
    begins with. Of 26 held-out rows with offers in which somebody acts 22 do so, of 60 in which
    nobody acts one.

    Args:
        said: the player's turn; what the director wants counts as well.
    """
    asked = set(content_words(" ".join((speaker_and_words(said)[1], *noted(said, "Goal")))))
    for one in offers:
        verb = content_words(world.spec.actions[one.name].description)[:1]
        values = (str(value) for choice in one.choices.values() for value in choice)
        if asked.intersection([*verb, *content_words(" ".join((*one.name.split("_"), *values)))]):
            return (("\n", ACT_BIAS),)
    return ()
