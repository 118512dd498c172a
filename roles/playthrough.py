"""One game being played in a world: everything that a save holds, open.

A restore closes it and opens another over the same store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from protocol.messages import Focus
from roles.book import BookOnShelf
from roles.dialogue import Dialogue
from roles.director import Director
from roles.line import Line
from roles.lore import Lore
from roles.memory import MemoryBook, heard
from roles.npc import Character
from roles.regard import moved, turn
from roles.store import Store
from roles.world import World

PLAYER = "player"
_LIFTING = 0.7  # importance from which an event lifts who saw it
_LIFTED_LINES = 3
_RECENT_LINES = 20  # within which no line is said twice


class Playthrough:
    """The living state of a world."""

    def __init__(self, world: World, store: Store) -> None:
        self.world, self.store = world, store
        self.memories = MemoryBook(store)
        self.director = Director(world, store)
        self.cast: dict[str, Character] = {}
        self.shelf: dict[str, BookOnShelf] = {}
        self._open()
        self.recent: list[str] = store.get("recent", [])
        self._dialogues: dict[str, Dialogue] = {}
        self.scenes: dict[str, dict[str, object]] = store.get("scenes", {})

    def take_world(self, world: World) -> None:
        """Go on in a world whose files have changed: same conversations, new texts."""
        self.world = self.director.world = world
        self._open()

    def _open(self) -> None:
        world, store = self.world, self.store
        self.lore = Lore(world.facts)
        self.cast = {npc: Character(npc, spec, store) for npc, spec in world.npcs.items()}
        self.shelf = {
            name: BookOnShelf(world.root / "books" / f"{name}.md", store) for name in world.books
        }

    @property
    def now(self) -> float:
        """The game clock, in seconds."""
        return self.director.stage.now

    @property
    def hushed(self) -> frozenset[str]:
        """Characters in a scene that the game has silenced."""
        found: set[str] = set()
        for scene in self.scenes.values():
            if scene.get("hushed"):
                found.update(map(str, self._present(scene)))
        return frozenset(found)

    def next_line(self) -> str:
        """An id that no line of this game has had."""
        number = self.store.get("lines", 0) + 1
        self.store.set("lines", number)
        return f"l{number}"

    def seed(self, line: str) -> int:
        """A line's seed when the request names none: the same in a restored game."""
        text = f"{self.world.spec.seed}:{line}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6])

    def display_name(self, speaker: str) -> str:
        """How the prompt names whoever speaks."""
        if speaker == PLAYER:
            return self.world.spec.player
        return self.world.npcs[speaker].name if speaker in self.world.npcs else speaker

    def dialogue(self, npc: str, speaker: str, conversation: str) -> Dialogue:
        """A character's talk with somebody."""
        key = f"{npc}|{speaker}|{conversation}"
        if key not in self._dialogues:
            self._dialogues[key] = Dialogue(self.store, key)
        return self._dialogues[key]

    def place(self, npc: str, scene: str) -> str:
        """Where a character is: in its scene's place, or where it was last."""
        place = self.scenes.get(scene, {}).get("place") if scene else None
        return str(place) if place in self.world.spec.places else self.cast[npc].part.place

    def present(self, scene: str) -> list[str]:
        """Characters in a scene; those whom a reload took out of the world are gone."""
        found = map(str, self._present(self.scenes.get(scene, {})))
        return [npc for npc in found if npc in self.cast]

    def set_scene(self, scene: str, place: str, present: Iterable[str]) -> None:
        """Open, change or (with nobody in it) close a scene."""
        who = list(present)
        if who:
            hushed = bool(self.scenes.get(scene, {}).get("hushed"))
            self.scenes[scene] = {"place": place, "present": who, "hushed": hushed}
        else:
            self.scenes.pop(scene, None)
        for npc in who:
            if place in self.world.spec.places:
                self.cast[npc].part.place = place
                self.cast[npc].keep()
        self.store.set("scenes", self.scenes)

    def hush(self, scene: str, *, on: bool) -> None:
        """Silence a scene, or let it speak again."""
        self.scenes.setdefault(scene, {"place": "", "present": []})["hushed"] = on
        self.store.set("scenes", self.scenes)

    def last_speaker(self, scene: str) -> str:
        """Who spoke last in a scene, or ""."""
        return str(self.scenes.get(scene, {}).get("last", ""))

    def set_last_speaker(self, scene: str, npc: str) -> None:
        """Somebody has spoken in a scene."""
        if scene in self.scenes:
            self.scenes[scene]["last"] = npc
            self.store.set("scenes", self.scenes)

    def set_focus(self, npc: str, level: Focus) -> None:
        """The game says how much a character matters."""
        self.cast[npc].part.focus = level
        self.cast[npc].keep()

    def witness(
        self, text: str, witnesses: Iterable[str], importance: float, who: list[str]
    ) -> None:
        """Those who were there remember an event; an important one lifts them."""
        for npc in witnesses:
            self.memories.add(
                npc, text, kind="seen", now=self.now, importance=importance, participants=who
            )
            if importance >= _LIFTING:
                self.cast[npc].part.lifted = _LIFTED_LINES
                self.cast[npc].keep()

    def feel(self, npc: str, who: str, step: float) -> float:
        """Move what a character feels for somebody; a change of heart is remembered.

        Returns what it feels now, -1 to 1.
        """
        character = self.cast[npc]
        before = character.part.regard.get(who, 0.0)
        after = character.part.regard[who] = moved(before, step)
        character.keep()
        text = turn(before, after, self.display_name(who))
        last = self.memories.latest(npc, "feeling", who)
        if text and (last is None or last.text != text):
            self._remember(npc, text, "feeling", 0.7, [who, npc], "")
        return after

    def remember_words(self, text: str) -> None:
        """What was said, so that it is not said again word for word for a while."""
        self.recent = [*self.recent, text][-_RECENT_LINES:]
        self.store.set("recent", self.recent)

    def remember_line(self, line: Line, listeners: Iterable[str]) -> None:
        """An exchange becomes memory: of the one who answered, and of those who overheard."""
        speaker = self.display_name(line.speaker)
        said, importance = heard(speaker, line.said)
        people = [line.speaker, line.agent]
        self._remember(line.agent, said, "heard", importance, people, line.id)
        answer = f"{self.display_name(line.agent)} said: {line.text}"
        for npc in sorted({*listeners, line.speaker} - {line.agent}):
            if npc != line.speaker:
                self._remember(npc, said, "heard", importance / 2, people, line.id)
            if npc in self.cast:
                self._remember(npc, answer, "heard", 0.2, people, line.id)

    def _remember(
        self, npc: str, text: str, kind: str, importance: float, people: list[str], line: str
    ) -> None:
        self.memories.add(
            npc,
            text,
            kind=kind,
            now=self.now,
            importance=importance,
            participants=people,
            line=line,
        )

    @staticmethod
    def _present(scene: dict[str, object]) -> list[object]:
        present = scene.get("present", [])
        return present if isinstance(present, list) else []
