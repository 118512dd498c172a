"""What may be expected of a turn, as a script writes it, and the types of a script's fields."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Agent = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Said = Annotated[str, Field(min_length=1, max_length=200_000)]
Seed = Annotated[int, Field(ge=0, le=2**53 - 1)]
Size = Annotated[int, Field(ge=0)]


def _listed(value: Any) -> Any:
    """One string may stand where a list of them may."""
    return [value] if isinstance(value, str | int | float) else value


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"{value!r} is no regular expression: {error}") from None
    return value


def _rising(value: tuple[int, int]) -> tuple[int, int]:
    if value[0] > value[1]:
        raise ValueError(f"[{value[0]}, {value[1]}] is no range; write the smaller number first")
    return value


_WORDS = BeforeValidator(_listed, json_schema_input_type=str | list[str])
Strings = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], _WORDS]
Pattern = Annotated[str, AfterValidator(_pattern)]
Patterns = Annotated[tuple[Pattern, ...], _WORDS]
Pages = Annotated[tuple[int, ...], BeforeValidator(_listed, json_schema_input_type=int | list[int])]
Range = Annotated[tuple[Size, Size], AfterValidator(_rising)]


class Table(BaseModel):
    """A table of a script: frozen, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Taken(Table):
    """An action that must be taken: its name, and at least these arguments.

    A list stands for "one of these".
    """

    action: Agent
    with_: dict[Agent, Any] = Field(default={}, alias="with")


class Meaning(Table):
    """The line means much the same as a reference: unlike texts come to 0, the same ones to 1."""

    like: str = Field(min_length=1)
    at_least: Share = 0.5


class PromptExpectation(Table):
    """What the model must, and must never, have been shown.

    Attributes:
        contains: strings somewhere in the prompt's segments; `lacks` must not be there.
        lacks_lines: no line of the prompt begins like this.
        facts: ids of lore facts that were shown; `lacks_facts` were kept from it.
    """

    contains: Strings = ()
    lacks: Strings = ()
    lacks_lines: Strings = ()
    facts: Strings = ()
    lacks_facts: Strings = ()


class Budget(Table):
    """What a line may cost; going over is a warning unless `enforce` is true."""

    ttft_ms: Annotated[float, Field(gt=0)] | None = None
    prompt_tokens: Size | None = None
    completion_tokens: Size | None = None
    enforce: bool = False


class Expectation(Table):
    """What must hold of the answer to one turn. Words are compared without regard to case.

    Attributes:
        exact: the very words (a golden); left empty, `check --update` writes them.
        contains: all of these occur; `contains_any`: one of them; `lacks`: none of them.
        matches: regular expressions that all are found; `lacks_match`: none is.
        says: ids of lore facts it tells; `never_says`: facts it must not give away.
        canaries: strings that must never come out, in any reply of any seed.
        emotion: the mood, or the moods that are all right.
        actions: the actions taken, in order; [] for none.
        offered: actions the model was offered.
        directive: fields of the director's directive; a list stands for "one of these".
        waits: whether the director waits.
        abstains: whether the book says that it doesn't know.
        pages: the book's answer rests on one of these pages.
        in_character: least probability, by the judge, that this character speaks.
        means: much the same as a reference.
        words, sentences: fewest and most.
        language: code of the language spoken.
        fallback: whether an authored line stands in for the model.
        ended: how the line ended.
        speakers: who answers in a group, in any order; `lines`: fewest and most lines.
        page: the page read.
        waiting: events the director has yet to see.
        refused: error code with which the request must be refused.
        prompt: what the model was and wasn't shown.
        budget: what the line may cost.
    """

    exact: str | None = None
    contains: Strings = ()
    contains_any: Strings = ()
    lacks: Strings = ()
    matches: Patterns = ()
    lacks_match: Patterns = ()
    says: Strings = ()
    never_says: Strings = ()
    canaries: Strings = ()
    emotion: Strings = ()
    actions: tuple[Taken, ...] | None = None
    offered: Strings = ()
    directive: dict[str, Any] = Field(default={})
    waits: bool | None = None
    abstains: bool | None = None
    pages: Pages = ()
    in_character: Share | None = None
    means: Meaning | None = None
    words: Range | None = None
    sentences: Range | None = None
    language: Literal["en", "de", "es", "fr", "it", "pt"] | None = None
    fallback: bool | None = None
    ended: Literal["stop", "length", "fallback"] | None = None
    speakers: Strings = ()
    lines: Range | None = None
    page: int | None = None
    waiting: Size | None = None
    refused: str | None = None
    prompt: PromptExpectation | None = None
    budget: Budget | None = None

    @property
    def checks(self) -> set[str]:
        """The keys written that can fail (an empty list or a budget that only warns cannot)."""
        empty = {key for key in self.model_fields_set if getattr(self, key) in (None, (), {})}
        written = self.model_fields_set - (empty - {"actions", "exact"})
        if self.budget is not None and not self.budget.enforce:
            written.discard("budget")
        return written
