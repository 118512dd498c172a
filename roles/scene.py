"""Several characters and one who speaks to all: who answers, in which order, who only listens.

Characters who are addressed by name answer. If nobody is, the one answers whom it concerns most,
and another may add a line. Whoever spoke last is less likely to speak again. Talk among
characters (a speaker who is no player) is chatter: it stops for the player at once.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing

from protocol import messages as wire
from roles.budget import LEVELS
from roles.errors import HushedError, LineError
from roles.house import House
from roles.playthrough import PLAYER
from roles.talk import Talk

_LAST_SPEAKER = 1.5  # taken from the score of whoever spoke last
_REACTS = 1.0  # the score from which somebody who wasn't addressed adds a line


class Scene:
    """One thing said to a scene, and the lines that answer it."""

    def __init__(self, house: House, key: str, body: wire.ConverseRequest) -> None:
        self.house, self.key, self.body = house, key, body
        if house.play.scenes.get(body.scene, {}).get("hushed"):
            raise HushedError(f"scene {body.scene!r} is hushed; lift the hush first")
        self.present = [npc for npc in house.play.present(body.scene) if npc != body.speaker]
        if not self.present:
            raise LineError(f"nobody is in scene {body.scene!r}; send `scene` with who is present")
        if body.aside_to is not None and body.aside_to not in self.present:
            raise LineError(f"{body.aside_to!r} is not in scene {body.scene!r}: {self.present}")

    async def run(self, client_deadline_s: float | None) -> AsyncGenerator[wire.Body, None]:
        """Answer: Accepted, Delta* (each says who speaks), ConverseReply."""
        body, house = self.body, self.house
        if body.speaker == PLAYER:
            await house.quieten(body.scene)
        replies: list[wire.SayReply] = []
        text, speaker = body.text, body.speaker
        with house.chattering(body.scene, self.key, chatter=body.speaker != PLAYER) as chatter:
            for number, npc in enumerate(self._answering()):
                if chatter.stopped:
                    break
                talk = Talk(house, f"{self.key}.{number}", self._say(npc, speaker, text))
                if body.aside_to is not None:
                    talk.listeners = []
                async with aclosing(talk.run(client_deadline_s)) as parts:
                    async for part in parts:
                        if isinstance(part, wire.SayReply):
                            replies.append(part)
                        elif isinstance(part, wire.Delta):
                            yield part.model_copy(update={"agent": npc})
                        elif number == 0:
                            yield part
                if number == 0 and not self._addressed():
                    speaker, text = npc, replies[-1].text  # the next one reacts to the first
        house.play.set_last_speaker(body.scene, replies[-1].agent if replies else "")
        yield wire.ConverseReply(lines=replies)

    def _answering(self) -> list[str]:
        """Who answers, in order."""
        if self.body.aside_to is not None:
            return [self.body.aside_to]
        if addressed := self._addressed():
            return addressed[: self.body.max_lines]
        scores = {npc: self._concern(npc) for npc in self.present}
        ranked = sorted(self.present, key=lambda npc: (-scores[npc], npc))
        reacting = [npc for npc in ranked[1:] if scores[npc] >= _REACTS][:1]
        return [ranked[0], *reacting][: self.body.max_lines]

    def _addressed(self) -> list[str]:
        """Those whom the text calls by name, in the order it does."""
        found = {}
        for npc in self.present:
            name = self.house.play.display_name(npc)
            if match := re.search(rf"\b{re.escape(name)}\b", self.body.text, re.IGNORECASE):
                found[npc] = match.start()
        return sorted(found, key=lambda npc: found[npc])

    def _concern(self, npc: str) -> float:
        """How much the words concern somebody.

        What it knows of them and remembers, how much it matters now, and how strongly it feels
        for whoever speaks, well or ill.
        """
        play, text = self.house.play, self.body.text
        character = play.cast[npc]
        scopes = self.house.world.scopes(npc, character.part.place)
        facts = play.lore.relevant(text, scopes - {"everyone"}, play.director.happened)
        memories = play.memories.recall(npc, text, now=play.now, limit=3)
        level = LEVELS[character.focus()[0]]
        score = min(len(facts), 2) + 0.3 * len(memories) + level.priority / 20
        score += abs(character.part.regard.get(self.body.speaker, 0.0))
        return score - _LAST_SPEAKER * (play.last_speaker(self.body.scene) == npc)

    def _say(self, npc: str, speaker: str, text: str) -> wire.SayRequest:
        body = self.body
        return wire.SayRequest(
            agent=npc,
            text=text,
            speaker=speaker,
            scene=body.scene,
            actions=[],
            seed=body.seed,
            max_tokens=body.max_tokens,
            temperature=body.temperature,
            top_p=body.top_p,
        )
