from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console

from roles.dialogues import goldens, report
from roles.dialogues.checking import CheckConfig, run_check
from roles.dialogues.hosting import Hosted
from roles.dialogues.runner import Verdict, check
from roles.dialogues.selection import select
from roles.dialogues.source import Source, read_file
from roles.world import World
from tests.roles.dialogues.conftest import WriteScripts
from tests.tiny_models import tiny_adapter

SCRIPTS = """\
# A comment that stays.
name: empty_golden
scene: {present: [anna], place: hall}
turns:
  - say: Hello?      # said softly
    expect: {exact: , emotion: [calm, afraid]}
  - say: Who are you?
    expect:
      exact:
---
name: old_golden
scene: {present: [ben], place: hall}
turns:
  - say: Hello?
    expect: {exact: "old: words, \\"quoted\\"", emotion: [calm, afraid]}   # kept
"""


async def played(host: Hosted, sources: list[Source]) -> Verdict:
    return await check(sources, host.world, host.stages(), host.instruments)


def text_of(verdict: Verdict, *, verbose: bool = False) -> str:
    console = Console(file=io.StringIO(), width=200, soft_wrap=True)
    report.print_verdict(verdict, console, verbose=verbose)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


async def test_goldens_are_written_in_place_and_hold_from_then_on(
    host: Hosted, write_scripts: WriteScripts
) -> None:
    sources = write_scripts(SCRIPTS)
    verdict = await played(host, sources)
    assert not verdict.passed
    found = list(goldens.rewritings(verdict))
    assert [(one.source.script.name, one.turn, one.old) for one in found] == [
        ("empty_golden", 0, None),
        ("empty_golden", 1, None),
        ("old_golden", 0, 'old: words, "quoted"'),
    ]
    goldens.write(found)
    text = sources[0].file.read_text(encoding="utf-8")
    for kept in ("# A comment that stays.", "# said softly", "# kept", "emotion: [calm, afraid]"):
        assert kept in text
    again = await played(host, read_file(sources[0].file))
    assert again.passed
    assert list(goldens.rewritings(again)) == []


async def test_a_broken_golden_shows_the_diff_the_prompt_and_what_has_changed(
    host: Hosted, write_scripts: WriteScripts, tmp_path: Path
) -> None:
    sources = write_scripts(SCRIPTS)
    verdict = await played(host, sources)
    goldens.write(goldens.rewritings(verdict))
    goldens.note(verdict.outcomes)
    sources = read_file(sources[0].file)
    base = Path(host.world.base_path(host.world.spec.tiers.npc.base))
    await host.manager.house.engines["npc"].serve(
        "ben", tiny_adapter(tmp_path / "other", base, seed=5)
    )
    verdict = await played(host, sources)
    assert [outcome.passed for outcome in verdict.outcomes] == [True, False]
    told = text_of(verdict)
    assert "house.yaml:15: exact: the words differ" in told
    assert "adapter was " in told
    assert "prompt was" not in told
    assert "You are Ben, the gardener." in told
    assert "1 passed, 1 failed" in told


async def test_reports_for_machines_say_the_same(
    host: Hosted, write_scripts: WriteScripts, tmp_path: Path
) -> None:
    verdict = await played(host, write_scripts(SCRIPTS))
    table = json.loads(json.dumps(report.as_json(verdict)))
    assert table["failed"] == ["house::empty_golden", "house::old_golden"]
    assert table["outcomes"][1]["findings"][0]["key"] == "exact"
    assert len(table["outcomes"][0]["lines"]) == 2
    report.write_junit(verdict, tmp_path / "out" / "junit.xml")
    suite = ElementTree.parse(tmp_path / "out" / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "2")
    assert "You are Ben" in (suite.findtext("testcase[2]/failure") or "")


async def test_the_command_updates_and_then_passes(
    world: World, write_scripts: WriteScripts
) -> None:
    file = write_scripts(SCRIPTS)[0].file
    config = CheckConfig(world=str(world.root), scripts=file)
    console = Console(file=io.StringIO())
    assert not (await run_check(config, console)).passed
    assert (await run_check(dataclasses.replace(config, update=True), console)).passed
    assert (await run_check(config, console)).passed
    assert (file.parent / goldens.FILE).is_file()


def test_scripts_are_selected_by_words(write_scripts: WriteScripts) -> None:
    sources = write_scripts(SCRIPTS)
    assert [s.script.name for s in select(sources, "anna or nobody")] == ["empty_golden"]
    assert [s.script.name for s in select(sources, "house and not anna")] == ["old_golden"]


async def test_a_golden_of_another_machine_only_warns_unless_more_has_changed(
    host: Hosted, write_scripts: WriteScripts
) -> None:
    verdict = await played(host, write_scripts(SCRIPTS))
    goldens.note(verdict.outcomes)
    assert not goldens.forgive_rounding(verdict).passed  # the same machine
    file = verdict.outcomes[0].source.file.parent / goldens.FILE
    noted = json.loads(file.read_text(encoding="utf-8"))
    for made in noted.values():
        made["machine"] = "a machine of long ago"
    file.write_text(json.dumps(noted), encoding="utf-8")
    assert goldens.forgive_rounding(verdict).passed
    noted["house::old_golden::0"]["adapter"] = "0" * 64
    file.write_text(json.dumps(noted), encoding="utf-8")
    forgiven = goldens.forgive_rounding(verdict)
    assert [outcome.passed for outcome in forgiven.outcomes] == [True, False]
