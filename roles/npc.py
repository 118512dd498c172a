"""A character: where it is, how it feels, what it was told to want, and what its model sees."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from textwrap import shorten

from engine.requests import Message, SamplingParams
from protocol.messages import ActionCall, Focus
from roles.budget import LIFTED, Level, TokenCounter
from roles.dialogue import Dialogue
from roles.errors import LineError
from roles.memory import Meaning, MemoryBook
from roles.offers import Offer
from roles.prompt import Notes, action_line, npc_system, reply
from roles.schema import NpcFile, Sampling
from roles.store import Store

_MEMORY_CHARS = 400  # of one memory in a prompt; a player's text may be 8,000 long
_OVERHEARD = 2  # lines of others, at most, in one turn of a scene
_DIRECTION_LINES = 4  # a direction wears off after so many lines
_DEFAULTS = Sampling(temperature=0.7, top_k=0, top_p=0.95, repetition_penalty=1.05, max_tokens=80)


@dataclass(slots=True)
class Part:
    """What changes about a character while the game runs; kept in the store.

    Attributes:
        wanted_mood, goal, lines_left: the director's latest direction, and for how many lines.
        last_fallback: the spare line it said last.
        adapter: another adapter it speaks through, "" for its own.
        lifted: lines for which an important event holds it one level up.
        regard: what it feels for others by now, -1 to 1, beyond what its author wrote.
    """

    place: str
    mood: str
    focus: Focus = "near"
    wanted_mood: str = ""
    goal: str = ""
    lines_left: int = 0
    last_fallback: str = ""
    adapter: str = ""
    lifted: int = 0
    regard: dict[str, float] = field(default_factory=dict)


class Character:
    """One character of the world, as it stands in the game."""

    def __init__(self, npc: str, spec: NpcFile, store: Store) -> None:
        self.id, self.spec, self._store = npc, spec, store
        saved = store.get(f"npc:{npc}", {})
        self.part = Part(**{"place": spec.place, "mood": spec.mood, **saved})

    @property
    def system(self) -> Message:
        """The head of every prompt of this character; never changes while it is played."""
        return npc_system(self.spec.name, self.spec.role, self.spec.persona)

    def keep(self) -> None:
        """Write the part to the store."""
        self._store.set(f"npc:{self.id}", asdict(self.part))

    def focus(self, override: Focus | None = None) -> tuple[Focus, str]:
        """How much it matters now, and why."""
        if override is not None:
            return override, f"focus {override}: the request said so"
        if self.part.lifted > 0:
            lifted = LIFTED[self.part.focus]
            return lifted, f"focus {lifted}: lifted from {self.part.focus} by an important event"
        return self.part.focus, f"focus {self.part.focus}: as the game set it"

    def direct(self, mood: str, goal: str) -> None:
        """Take a direction; it holds for the next few lines."""
        self.part.wanted_mood, self.part.goal = mood, goal
        self.part.lines_left = _DIRECTION_LINES
        self.keep()

    def spoke(self, mood: str) -> None:
        """A line has been said in this mood."""
        self.part.mood = mood or self.part.mood
        self.part.lines_left = max(self.part.lines_left - 1, 0)
        self.part.lifted = max(self.part.lifted - 1, 0)
        self.keep()

    def fallback(self, seed: int) -> tuple[str, str]:
        """A spare line and its mood, never the same twice in a row."""
        mood = self.part.mood if self.part.mood in self.spec.fallback else "any"
        lines = [line for line in self.spec.fallback[mood] if line != self.part.last_fallback]
        lines = lines or [x for x in self.spec.fallback["any"] if x != self.part.last_fallback]
        line = random.Random(seed).choice(lines)
        self.part.last_fallback = line
        self.keep()
        return self.part.mood, line

    def notes(
        self,
        *,
        scene: tuple[str, Sequence[str]] | None,
        facts: Sequence[str],
        memories: Sequence[str],
        offers: Sequence[Offer],
    ) -> Notes:
        """What this turn adds to the prompt; `scene` is (place, present) if it is new."""
        directed = self.part.lines_left > 0
        return Notes(
            place=scene[0] if scene else "",
            present=scene[1] if scene else (),
            facts=facts,
            memories=memories,
            mood=self.part.wanted_mood if directed else "",
            goal=self.part.goal if directed else "",
            actions=[offer.shown for offer in offers],
        )

    def history(self, actions: Sequence[ActionCall], text: str, mood: str) -> Message:
        """What it said, as it stands in the conversation from now on."""
        lines = [f"[{mood}] {text}"]
        lines += [action_line(call.name, call.arguments) for call in actions]
        return reply("\n".join(lines))


@dataclass(frozen=True, kw_only=True, slots=True)
class Ceiling:
    """What a prompt and its reply may take, in tokens."""

    context: int
    reply: int

    @property
    def prompt(self) -> int:
        """What is left for the prompt."""
        return self.context - self.reply


def ceiling(level: Level, context_tokens: int, max_tokens: int) -> Ceiling:
    """The tokens a level of focus grants."""
    return Ceiling(
        context=int(context_tokens * level.context_share),
        reply=max(int(max_tokens * level.reply_share), 8),
    )


def compose(
    system: Message, dialogue: Dialogue, said: Message, counter: TokenCounter, most: Ceiling
) -> tuple[tuple[Message, ...], str]:
    """The prompt: head, as much history as may be shown, and what is said now.

    Returns the prompt and, if not all of the history is in it, a sentence that says so.

    Raises:
        LineError: head and words alone are more than the model may take.
    """
    fixed = counter.count_messages([system, said])
    if fixed > most.prompt:
        raise LineError(
            f"the text makes a prompt of {fixed} tokens; at most {most.prompt} fit beside a "
            f"reply of {most.reply}: shorten the text"
        )
    history = dialogue.newest(counter, most.prompt - fixed)
    told = ""
    if len(history) < len(dialogue.turns):
        told = f"shows the last {len(history)} of {len(dialogue.turns)} messages"
    return (system, *history, said), told


def sampling_params(tier: Sampling, npc: Sampling, seed: int, **request: object) -> SamplingParams:
    """Settings for one line: the request's, else the character's, the tier's, the defaults."""
    asked = Sampling.model_validate({k: v for k, v in request.items() if v is not None})
    merged = asked.over(npc.over(tier.over(_DEFAULTS)))
    return SamplingParams(
        max_tokens=merged.max_tokens or 1,
        temperature=merged.temperature or 0.0,
        top_k=merged.top_k or 0,
        top_p=merged.top_p or 1.0,
        repetition_penalty=merged.repetition_penalty or 1.0,
        no_repeat_ngram_size=merged.no_repeat_ngram_size or 0,
        seed=seed,
    )


def recollections(
    memories: MemoryBook,
    npc: str,
    speaker: str,
    said: str,
    dialogue: Dialogue,
    now: float,
    limit: int,
    *,
    in_scene: bool,
    meaning: Meaning | None = None,
) -> list[str]:
    """What comes to the character's mind, in the order of the prompt.

    First the summary of this talk, if part of it has left the context; then a change of heart
    about the speaker that this talk has not shown yet; then what fits the words; last, in a
    scene, what others have said since its own last line.
    """
    if limit == 0:
        return []
    found = memories.recall(
        npc, said, now=now, limit=limit, without_lines=dialogue.lines, meaning=meaning
    )
    found = [memory for memory in found if memory.kind not in ("summary", "feeling")]
    first = [memories.latest(npc, "summary", speaker) if dialogue.rolled_up else None]
    feeling = memories.latest(npc, "feeling", speaker)
    if feeling is not None and feeling.text not in dialogue.last_text("memory", feeling.text):
        first.append(feeling)
    if in_scene:
        last = dialogue.turns[-1].line if dialogue.turns else ""
        news = memories.overheard(npc, last, _OVERHEARD)
        found = [memory for memory in found if memory not in news] + news
    texts = [memory.text for memory in [*filter(None, first), *found]]
    return [shorten(text, _MEMORY_CHARS, placeholder=" ...") for text in texts]
