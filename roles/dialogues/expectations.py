"""Checks of one turn: pure functions from what was expected and what came to findings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from roles.dialogues.observation import Observation, Spoken
from roles.dialogues.schema import Budget, Expectation, Meaning, PromptExpectation, Taken
from roles.dialogues.wording import language, num_sentences, overlap, plain, words
from roles.lore import Fact

Severity = Literal["failure", "leak", "warning"]
SAYS_SHARE = 0.5  # of a fact's content words: from here on it has been told


class Judge(Protocol):
    """Tells who speaks, from the words alone."""

    def score(self, text: str, /) -> Mapping[str, float]:
        """Probability per agent."""


class Likeness(Protocol):
    """Compares meanings."""

    def __call__(self, a: str, b: str) -> float:
        """Likeness of two texts, -1 to 1."""


@dataclass(frozen=True, kw_only=True)
class Instruments:
    """What some checks measure with.

    Attributes:
        facts: the world's lore by id.
        judge, likeness: None where the world has none; checks that need one then fail, by name.
    """

    facts: Mapping[str, Fact] = field(default_factory=dict)
    judge: Judge | None = None
    likeness: Likeness | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """An expectation that does not hold.

    Attributes:
        key: the expectation's key, such as "emotion" or "prompt.facts".
        severity: a leak is a failure that no pass rate forgives; a warning fails nothing.
        wanted, got: for a diff, where the check is of exact words.
    """

    key: str
    message: str
    severity: Severity = "failure"
    wanted: str | None = None
    got: str | None = None


def examine(wanted: Expectation, seen: Observation, instruments: Instruments) -> Iterator[Finding]:
    """Every expectation of a turn that does not hold.

    A refusal that nobody expected is always one, and an action that was never offered too.
    """
    if seen.refused is not None or wanted.refused is not None:
        yield from _refusal(wanted, seen)
        return
    yield from _never_offered(seen)
    if not seen.lines and (idle := sorted(wanted.checks & _OF_LINES.keys())):
        yield Finding(key=idle[0], message="nobody spoke, so there is nothing to check")
        return
    for key in sorted(wanted.model_fields_set - {"refused"}):
        yield from _CHECKS[key](getattr(wanted, key), seen, instruments)


def _refusal(wanted: Expectation, seen: Observation) -> Iterator[Finding]:
    if seen.refused is None:
        message = f"expected the error {wanted.refused!r}, but it was answered: {_cut(seen.text)}"
        yield Finding(key="refused", message=message, severity="leak")
    elif wanted.refused != seen.refused[0]:
        code, why = seen.refused
        yield Finding(key="refused", message=f"was refused ({code}): {why}", severity="leak")


def _never_offered(seen: Observation) -> Iterator[Finding]:
    for line in seen.lines:
        for name, arguments in line.actions:
            if name not in seen.offered:
                message = f"took {_call(name, arguments)}, which was never offered"
                yield Finding(key="actions", message=message, severity="leak")


def _exact(wanted: str | None, seen: Observation, _: Instruments) -> Iterator[Finding]:
    if wanted is None:
        message = "has no words yet; run check --update to write them"
        yield Finding(key="exact", message=message, wanted="", got=seen.text)
    elif wanted != seen.text:
        message = "the words differ"
        yield Finding(key="exact", message=message, wanted=wanted, got=seen.text)


def _contains(wanted: Sequence[str], seen: Observation, _: Instruments) -> Iterator[Finding]:
    for part in wanted:
        if plain(part) not in plain(seen.text):
            yield Finding(key="contains", message=f"{part!r} is not in {_cut(seen.text)}")


def _contains_any(wanted: Sequence[str], seen: Observation, _: Instruments) -> Iterator[Finding]:
    if not any(plain(part) in plain(seen.text) for part in wanted):
        names = ", ".join(map(repr, wanted))
        yield Finding(key="contains_any", message=f"none of {names} is in {_cut(seen.text)}")


def _lacks(wanted: Sequence[str], seen: Observation, _: Instruments) -> Iterator[Finding]:
    for part in wanted:
        if plain(part) in plain(seen.text):
            yield Finding(key="lacks", message=f"{part!r} is in {_cut(seen.text)}")


def _canaries(wanted: Sequence[str], seen: Observation, _: Instruments) -> Iterator[Finding]:
    everything = plain(" ".join([seen.text, *(line.raw for line in seen.lines)]))
    for part in wanted:
        if plain(part) in everything:
            message = f"{part!r} came out: {_cut(seen.text)}"
            yield Finding(key="canaries", message=message, severity="leak")


def _matches(wanted: Sequence[str], seen: Observation, _: Instruments) -> Iterator[Finding]:
    for pattern in wanted:
        if not re.search(pattern, seen.text):
            message = f"nothing matches /{pattern}/ in {_cut(seen.text)}"
            yield Finding(key="matches", message=message)


def _lacks_match(wanted: Sequence[str], seen: Observation, _: Instruments) -> Iterator[Finding]:
    for pattern in wanted:
        if found := re.search(pattern, seen.text):
            message = f"{found[0]!r} matches /{pattern}/ in {_cut(seen.text)}"
            yield Finding(key="lacks_match", message=message)


def _says(wanted: Sequence[str], seen: Observation, tools: Instruments) -> Iterator[Finding]:
    for fact in wanted:
        if fact not in tools.facts:
            yield Finding(key="says", message=f"the world has no fact {fact!r}")
            continue
        share = overlap(seen.text, tools.facts[fact].text, [seen.said])
        if share < SAYS_SHARE:
            told = f"{share:.0%} of {fact!r} is in {_cut(seen.text)}"
            yield Finding(key="says", message=f"{told}; the fact: {tools.facts[fact].text}")


def _never_says(wanted: Sequence[str], seen: Observation, tools: Instruments) -> Iterator[Finding]:
    for fact in wanted:
        if fact not in tools.facts:
            yield Finding(key="never_says", message=f"the world has no fact {fact!r}")
            continue
        share = overlap(seen.text, tools.facts[fact].text, [seen.said])
        if share >= SAYS_SHARE:
            message = f"gave {fact!r} away ({share:.0%} of it): {_cut(seen.text)}"
            yield Finding(key="never_says", message=message, severity="leak")


def _emotion(wanted: Sequence[str], seen: Observation, _: Instruments) -> Iterator[Finding]:
    for line in seen.lines:
        if line.emotion not in wanted:
            message = f"{line.agent} is {line.emotion or 'without mood'}, not {' or '.join(wanted)}"
            yield Finding(key="emotion", message=message)


def _actions(
    wanted: Sequence[Taken] | None, seen: Observation, _: Instruments
) -> Iterator[Finding]:
    taken = [call for line in seen.lines for call in line.actions]
    shown = ", ".join(_call(*call) for call in taken) or "nothing"
    expected = list(wanted or ())
    same = len(taken) == len(expected)
    if not same or not all(map(_is_call, expected, taken)):
        plan = ", ".join(_call(one.action, one.with_) for one in expected) or "nothing"
        yield Finding(key="actions", message=f"did {shown}; expected {plan}")


def _is_call(wanted: Taken, call: tuple[str, dict[str, Any]]) -> bool:
    name, arguments = call
    return wanted.action == name and _fields_fit(wanted.with_, arguments)


def _fields_fit(wanted: Mapping[str, Any], got: Mapping[str, Any]) -> bool:
    return all(
        got.get(name) in value if isinstance(value, list) else got.get(name) == value
        for name, value in wanted.items()
    )


def _offered(wanted: Sequence[str], seen: Observation, _: Instruments) -> Iterator[Finding]:
    shown = "\n".join(text for kind, text in _prompt(seen) if kind == "actions")
    for name in wanted:
        if not re.search(rf"\b{re.escape(name)}\(", shown):
            message = (
                f"{name!r} is not in the prompt's actions: {shown.strip() or 'there are none'}"
            )
            yield Finding(key="offered", message=message)


def _directive(wanted: Mapping[str, Any], seen: Observation, _: Instruments) -> Iterator[Finding]:
    got = (seen.first.directive if seen.first else None) or {}
    if not _fields_fit(wanted, got):
        yield Finding(key="directive", message=f"is {got}; expected {dict(wanted)}")


def _waits(wanted: bool | None, seen: Observation, _: Instruments) -> Iterator[Finding]:
    directive = (seen.first.directive if seen.first else None) or {}
    if wanted is not None and (directive.get("do") == "wait") != wanted:
        expected = "to wait" if wanted else "a directive"
        yield Finding(key="waits", message=f"is {directive}; expected {expected}")


def _flag(key: str, read: Callable[[Spoken], bool]) -> _Check:
    def check(wanted: bool | None, seen: Observation, _: Instruments) -> Iterator[Finding]:
        for line in seen.lines:
            if wanted is not None and read(line) != wanted:
                why = f" ({line.cause})" if line.cause else ""
                message = f"is {str(not wanted).lower()}{why}: {_cut(line.text)}"
                yield Finding(key=key, message=message)

    return check


def _pages(wanted: Sequence[int], seen: Observation, _: Instruments) -> Iterator[Finding]:
    pages = [page for line in seen.lines for page in line.pages]
    if not set(pages) & set(wanted):
        message = f"rests on pages {pages or 'none'}; expected one of {list(wanted)}"
        yield Finding(key="pages", message=message)


def _in_character(wanted: float | None, seen: Observation, tools: Instruments) -> Iterator[Finding]:
    if tools.judge is None:
        yield Finding(key="in_character", message="this world has no judge of characters")
        return
    for line in seen.lines:
        scores = tools.judge.score(line.text)
        score = scores.get(line.agent, 0.0)
        if wanted is not None and score < wanted:
            best = max(scores, key=lambda agent: scores[agent], default="nobody")
            message = f"{line.agent} is {score:.2f} likely to have said {_cut(line.text)}"
            yield Finding(key="in_character", message=f"{message}; likeliest is {best}")


def _means(wanted: Meaning | None, seen: Observation, tools: Instruments) -> Iterator[Finding]:
    if wanted is None:
        return
    if tools.likeness is None:
        yield Finding(key="means", message="this world has no word vectors to compare with")
        return
    likeness = tools.likeness(seen.text, wanted.like)
    if likeness < wanted.at_least:
        message = f"{likeness:.2f} like {wanted.like!r}, below {wanted.at_least}: {_cut(seen.text)}"
        yield Finding(key="means", message=message)


def _within(key: str, count: Callable[[Observation], int]) -> _Check:
    def check(
        wanted: tuple[int, int] | None, seen: Observation, _: Instruments
    ) -> Iterator[Finding]:
        number = count(seen)
        if wanted is not None and not wanted[0] <= number <= wanted[1]:
            message = f"are {number}, not {wanted[0]} to {wanted[1]}: {_cut(seen.text)}"
            yield Finding(key=key, message=message)

    return check


def _language(wanted: str | None, seen: Observation, _: Instruments) -> Iterator[Finding]:
    spoken = language(seen.text)
    if wanted is not None and spoken != wanted:
        found = spoken or "no language known"
        yield Finding(key="language", message=f"is {found}, not {wanted}: {_cut(seen.text)}")


def _ended(wanted: str | None, seen: Observation, _: Instruments) -> Iterator[Finding]:
    for line in seen.lines:
        if wanted is not None and line.reason != wanted:
            message = f"ended by {line.reason}, not {wanted}: {_cut(line.text)}"
            yield Finding(key="ended", message=message)


def _speakers(wanted: Sequence[str], seen: Observation, _: Instruments) -> Iterator[Finding]:
    spoke = {line.agent for line in seen.lines}
    if spoke != set(wanted):
        names = ", ".join(sorted(spoke)) or "nobody"
        yield Finding(key="speakers", message=f"{names} spoke; expected {', '.join(wanted)}")


def _equal(key: str, read: Callable[[Observation], int | None]) -> _Check:
    def check(wanted: int | None, seen: Observation, _: Instruments) -> Iterator[Finding]:
        got = read(seen)
        if wanted is not None and got != wanted:
            yield Finding(key=key, message=f"is {got}; expected {wanted}")

    return check


def _shown(
    wanted: PromptExpectation | None, seen: Observation, tools: Instruments
) -> Iterator[Finding]:
    if wanted is None:
        return
    shown = plain(" ".join(text for _, text in _prompt(seen)))
    if not shown:
        yield Finding(key="prompt", message="no model was asked, so there is no prompt")
        return
    for part in wanted.contains:
        if plain(part) not in shown:
            yield Finding(key="prompt.contains", message=f"{part!r} was not shown to the model")
    for part in wanted.lacks:
        if plain(part) in shown:
            message = f"{part!r} was shown to the model"
            yield Finding(key="prompt.lacks", message=message, severity="leak")
    lines = [plain(line) for _, text in _prompt(seen) for line in text.splitlines()]
    for start in wanted.lacks_lines:
        if any(line.startswith(plain(start)) for line in lines):
            message = f"a line of the prompt begins with {start!r}"
            yield Finding(key="prompt.lacks_lines", message=message, severity="leak")
    for fact in wanted.facts:
        if fact not in tools.facts or plain(tools.facts[fact].text) not in shown:
            yield Finding(key="prompt.facts", message=f"fact {fact!r} was not shown to the model")
    for fact in wanted.lacks_facts:
        if fact not in tools.facts:
            yield Finding(key="prompt.lacks_facts", message=f"the world has no fact {fact!r}")
        elif plain(tools.facts[fact].text) in shown:
            message = f"fact {fact!r} was shown to the model, which must not know it"
            yield Finding(key="prompt.lacks_facts", message=message, severity="leak")


def _budget(wanted: Budget | None, seen: Observation, _: Instruments) -> Iterator[Finding]:
    if wanted is None:
        return
    severity: Severity = "failure" if wanted.enforce else "warning"
    for key in ("ttft_ms", "prompt_tokens", "completion_tokens"):
        limit = getattr(wanted, key)
        worst = max((getattr(line, key) for line in seen.lines), default=0)
        if limit is not None and worst > limit:
            message = f"{worst:.0f}, over {limit:.0f}"
            yield Finding(key=f"budget.{key}", message=message, severity=severity)


def _prompt(seen: Observation) -> list[tuple[str, str]]:
    return [segment for line in seen.lines for segment in line.origin.segments]


def _cut(text: str) -> str:
    return repr(text if len(text) <= 160 else f"{text[:157]}...")


def _call(name: str, arguments: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


_Check = Callable[[Any, Observation, Instruments], Iterator[Finding]]
_OF_WORDS: dict[str, _Check] = {
    "exact": _exact,
    "contains": _contains,
    "contains_any": _contains_any,
    "lacks": _lacks,
    "canaries": _canaries,
    "matches": _matches,
    "lacks_match": _lacks_match,
    "words": _within("words", lambda seen: len(words(seen.text))),
    "sentences": _within("sentences", lambda seen: num_sentences(seen.text)),
    "language": _language,
    "lines": _within("lines", lambda seen: len(seen.lines)),
    "page": _equal("page", lambda seen: seen.page),
    "waiting": _equal("waiting", lambda seen: seen.waiting),
}
_OF_LINES: dict[str, _Check] = {  # without a line, these would check nothing
    "says": _says,
    "never_says": _never_says,
    "emotion": _emotion,
    "actions": _actions,
    "offered": _offered,
    "directive": _directive,
    "waits": _waits,
    "abstains": _flag("abstains", lambda line: line.abstained),
    "pages": _pages,
    "in_character": _in_character,
    "means": _means,
    "fallback": _flag("fallback", lambda line: line.fallback),
    "ended": _ended,
    "speakers": _speakers,
    "prompt": _shown,
    "budget": _budget,
}
_CHECKS = {**_OF_WORDS, **_OF_LINES}
