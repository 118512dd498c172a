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
_TELLING_WORDS = 6  # fewer words may hold none that tells their language


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
        deaf: why the world's judge can't be used here; such checks then only warn.
    """

    facts: Mapping[str, Fact] = field(default_factory=dict)
    judge: Judge | None = None
    likeness: Likeness | None = None
    deaf: str = ""


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


_Found = Iterator[str | Finding]  # a sentence, where key and severity are the expectation's own
_Check = Callable[[Any, Observation, Instruments], _Found]


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
        value = getattr(wanted, key)
        if value is not None or key == "exact":
            severity: Severity = "leak" if key in _LEAKS else "failure"
            for found in _CHECKS[key](value, seen, instruments):
                if isinstance(found, str):
                    yield Finding(key=key, message=found, severity=severity)
                else:
                    yield found


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


# --- one function per key: from what is wanted and what came to what is wrong --------------


def _exact(wanted: str | None, seen: Observation, _: Instruments) -> _Found:
    if wanted != seen.text:
        message = "the words differ"
        if wanted is None:
            message = "has no words yet; run check --update to write them"
        yield Finding(key="exact", message=message, wanted=wanted or "", got=seen.text)


def _contains(wanted: Sequence[str], seen: Observation, _: Instruments) -> _Found:
    for part in wanted:
        if plain(part) not in plain(seen.text):
            yield f"{part!r} is not in {_cut(seen.text)}"


def _contains_any(wanted: Sequence[str], seen: Observation, _: Instruments) -> _Found:
    if not any(plain(part) in plain(seen.text) for part in wanted):
        yield f"none of {', '.join(map(repr, wanted))} is in {_cut(seen.text)}"


def _lacks(wanted: Sequence[str], seen: Observation, _: Instruments) -> _Found:
    for part in wanted:
        if plain(part) in plain(seen.text):
            yield f"{part!r} is in {_cut(seen.text)}"


def _canaries(wanted: Sequence[str], seen: Observation, _: Instruments) -> _Found:
    everything = plain(" ".join([seen.text, *(line.raw for line in seen.lines)]))
    for part in wanted:
        if plain(part) in everything:
            yield f"{part!r} came out: {_cut(seen.text)}"


def _matches(wanted: Sequence[str], seen: Observation, _: Instruments) -> _Found:
    for pattern in wanted:
        if not re.search(pattern, seen.text):
            yield f"nothing matches /{pattern}/ in {_cut(seen.text)}"


def _lacks_match(wanted: Sequence[str], seen: Observation, _: Instruments) -> _Found:
    for pattern in wanted:
        if found := re.search(pattern, seen.text):
            yield f"{found[0]!r} matches /{pattern}/ in {_cut(seen.text)}"


def _says(wanted: Sequence[str], seen: Observation, tools: Instruments) -> _Found:
    for name in wanted:
        if (share := _share_told(name, seen, tools)) < SAYS_SHARE:
            told = f"{share:.0%} of {name!r} is in {_cut(seen.text)}"
            yield f"{told}; the fact: {_fact(name, tools)}"


def _never_says(wanted: Sequence[str], seen: Observation, tools: Instruments) -> _Found:
    for name in wanted:
        if (share := _share_told(name, seen, tools)) >= SAYS_SHARE:
            yield f"gave {name!r} away ({share:.0%} of it): {_cut(seen.text)}"


def _share_told(name: str, seen: Observation, tools: Instruments) -> float:
    """Share of a fact's content words that are told, those of the question left out."""
    return overlap(seen.text, _fact(name, tools), [seen.said])


def _fact(name: str, tools: Instruments) -> str:
    """A fact's text; "" where a world that is compared lacks it: it can't be told, nor leak."""
    return tools.facts[name].text if name in tools.facts else ""


def _emotion(wanted: Sequence[str], seen: Observation, _: Instruments) -> _Found:
    for line in seen.lines:
        if line.emotion not in wanted:
            yield f"{line.agent} is {line.emotion or 'without mood'}, not {' or '.join(wanted)}"


def _actions(wanted: Sequence[Taken], seen: Observation, _: Instruments) -> _Found:
    taken = [call for line in seen.lines for call in line.actions]
    if len(taken) != len(wanted) or not all(map(_is_call, wanted, taken)):
        shown = ", ".join(_call(*call) for call in taken) or "nothing"
        plan = ", ".join(_call(one.action, one.with_) for one in wanted) or "nothing"
        yield f"did {shown}; expected {plan}"


def _is_call(wanted: Taken, call: tuple[str, dict[str, Any]]) -> bool:
    name, arguments = call
    return wanted.action == name and _fields_fit(wanted.with_, arguments)


def _fields_fit(wanted: Mapping[str, Any], got: Mapping[str, Any]) -> bool:
    return all(
        got.get(name) in value if isinstance(value, list) else got.get(name) == value
        for name, value in wanted.items()
    )


def _offered(wanted: Sequence[str], seen: Observation, _: Instruments) -> _Found:
    shown = "\n".join(text for kind, text in _prompt(seen) if kind == "actions")
    for name in wanted:
        if not re.search(rf"\b{re.escape(name)}\(", shown):
            yield f"{name!r} is not in the prompt's actions: {shown.strip() or 'there are none'}"


def _directive(wanted: Mapping[str, Any], seen: Observation, _: Instruments) -> _Found:
    if not _fields_fit(wanted, got := _ordered(seen)):
        yield f"is {got}; expected {dict(wanted)}"


def _waits(wanted: bool, seen: Observation, _: Instruments) -> _Found:
    got = _ordered(seen)
    if (got.get("do") == "wait") != wanted:
        yield f"is {got}; expected {'to wait' if wanted else 'a directive'}"


def _ordered(seen: Observation) -> dict[str, Any]:
    return (seen.first.directive if seen.first else None) or {}


def _flag(read: Callable[[Spoken], bool]) -> _Check:
    def check(wanted: bool, seen: Observation, _: Instruments) -> _Found:
        for line in seen.lines:
            if read(line) != wanted:
                why = f" ({line.cause})" if line.cause else ""
                yield f"is {str(not wanted).lower()}{why}: {_cut(line.text)}"

    return check


def _pages(wanted: Sequence[int], seen: Observation, _: Instruments) -> _Found:
    pages = [page for line in seen.lines for page in line.pages]
    if not set(pages) & set(wanted):
        yield f"rests on pages {pages or 'none'}; expected one of {list(wanted)}"


def _in_character(wanted: float, seen: Observation, tools: Instruments) -> _Found:
    if tools.judge is None:
        message = tools.deaf or "this world has no judge of characters"
        yield Finding(
            key="in_character", message=message, severity="warning" if tools.deaf else "failure"
        )
        return
    for line in seen.lines:
        scores = tools.judge.score(line.text)
        if (score := scores.get(line.agent, 0.0)) < wanted:
            best = max(scores, key=lambda agent: scores[agent], default="nobody")
            told = f"{line.agent} is {score:.2f} likely to have said {_cut(line.text)}"
            yield f"{told}; likeliest is {best}"


def _means(wanted: Meaning, seen: Observation, tools: Instruments) -> _Found:
    if tools.likeness is None:
        yield "this world has no word vectors to compare with"
    elif (likeness := tools.likeness(seen.text, wanted.like)) < wanted.at_least:
        yield f"{likeness:.2f} like {wanted.like!r}, below {wanted.at_least}: {_cut(seen.text)}"


def _within(count: Callable[[Observation], int]) -> _Check:
    def check(wanted: tuple[int, int], seen: Observation, _: Instruments) -> _Found:
        if not wanted[0] <= (number := count(seen)) <= wanted[1]:
            yield f"are {number}, not {wanted[0]} to {wanted[1]}: {_cut(seen.text)}"

    return check


def _language(wanted: str, seen: Observation, _: Instruments) -> _Found:
    spoken = language(seen.text)
    untold = not spoken and len(words(seen.text)) < _TELLING_WORDS
    if spoken != wanted and not untold:
        yield f"is {spoken or 'no language known'}, not {wanted}: {_cut(seen.text)}"


def _ended(wanted: str, seen: Observation, _: Instruments) -> _Found:
    for line in seen.lines:
        if line.reason != wanted:
            yield f"ended by {line.reason}, not {wanted}: {_cut(line.text)}"


def _speakers(wanted: Sequence[str], seen: Observation, _: Instruments) -> _Found:
    spoke = {line.agent for line in seen.lines}
    if spoke != set(wanted):
        yield f"{', '.join(sorted(spoke)) or 'nobody'} spoke; expected {', '.join(wanted)}"


def _equal(read: Callable[[Observation], int | None]) -> _Check:
    def check(wanted: int, seen: Observation, _: Instruments) -> _Found:
        if (got := read(seen)) != wanted:
            yield f"is {got}; expected {wanted}"

    return check


def _shown(wanted: PromptExpectation, seen: Observation, tools: Instruments) -> _Found:
    shown = plain(" ".join(text for _, text in _prompt(seen)))
    if not shown:
        yield "no model was asked, so there is no prompt"
        return
    lines = [plain(line) for _, text in _prompt(seen) for line in text.splitlines()]
    for part in wanted.contains:
        if plain(part) not in shown:
            yield Finding(key="prompt.contains", message=f"{part!r} was not shown to the model")
    for fact in wanted.facts:
        if fact not in tools.facts or plain(_fact(fact, tools)) not in shown:
            yield Finding(key="prompt.facts", message=f"fact {fact!r} was not shown to the model")
    for part in wanted.lacks:
        if plain(part) in shown:
            yield _leaked("prompt.lacks", f"{part!r} was shown to the model")
    for start in wanted.lacks_lines:
        if any(line.startswith(plain(start)) for line in lines):
            yield _leaked("prompt.lacks_lines", f"a line of the prompt begins with {start!r}")
    for fact in wanted.lacks_facts:
        if fact in tools.facts and plain(_fact(fact, tools)) in shown:
            message = f"fact {fact!r} was shown to the model, which must not know it"
            yield _leaked("prompt.lacks_facts", message)


def _leaked(key: str, message: str) -> Finding:
    return Finding(key=key, message=message, severity="leak")


def _budget(wanted: Budget, seen: Observation, _: Instruments) -> _Found:
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


_LEAKS = {"canaries", "never_says"}
_OF_WORDS: dict[str, _Check] = {
    "exact": _exact,
    "contains": _contains,
    "contains_any": _contains_any,
    "lacks": _lacks,
    "canaries": _canaries,
    "matches": _matches,
    "lacks_match": _lacks_match,
    "words": _within(lambda seen: len(words(seen.text))),
    "sentences": _within(lambda seen: num_sentences(seen.text)),
    "language": _language,
    "lines": _within(lambda seen: len(seen.lines)),
    "page": _equal(lambda seen: seen.page),
    "waiting": _equal(lambda seen: seen.waiting),
}
_OF_LINES: dict[str, _Check] = {  # without a line, these would check nothing
    "says": _says,
    "never_says": _never_says,
    "emotion": _emotion,
    "actions": _actions,
    "offered": _offered,
    "directive": _directive,
    "waits": _waits,
    "abstains": _flag(lambda line: line.abstained),
    "pages": _pages,
    "in_character": _in_character,
    "means": _means,
    "fallback": _flag(lambda line: line.fallback),
    "ended": _ended,
    "speakers": _speakers,
    "prompt": _shown,
    "budget": _budget,
}
_CHECKS = {**_OF_WORDS, **_OF_LINES}
