"""A script: what a game does, step by step, as a file. The demo is one.

[[step]]
narrate = "It is always night here."
[[step]]
event = "lamp_out"
text = "The lamp on the stair goes out."
[[step]]
tick = true
[[step]]
say = { pim = "Who put it out?", ottavia = "Did you see it?" }   # both at the same time
offer = { pim = { follow = {} } }
[[step]]
ask = { tide_tables = "When does the water come?" }
[[step]]
read = "tide_tables"
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from roles.errors import Problem, WorldError
from roles.problems import nearest, parse, read_toml
from roles.schema import Name, Table, Words

_KINDS = ("narrate", "event", "tick", "scene", "say", "ask", "read", "save", "restore")


class Step(Table):
    """One thing a game does.

    Attributes:
        say: words to each of these characters, at the same time.
        offer: actions each may want, with the values possible for each argument.
        now: game clock, in seconds.
    """

    narrate: Words | None = None
    event: Words | None = None
    text: str = ""
    importance: float = Field(default=0.5, ge=0, le=1)
    present: tuple[Name, ...] = ()
    tick: bool = False
    scene: Words | None = None
    place: str = ""
    say: dict[Name, Words] = Field(default_factory=dict)
    offer: dict[Name, dict[Name, dict[Name, list[Any]]]] = Field(default_factory=dict)
    ask: dict[Name, Words] = Field(default_factory=dict)
    read: Name | None = None
    page: int | None = Field(default=None, ge=1)
    save: Name | None = None
    restore: Name | None = None
    now: float | None = None
    seed: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one_thing(self) -> Step:
        given = [kind for kind in _KINDS if getattr(self, kind)]
        if len(given) != 1:
            raise ValueError(
                f"a step does {' and '.join(given) or 'nothing'}; "
                f"give it one of: {', '.join(_KINDS)}"
            )
        return self

    def later(self, seconds: float) -> Step:
        """The same step at a later game time."""
        return self if self.now is None else self.model_copy(update={"now": self.now + seconds})


class Script(Table):
    """The steps, in order."""

    step: tuple[Step, ...] = Field(min_length=1, examples=["[[step]]"])


ROUND_S = 900.0  # of game time: longer than any demo


def demo_of(root: Path, turn: int) -> Path:
    """The script of a demo's round, from 1: `demo.toml`, then `demo_2.toml` and so on, in turn."""
    first, *others = root / "demo.toml", *sorted(root.glob("demo_*.toml"))
    return [first, *others][(turn - 1) % (1 + len(others))]


def read_script(path: Path, agents: frozenset[str] | None = None) -> tuple[Step, ...]:
    """The steps of a script file.

    Args:
        agents: who can be spoken to; None checks no names.

    Raises:
        WorldError: it can't be read, a key is wrong, or it speaks to nobody of this world.
    """
    script = parse(Script, read_toml(path, path.parent), path.name)
    problems = []
    for number, step in enumerate(script.step, 1):
        for agent in (*step.say, *step.ask, *((step.read,) if step.read else ())):
            if agents is not None and agent not in agents:
                key = f"step {number}"
                message = f"{agent!r} is not in this world"
                problems.append(Problem(path.name, key, message, nearest(agent, agents)))
    if problems:
        raise WorldError(problems)
    return script.step
