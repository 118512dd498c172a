from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from protocol.administration import RehearseRequest
from protocol.errors import Code, Refusal
from protocol.messages import Body, Ok
from roles.dialogues.hosting import Hosted
from roles.dialogues.instruments import read_instruments
from roles.dialogues.runner import Outcome, Verdict, check
from roles.dialogues.source import Source
from roles.world import World
from tests.roles.dialogues.conftest import WriteScripts

STORY = """\
name: story
seeds: 2
scene:
  present: [anna, ben]
  place: hall
  now: 60
  memories: {anna: [The Guest broke a porcelain plate.]}
turns:
  - say: What did I do to the porcelain plate, and where are the silver spoons?
    to: anna
    expect:
      fallback: false
      prompt: {contains: [broke a porcelain plate], facts: spoons, lacks_facts: key}
  - say: What did I ask of Anna about the silver spoons?
    to: ben
    expect: {prompt: {lacks_facts: spoons, contains: [where are the silver spoons]}}
  - event: lamp_out
    with: {place: the hall}
    expect: {waiting: 1}
  - say: Does the key hang behind the lamp?
    to: ben
    actions: [{action: give, with: {item: [key]}}]
    expect: {offered: give, prompt: {facts: key}}
  - tick: 120
    expect: {prompt: {contains: "Event: The lamp goes out in the hall."}, fallback: false}
  - read: salt_almanac
    expect: {page: 1, contains: Marrow Point}
  - read: salt_almanac
    page: 99
    expect: {refused: bad_request}
  - ask: Zebra football?
    to: salt_almanac
    expect: {abstains: true}
  - save: here
  - say: My dog is called Zabaglione.
    to: ben
    expect: {fallback: false}
  - restore: here
  - say: What is my dog called?
    to: ben
    expect: {prompt: {lacks: Zabaglione}}
  - converse: Anna, is it late?
    max_lines: 1
    expect: {speakers: anna}
"""
HURRY = """\
name: hurry
scene: {present: [ben], deadline_ms: 0}
turns:
  - say: Hello?
    expect: {fallback: true, contains_any: [Hm., Well now.]}
"""
STRANGER = """\
name: stranger
turns:
  - say: Hello?
    to: anne
    expect: {refused: unknown_agent}
"""
WRONG = """\
name: wrong
scene: {present: [anna]}
turns:
  - say: Hello?
    expect: {fallback: true}
"""

ONE_LINE = """\
name: one
seed: 1
turns:
  - {say: "Hello?", to: anna, expect: {fallback: false}}
"""
UP_TO_FOUR = """\
name: four
seed: 2
scene: {present: [anna, ben]}
turns:
  - {converse: "Hello?", max_lines: 4, expect: {speakers: anna}}
"""
TWO_LINES = """\
name: two
seed: 3
turns:
  - {say: "Hello?", to: anna, expect: {fallback: false}}
  - {say: "Hello again?", to: anna, expect: {fallback: false}}
"""


async def played(host: Hosted, sources: list[Source], concurrency: int) -> Verdict:
    return await check(
        sources, host.world, host.stages(), host.instruments, concurrency=concurrency
    )


def told(outcome: Outcome) -> list[str]:
    return [finding.message for run in outcome.runs for _, finding in run.findings]


async def test_a_story_goes_through_all_kinds_of_turns(
    host: Hosted, write_scripts: WriteScripts
) -> None:
    verdict = await played(host, write_scripts("---\n".join([STORY, HURRY, STRANGER])), 16)
    assert [told(outcome) for outcome in verdict.outcomes] == [[], [], []]
    assert verdict.passed
    assert [len(outcome.runs) for outcome in verdict.outcomes] == [2, 1, 1]


async def test_words_do_not_depend_on_what_else_is_played(
    host: Hosted, write_scripts: WriteScripts
) -> None:
    sources = write_scripts("---\n".join([STORY, HURRY, WRONG]))
    alone = await played(host, sources, 1)
    together = await played(host, sources, 16)
    again = await played(host, sources, 16)
    assert alone.digest == together.digest == again.digest
    other = await played(host, [_with_seed(source, 99) for source in sources], 16)
    assert other.digest != alone.digest


async def test_a_failure_names_the_turn_and_fails_the_verdict(
    host: Hosted, write_scripts: WriteScripts
) -> None:
    verdict = await played(host, write_scripts("---\n".join([STORY, WRONG])), 4)
    assert [outcome.passed for outcome in verdict.outcomes] == [True, False]
    assert not verdict.passed
    ((turn, finding),) = verdict.outcomes[1].runs[0].findings
    assert (turn.index, finding.key) == (0, "fallback")


async def test_rehearsals_leave_the_running_game_as_it_was(
    host: Hosted, write_scripts: WriteScripts
) -> None:
    store = host.manager.house.store
    before = list(store.database.iterdump())
    await played(host, write_scripts(STORY), 4)
    assert list(store.database.iterdump()) == before
    assert host.manager.house.transcript.newest(None, None, 10) == []


async def test_the_longest_begin_first_and_come_back_in_their_files_order(
    world: World, write_scripts: WriteScripts
) -> None:
    begun: list[int] = []

    class Silent:
        async def request(self, kind: str, body: Body) -> Body:
            if not isinstance(body, RehearseRequest):
                raise Refusal(Code.FAILED, "nobody is here")
            if body.op == "open":
                begun.append(body.seed)
            return Ok()

    @asynccontextmanager
    async def empty_stage() -> AsyncIterator[Silent]:
        yield Silent()

    sources = write_scripts("---\n".join([ONE_LINE, UP_TO_FOUR, TWO_LINES]))
    verdict = await check(sources, world, empty_stage, read_instruments(world), concurrency=1)
    assert begun == [2, 3, 1]
    assert [outcome.source.script.name for outcome in verdict.outcomes] == ["one", "four", "two"]


def _with_seed(source: Source, seed: int) -> Source:
    return dataclasses.replace(source, script=source.script.model_copy(update={"seed": seed}))
