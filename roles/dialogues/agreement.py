"""Whether scripts fit their world: agents, facts, events, moods, places, actions, pages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from books.book import read_book
from roles.dialogues.errors import ScriptError
from roles.dialogues.script import (
    AskTurn,
    ConverseTurn,
    EventTurn,
    ReadTurn,
    SayTurn,
    SceneTurn,
    Turn,
    addressee,
)
from roles.dialogues.source import Key, Source
from roles.errors import Problem
from roles.problems import nearest
from roles.world import DIRECTOR, World


def check_agreement(sources: Iterable[Source], world: World) -> None:
    """See that everything scripts name exists.

    Raises:
        ScriptError: naming, with file and line, everything this world doesn't have.
    """
    problems = [problem for source in sources for problem in _Reading(source, world).problems()]
    if problems:
        raise ScriptError(problems)


class _Reading:
    """One script beside its world."""

    def __init__(self, source: Source, world: World) -> None:
        self.source, self.world = source, world

    def problems(self) -> Iterator[Problem]:
        yield from self._scene()
        for i, turn in enumerate(self.source.script.turns):
            key: Key = ("turns", i)
            yield from self._turn(turn, key)
            yield from self._expectation(turn, (*key, "expect"))

    def _names(
        self, key: Key, values: Iterable[str], known: Collection[str], what: str
    ) -> Iterator[Problem]:
        for value in values:
            if value not in known:
                message = f"{value!r} is no {what} of this world"
                yield self.source.problem(key, message, nearest(value, known))

    def _npcs(self, key: Key, values: Iterable[str]) -> Iterator[Problem]:
        yield from self._names(key, values, self.world.npcs, "character")

    def _scene(self) -> Iterator[Problem]:
        scene, spec = self.source.script.scene, self.world.spec
        yield from self._npcs(("scene", "present"), scene.present)
        yield from self._npcs(("scene", "memories"), scene.memories)
        places = [scene.place] if scene.place else []
        yield from self._names(("scene", "place"), places, spec.places, "place")
        yield from self._names(("scene", "happened"), scene.happened, spec.events, "event")

    def _turn(self, turn: Turn, key: Key) -> Iterator[Problem]:
        match turn:
            case SayTurn():
                yield from self._say(turn, key)
            case AskTurn(to=book):
                yield from self._names((*key, "to"), [book], self.world.books, "book")
            case ReadTurn(read=book):
                yield from self._names((*key, "read"), [book], self.world.books, "book")
            case ConverseTurn(aside_to=npc) if npc is not None:
                yield from self._npcs((*key, "aside_to"), [npc])
            case EventTurn(event=event, text=text):
                known = self.world.spec.events if not text else (*self.world.spec.events, event)
                yield from self._names((*key, "event"), [event], known, "event")
            case SceneTurn(present=present, place=place):
                yield from self._npcs((*key, "present"), present)
                places = [place] if place else []
                yield from self._names((*key, "place"), places, self.world.spec.places, "place")

    def _say(self, turn: SayTurn, key: Key) -> Iterator[Problem]:
        agent = addressee(self.source.script, turn)
        refused = turn.expect.refused is not None  # a mistake made on purpose
        if agent is None:
            remedy = "add to: NAME, or make the scene one character's"
            yield self.source.problem((*key, "say"), "is said to nobody", remedy)
        elif not refused:
            yield from self._npcs((*key, "to"), [turn.to] if turn.to else [])
            offered = [one.action for one in turn.actions or ()]
            known = self.world.spec.actions
            yield from self._names((*key, "actions"), offered, known, "action")

    def _expectation(self, turn: Turn, key: Key) -> Iterator[Problem]:
        wanted, spec, facts = turn.expect, self.world.spec, self.world.facts
        prompt = wanted.prompt
        shown = (*prompt.facts, *prompt.lacks_facts) if prompt is not None else ()
        yield from self._names((*key, "says"), wanted.says, facts, "fact")
        yield from self._names((*key, "never_says"), wanted.never_says, facts, "fact")
        yield from self._names((*key, "prompt"), shown, facts, "fact")
        yield from self._names((*key, "emotion"), wanted.emotion, spec.emotions, "emotion")
        yield from self._names((*key, "offered"), wanted.offered, spec.actions, "action")
        taken = [one.action for one in wanted.actions or ()]
        yield from self._names((*key, "actions"), taken, spec.actions, "action")
        speakers = [name for name in wanted.speakers if name != DIRECTOR]
        yield from self._npcs((*key, "speakers"), speakers)
        if wanted.directive:
            yield from self._directive(wanted.directive.get("do"), (*key, "directive"))
        if isinstance(turn, AskTurn) and turn.to in self.world.books and wanted.pages:
            yield from self._pages(turn.to, wanted.pages, (*key, "pages"))

    def _directive(self, names: object, key: Key) -> Iterator[Problem]:
        wanted = names if isinstance(names, list) else [names] if names else []
        known = ["wait", *self.world.spec.directives]
        yield from self._names(key, map(str, wanted), known, "directive")

    def _pages(self, book: str, pages: tuple[int, ...], key: Key) -> Iterator[Problem]:
        numbers = [p.number for p in read_book(self.world.root / "books" / f"{book}.md").pages]
        for page in pages:
            if page not in numbers:
                message = f"{book} has no page {page}"
                remedy = f"its pages are {numbers[0]} to {numbers[-1]}"
                yield self.source.problem(key, message, remedy)
