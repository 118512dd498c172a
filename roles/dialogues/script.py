"""A dialogue script: a scene, turns, and what must and must never come of each.

The models here are the schema; `script.schema.json` beside this file is generated from them
for editors. Keys unknown here are mistakes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from roles.dialogues.rates import Rate
from roles.dialogues.schema import Agent, Expectation, Said, Seed, Share, Size, Strings, Table


class Offered(Table):
    """An action that is possible now; `with` narrows arguments to these values."""

    action: Agent
    with_: dict[Agent, list[str | int | float | bool]] = Field(default={}, alias="with")


class Turn(Table):
    """What every turn may have."""

    note: str = Field(default="", description="for the reader of the script")
    expect: Expectation = Expectation()


class Line(Turn):
    """What every turn that makes someone speak may have."""

    seed: Seed | None = Field(default=None, description="absent: from the script's seed")
    temperature: Annotated[float, Field(ge=0, le=5)] | None = Field(
        default=None, description="0: greedy; absent: the world's"
    )
    max_tokens: Annotated[int, Field(ge=1, le=4096)] | None = None


class SayTurn(Line):
    """Someone speaks to a character."""

    say: Said
    to: Agent | None = Field(default=None, description="absent: the only character present")
    speaker: str = "player"
    conversation: str = ""
    in_scene: bool = Field(default=True, description="false: in private, though a scene goes on")
    focus: Literal["spotlight", "near", "far", "offstage"] | None = None
    actions: tuple[Offered, ...] | None = Field(
        default=None, description="absent: all the world allows; []: nothing"
    )


class AskTurn(Line):
    """Someone asks a book."""

    ask: Said
    to: Agent
    speaker: str = "player"


class TickTurn(Line):
    """The director decides."""

    tick: float | None = Field(description="game time in seconds, or empty")


class ConverseTurn(Line):
    """Someone speaks to everyone in the scene."""

    converse: Said
    speaker: str = "player"
    aside_to: Agent | None = None
    max_lines: Annotated[int, Field(ge=1, le=16)] = 3


class EventTurn(Turn):
    """Something happens."""

    event: Agent
    text: str = Field(default="", description="absent: the world's text, filled from `with`")
    with_: dict[Agent, str] = Field(default={}, alias="with")
    who: Strings = ()
    importance: Share | None = Field(default=None, description="absent: the world's")
    now: float | None = None
    in_scene: bool = Field(default=True, description="false: only those in `who` see it")
    data: dict[str, Any] = Field(default={})


class ReadTurn(Turn):
    """Someone reads a page; without a number, the one at the bookmark."""

    read: Agent
    page: Annotated[int, Field(ge=1)] | None = None
    speaker: str = "player"


class SceneTurn(Turn):
    """From here on, others are present or the place is another."""

    present: tuple[Agent, ...]
    place: Agent | None = None


class ResultTurn(Turn):
    """The game says what became of the last line's action."""

    result: str = Field(min_length=1)
    ok: bool = True
    index: Size = 0


class SaveTurn(Turn):
    """Everything is saved."""

    save: Agent


class RestoreTurn(Turn):
    """Everything is again as it was saved."""

    restore: Agent


TURNS: dict[str, type[Turn]] = {
    "say": SayTurn,
    "ask": AskTurn,
    "tick": TickTurn,
    "converse": ConverseTurn,
    "event": EventTurn,
    "read": ReadTurn,
    "present": SceneTurn,
    "result": ResultTurn,
    "save": SaveTurn,
    "restore": RestoreTurn,
}


def kind_of(turn: Any) -> str | None:
    """Which kind of turn a table is, by the one key that tells."""
    if isinstance(turn, Turn):
        return next(kind for kind, model in TURNS.items() if isinstance(turn, model))
    return next((kind for kind in TURNS if kind in turn), None) if _is_table(turn) else None


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)


AnyTurn = Annotated[
    Annotated[SayTurn, Tag("say")]
    | Annotated[AskTurn, Tag("ask")]
    | Annotated[TickTurn, Tag("tick")]
    | Annotated[ConverseTurn, Tag("converse")]
    | Annotated[EventTurn, Tag("event")]
    | Annotated[ReadTurn, Tag("read")]
    | Annotated[SceneTurn, Tag("present")]
    | Annotated[ResultTurn, Tag("result")]
    | Annotated[SaveTurn, Tag("save")]
    | Annotated[RestoreTurn, Tag("restore")],
    Discriminator(kind_of),
]


class Planted(Table):
    """A memory that a character has when the scene begins."""

    text: str = Field(min_length=1)
    now: float = 0.0
    importance: Share = 0.5
    participants: Strings = ()
    pinned: bool = False


def _memory(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


Memory = Annotated[Planted, BeforeValidator(_memory, json_schema_input_type=str | Planted)]


class Scene(Table):
    """The world as it is before the first turn.

    Attributes:
        present: characters, and where they are.
        now: game time, in seconds.
        happened: events of the world that are past; lore may wait for them.
        state: the game's own state, as events would have set it.
        memories: planted per character; a plain string is a memory of importance 0.5.
        deadline_ms: absent, no line ever falls back for time; 0, each does at once.
    """

    present: tuple[Agent, ...] = ()
    place: Agent | None = None
    now: float = 0.0
    happened: Strings = ()
    state: dict[str, Any] = Field(default={})
    memories: dict[Agent, tuple[Memory, ...]] = Field(default={})
    deadline_ms: Size | None = None


class Script(Table):
    """One script.

    Attributes:
        name: unique in its file; `-k` and reports use FILE::NAME.
        about: what it guards, in a sentence.
        tags: more words for `-k`.
        seed: of the first run; the k-th run adds k.
        seeds: how many runs.
        pass_rate: least share of runs that must pass. Below 1, it fails only where chance
            doesn't explain the shortfall; canaries and refusals forgive nothing.
        weak: why today's models don't manage this yet; it is reported, but only leaks fail.
    """

    name: Agent
    about: str = ""
    tags: Strings = ()
    scene: Scene = Scene()
    seed: Seed = 1
    seeds: Annotated[int, Field(ge=1, le=1000)] = 1
    pass_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    weak: str = ""
    turns: tuple[AnyTurn, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _can_fail(self) -> Script:
        if not any(turn.expect.checks for turn in self.turns):
            raise ValueError("expects nothing, so it can never fail; add `expect:` to a turn")
        if not Rate.can_fail(self.seeds, self.pass_rate):
            enough = next(n for n in range(1, 1001) if Rate.can_fail(n, self.pass_rate))
            raise ValueError(
                f"{self.seeds} seeds can't tell a pass rate of {self.pass_rate} from none; "
                f"use seeds: {enough} or more"
            )
        return self

    @property
    def agents(self) -> set[str]:
        """Everyone whose words this script looks at."""
        named: set[str] = set(self.scene.present)
        for turn in self.turns:
            named |= _named(turn)
        return named

    @property
    def num_lines(self) -> int:
        """The most lines that models may be asked for."""
        return sum(_num_lines(turn) for turn in self.turns)


def addressee(script: Script, turn: SayTurn) -> str | None:
    """Whom a line is for: `to`, or the only character present (None where that is unclear)."""
    if turn.to is not None:
        return turn.to
    return script.scene.present[0] if len(script.scene.present) == 1 else None


def _named(turn: Turn) -> set[str]:
    match turn:
        case SayTurn(to=str(agent)) | AskTurn(to=agent) | ReadTurn(read=agent):
            return {agent}
        case TickTurn():
            return {"director"}
        case SceneTurn(present=agents):
            return set(agents)
    return set()


def _num_lines(turn: Turn) -> int:
    if isinstance(turn, ConverseTurn):
        return turn.max_lines
    return 1 if isinstance(turn, SayTurn | AskTurn | TickTurn) else 0


def json_schema() -> dict[str, Any]:
    """The schema that editors use for `dialogues/*.yaml`."""
    schema = Script.model_json_schema(by_alias=True)
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A biblioteca dialogue script",
    }
    return {**schema, **head}
