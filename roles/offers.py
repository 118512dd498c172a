"""Actions: what a character may do now, and the grammar that lets it say nothing else."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jsonschema

from engine.requests import Constraint
from roles import prompt
from roles.errors import LineError
from roles.problems import nearest
from roles.prompt import one_line
from roles.world import World

MAX_ACTIONS = 2  # in one reply; more is a scene, and belongs to the game
# One way to write JSON, the way training data writes it.
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
# Dialogue only: no line breaks, stage directions (*sighs*), markup or brackets.
_WORDS = r"[^\s\x00-\x1f\x7f\[\]*<>{}|`][^\x00-\x1f\x7f\[\]*<>{}|`]*"


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """An action that is possible now.

    Attributes:
        schema: JSON Schema of the arguments object, narrowed to what is possible.
        choices: values left for each argument; an argument without choices is free text.
    """

    name: str
    schema: Mapping[str, Any]
    choices: Mapping[str, Sequence[Any]]

    @property
    def shown(self) -> str:
        """How the prompt names it, such as `give(item=brass key|lamp oil)`."""
        return prompt.offer(
            self.name,
            {key: [one_line(str(value)) for value in self.choices[key]] for key in self.choices},
        )

    def check(self, arguments: object) -> None:
        """Raises: LineError if these arguments are not what was offered."""
        try:
            jsonschema.validate(arguments, self.schema)
        except jsonschema.ValidationError as error:
            raise LineError(f"action {self.name!r}: {error.message}") from None


def offer(world: World, name: str, choices: Mapping[str, Sequence[Any]]) -> Offer:
    """An action of the world, each named argument narrowed to some values.

    Raises:
        LineError: the world has no such action or argument, or its schema forbids a value.
    """
    call = world.spec.actions.get(name)
    if call is None:
        raise LineError(f"no action {name!r} in this world; {nearest(name, world.spec.actions)}")
    schema = world.arguments_schema(call)
    for argument, values in choices.items():
        if argument not in schema["properties"]:
            remedy = nearest(argument, schema["properties"])
            raise LineError(f"action {name!r} has no argument {argument!r}; {remedy}")
        for value in values:
            _check_value(name, argument, value, schema["properties"][argument])
        schema["properties"][argument] = {"enum": list(values)}
    shown = {
        argument: tuple(kind["enum"]) if "enum" in kind else ()
        for argument, kind in schema["properties"].items()
    }
    return Offer(name=name, schema=schema, choices=shown)


def reply_grammar(emotions: Sequence[str], offers: Sequence[Offer]) -> Constraint:
    """What a character's reply may be: `[mood] words`, then lines `> action {json}`.

    Whatever a player types, no other mood and no action that was not offered can come out.
    """
    moods = " | ".join(json.dumps(emotion) for emotion in emotions)
    rules = [f'start: "[" mood "] " WORDS{" action?" * MAX_ACTIONS if offers else ""}']
    rules += [f"mood: {moods}", f"WORDS: /{_WORDS}/"]
    if offers:
        calls = " | ".join(f"call_{i}" for i in range(len(offers)))
        rules.append(rf'action: "\n> " ({calls})')
    for i, one in enumerate(offers):
        schema = json.dumps({**one.schema, "x-guidance": _SPACING})
        rules.append(f"call_{i}: {json.dumps(one.name + ' ')} %json {schema}")
    return Constraint(kind="lark", source="\n".join(rules))


def directive_grammar(world: World, without: Mapping[str, Collection[str]]) -> Constraint:
    """What the director may answer: one of the world's directives, or wait.

    Args:
        world: the world.
        without: what `Director.closed` names.
    """
    schema = {**world.directive_schema(without), "x-guidance": _SPACING}
    return Constraint(kind="json_schema", source=json.dumps(schema))


def _check_value(name: str, argument: str, value: Any, kind: Mapping[str, Any]) -> None:
    try:
        jsonschema.validate(value, kind)
    except jsonschema.ValidationError as error:
        raise LineError(f"action {name!r}, argument {argument!r}: {error.message}") from None
