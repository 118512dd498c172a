"""Conversations with a world's own characters: their voice, its lore, their opinions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from roles.corpus.cast import TRAITS, Character
from roles.corpus.draw import Draw
from roles.corpus.intents import WEIGHTED, WORD_FOR_WORD, small_talk
from roles.corpus.seeds import Seed
from roles.corpus.source import Source
from roles.corpus.talk import Conversation, Intent, Line, Row
from roles.lore import Fact as LoreFact
from roles.world import World

# Of a turn's intents: how often the world itself is the topic.
_LORE, _OPINION, _SEED = 24, 5, 10


class Cast:
    """A world's characters, ready to be talked to."""

    def __init__(self, source: Source, world: World) -> None:
        self.world = world
        self.grammar = source.grammar
        stock = source.stock
        known = {name: slots for name, slots in stock.actions.items() if name in world.spec.actions}
        self.stock = replace(
            stock, actions=known or stock.actions, moods=world.spec.emotions, spelled=not known
        )
        self.loose_stock = replace(stock, moods=world.spec.emotions)

    def character(self, npc: str) -> Character:
        """A character of the world as a speaker."""
        spec = self.world.npcs[npc]
        voice = f"npcs/{npc}"
        traits = {trait: "" for trait in TRAITS if self.grammar.has(f"{voice}/trait/{trait}")}
        return Character(
            name=spec.name,
            role=spec.role,
            persona=spec.persona,
            voice=voice,
            own=0.96,
            colour=0.95,
            traits=traits,
        )

    def rows(
        self, npc: str, seeds: Sequence[Seed], seed: int, count: int, *, held_out: bool
    ) -> Iterator[Row]:
        """Conversations with one character; nothing in them repeats but its manner."""
        side = "valid" if held_out else "train"
        for index in range(count):
            draw = Draw(self.grammar, f"{seed}:{npc}:{side}:{index}", held_out=held_out)
            yield self._row(draw, npc, seeds)

    def _row(self, draw: Draw, npc: str, seeds: Sequence[Seed]) -> Row:
        player = self.world.spec.player
        others = [spec.name for other, spec in self.world.npcs.items() if other != npc]
        you = draw.choice([player] * 12 + [draw.choice(others), *draw.phrases("first", 3)])
        stock = self.stock if draw.chance(0.8) else self.loose_stock
        talk = Conversation(draw, stock, self.character(npc), you)
        talk.place = draw.choice(list(self.world.spec.places.values()))
        if talk.others:
            talk.others = draw.rng.sample([name for name in others if name != you], 1)
        intents: dict[Intent, int] = {
            **WEIGHTED,
            small_talk: 44,
            self._lore(npc): _LORE,
            self._opinion(npc): _OPINION,
        }
        if seeds:
            intents[_seeded(seeds)] = _SEED
        chosen = draw.rng.choices(list(intents), list(intents.values()), k=draw.rng.randint(2, 4))
        for intent in chosen:
            talk.add(intent(talk))
        return talk.row("npc", npc)

    def _lore(self, npc: str) -> Intent:
        facts = [
            fact for fact in self.world.facts.values() if self.grammar.has(f"lore/{fact.id}/ask")
        ]
        mine = [fact for fact in facts if fact.know & self._scopes(npc)]

        def lore(talk: Conversation) -> Line:
            """A question about the world: answered if the fact is noted, else deflected."""
            draw = talk.draw
            if not mine:
                return small_talk(talk)
            if draw.chance(0.2):
                fact = draw.choice(facts)
                core, own = talk.say("unknown", "unknown", x=draw.pick(f"lore/{fact.id}/topic"))
                two = draw.rng.sample(mine, min(2, len(mine)))
                others = [other.text for other in two if other is not fact]
                noted = others if draw.chance(0.5) else []
                return Line(asked=self._ask(draw, fact), core=core, own=own, facts=[*noted])
            fact = draw.choice(mine)
            answer = (
                fact.text if draw.chance(WORD_FOR_WORD) else draw.pick(f"lore/{fact.id}/answer")
            )
            core, own = talk.say("fact", "bare", core=answer)
            more = draw.rng.sample(mine, min(draw.choice([0, 1, 2, 3]), len(mine)))
            noted = [fact.text, *(other.text for other in more if other is not fact)]
            return Line(asked=self._ask(draw, fact), core=core, own=own, facts=[*noted])

        return lore

    def _scopes(self, npc: str) -> set[str]:
        spec = self.world.npcs[npc]
        return {"everyone", npc, spec.place, *spec.places, *spec.scopes}

    def _ask(self, draw: Draw, fact: LoreFact) -> str:
        return draw.pick(f"lore/{fact.id}/ask")

    def _opinion(self, npc: str) -> Intent:
        about = f"npcs/{npc}/about"
        known = [other for other in self.world.npcs if self.grammar.has(f"{about}/{other}")]

        def opinion(talk: Conversation) -> Line:
            """What it thinks of another character."""
            if not known:
                return small_talk(talk)
            other = talk.draw.choice(known)
            name = self.world.npcs[other].name
            asked = talk.draw.pick("other_opinion/say", x=name, **talk.names())
            core = talk.draw.pick(f"{about}/{other}", **talk.names())
            return Line(asked=asked, core=core, own=True)

        return opinion


def _seeded(seeds: Sequence[Seed]) -> Intent:
    def seeded(talk: Conversation) -> Line:
        """A line that a writer wrote by hand."""
        seed = talk.draw.choice(seeds)
        return Line(
            asked=seed.asked,
            core=seed.words,
            own=True,
            bare=True,
            mood=seed.mood,
            facts=[*seed.facts],
            action=seed.action,
            offers=list(seed.offers),
            goal=seed.goal,
        )

    return seeded
