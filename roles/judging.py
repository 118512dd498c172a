"""Judges a world's models on situations written by hand, none of them from the corpus.

`judging/npc.yaml` holds questions to characters, `judging/director.yaml` situations for the
director with the answers a reasonable author accepts. Prompts, grammars and sampling are those
of live play.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engine.backend import Backend
from engine.requests import Delta, Finished, GenerationRequest, Message, SamplingParams
from roles.director import WAIT, event_due, wrong_way
from roles.errors import RolesError
from roles.grammar import read_yaml
from roles.leaning import leaning
from roles.npc import sampling_params
from roles.offers import directive_grammar, offer, reply_grammar
from roles.prompt import Notes, director_system, director_turn, npc_system, turn
from roles.world import World

_REPLY = re.compile(r"\[(?P<mood>[a-z_]+)\] (?P<words>[^\n]*)(?P<actions>(?:\n> .*)*)", re.DOTALL)
_OFFER = re.compile(r"(?P<name>[a-z_]+)\((?P<arguments>.*)\)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One prompt and what its answer must be.

    Attributes:
        fault: says what is wrong with an answer; "" if nothing is.
    """

    name: str
    messages: tuple[Message, ...]
    sampling: SamplingParams
    adapter: str | None
    fault: Callable[[str], str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A trial's answer; `fault` is empty where it is right."""

    trial: Trial
    answer: str
    fault: str


def npc_trials(world: World) -> list[Trial]:
    """The questions of `judging/npc.yaml`."""
    cases = read_yaml(world.root / "judging" / "npc.yaml")["questions"]
    assert isinstance(cases, list)
    return [_npc_trial(world, case, number) for number, case in enumerate(cases)]


def director_trials(world: World) -> list[Trial]:
    """The situations of `judging/director.yaml`."""
    cases = read_yaml(world.root / "judging" / "director.yaml")["situations"]
    assert isinstance(cases, list)
    return [_director_trial(world, case) for case in cases]


async def judge(
    backend: Backend, adapters: Mapping[str, Path], trials: Sequence[Trial]
) -> list[Verdict]:
    """Run every trial at once on a backend that isn't started yet, and close it.

    Raises:
        RolesError: the engine could not answer one.
    """
    await backend.start()
    try:
        await backend.wait_ready()
        for name, path in adapters.items():
            await backend.load_adapter(name, path)
        answers = await asyncio.gather(*(_answer(backend, trial) for trial in trials))
    finally:
        await backend.close()
    return [
        Verdict(trial=trial, answer=answer, fault=trial.fault(answer))
        for trial, answer in zip(trials, answers, strict=True)
    ]


async def _answer(backend: Backend, trial: Trial) -> str:
    text = ""
    request = GenerationRequest(
        request_id=trial.name, prompt=trial.messages, adapter=trial.adapter, sampling=trial.sampling
    )
    async for event in backend.submit(request):
        if isinstance(event, Delta):
            text += event.text
        elif isinstance(event, Finished) and event.reason == "error":
            raise RolesError(f"trial {trial.name} could not be answered: {event.error}")
    return text


def _npc_trial(world: World, case: Mapping[str, Any], number: int) -> Trial:
    spec = world.npcs[case["npc"]]
    notes = Notes(
        place=case.get("place", ""),
        present=case.get("present", ()),
        facts=case.get("facts", ()),
        memories=case.get("memories", ()),
        mood=case.get("mood", ""),
        goal=case.get("goal", ""),
        actions=case.get("actions", ()),
    )
    said = turn(case.get("you", world.spec.player), case["ask"], notes)
    offers = [_offer(world, text) for text in case.get("actions", ())]
    messages = (npc_system(spec.name, spec.role, spec.persona), said)
    return Trial(
        name=f"{case['npc']}: {case['ask']} ({number})",
        messages=messages,
        sampling=replace(
            sampling_params(world.spec.tiers.npc.sampling, spec.sampling, number),
            constraint=reply_grammar(world.spec.emotions, offers),
            logit_bias=leaning(world, offers, messages),
        ),
        adapter=case["npc"],
        fault=lambda answer: npc_fault(case, answer),
    )


def npc_fault(case: Mapping[str, Any], answer: str) -> str:
    """What is wrong with a character's answer to a case of `npc.yaml`; "" if nothing is."""
    match = _REPLY.fullmatch(answer)
    if match is None:
        return "is not a reply"
    words = match["words"]
    if "has" in case and not any(_says(words, wanted) for wanted in case["has"]):
        return f"lacks {' or '.join(map(str, case['has']))}"
    if said := [unwanted for unwanted in case.get("hasnt", ()) if _says(words, unwanted)]:
        return f"says {said[0]}"
    if case.get("mood_is", match["mood"]) != match["mood"]:
        return f"is {match['mood']}, not {case['mood_is']}"
    if "action" in case and match["actions"].strip().removeprefix("> ") != case["action"]:
        return f"does {match['actions'].strip() or 'nothing'}, not {case['action'] or 'nothing'}"
    return ""


def _says(words: str, wanted: object) -> bool:
    return re.search(rf"\b{re.escape(str(wanted))}", words, re.IGNORECASE) is not None


def _offer(world: World, text: str) -> Any:
    match = _OFFER.fullmatch(text)
    assert match is not None, text
    choices = {}
    for argument in filter(None, match["arguments"].split(", ")):
        name, _, values = argument.partition("=")
        choices[name] = values.split("|")
    return offer(world, match["name"], choices)


def _director_trial(world: World, case: Mapping[str, Any]) -> Trial:
    spec = world.spec
    asked = director_turn(
        tension=case["tension"],
        wanted=case["wanted"],
        summary=case.get("story", ""),
        state=case.get("state", ()),
        events=case["events"],
    )
    closed = {"event": wrong_way(world, case["tension"], case["wanted"])}
    return Trial(
        name=case["name"],
        messages=(director_system(spec.title, spec.premise, world.directive_lines()), asked),
        sampling=SamplingParams(
            max_tokens=72, temperature=0.0, constraint=directive_grammar(world, closed)
        ),
        adapter="director",
        fault=lambda answer: director_fault(case, _paced(world, case, answer)),
    )


def _paced(world: World, case: Mapping[str, Any], answer: str) -> str:
    """What comes of an answer in play: where the model waits, the author's curve may not."""
    if answer != json.dumps(WAIT):
        return answer
    return json.dumps(event_due(world, case["tension"], case["wanted"]) or WAIT)


def director_fault(case: Mapping[str, Any], answer: str) -> str:
    """Why no accepted answer of a case of `director.yaml` matches; "" if one does."""
    try:
        directive = json.loads(answer)
    except ValueError:
        return "is not JSON"
    if any(_matches(accepted, directive) for accepted in case["accept"]):
        return ""
    return f"is none of {case['accept']}"


def _matches(accepted: Mapping[str, Any], directive: Mapping[str, Any]) -> bool:
    return all(
        directive.get(key) in (value if isinstance(value, list) else [value])
        for key, value in accepted.items()
    )
