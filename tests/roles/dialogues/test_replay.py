from __future__ import annotations

import dataclasses
import io
import itertools
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from protocol import messages as wire
from protocol import play
from protocol.messages import Body
from protocol.service import Peer, Request
from roles.dialogues.errors import RecordingError
from roles.dialogues.hosting import Hosted
from roles.dialogues.recording import Recorder, Told, read_recording
from roles.dialogues.rehearsal import new_house
from roles.dialogues.replay import Comparison, Replay, replay
from roles.dialogues.replaying import as_json, print_replay
from roles.dialogues.runner import check
from roles.dialogues.source import read_file
from roles.dialogues.transcription import script_of
from roles.world import World
from tests.tiny_models import tiny_adapter

PEER = Peer("game", "admin", "local")
KEYS = itertools.count()
SAID = ["Hello?", "Where are the silver spoons?", "And the clock in the hall?", "Good night."]


async def send(recorder: Recorder, kind: str, body: Body) -> list[Body]:
    request = Request(f"r{next(KEYS)}", kind, body)
    return [part async for part in recorder.handle(PEER, request)]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the session lies once a test has recorded it."""
    return tmp_path_factory.mktemp("recorded") / "session.jsonl"


@pytest.fixture
async def recording(host: Hosted, recorded: Path) -> Path:
    """A session of 30 lines and all that goes with a game."""
    if not recorded.is_file():
        await record(host, recorded)
    return recorded


async def record(host: Hosted, path: Path) -> None:
    host.manager.house.store.path = path.with_name("game.sqlite")  # so that it can be saved
    recorder = Recorder(host.manager.house, host.manager, path)
    scene = play.SceneRequest(scene="room", place="hall", present=["anna", "ben"])
    await send(recorder, "scene", scene)
    for number in range(14):
        agent = ("anna", "ben")[number % 2]
        say = wire.SayRequest(agent=agent, text=SAID[number % 4], scene="room")
        await send(recorder, "say", say)
        if number % 4 == 0:
            event = play.EventRequest(kind="lamp_out", text=f"Lamp {number} goes out.")
            await send(recorder, "event", event)
            await send(recorder, "tick", wire.TickRequest(now=60.0 * number))
    await send(recorder, "save", play.SaveRequest(slot="middle"))
    for number in range(10):
        say = wire.SayRequest(agent="ben", text=f"{SAID[number % 4]} Number {number}.")
        await send(recorder, "say", say)
    await send(recorder, "ask", wire.AskRequest(agent="salt_almanac", text="Zebra?"))
    await send(recorder, "converse", wire.ConverseRequest(scene="room", text="Anna, stay."))
    recorder.close()


async def test_thirty_recorded_lines_replay_to_the_same_words(
    host: Hosted, recording: Path
) -> None:
    played = await replay(read_recording(recording), host)
    assert len(played.lines) == 30
    assert played.num_same == 30
    assert played.first_difference is None
    assert played.passed
    assert played.changed_files == played.changed_adapters == ()


async def test_another_adapter_is_named_as_the_cause(
    host: Hosted, recording: Path, tmp_path: Path
) -> None:
    base = Path(host.world.base_path(host.world.spec.tiers.npc.base))
    other = tiny_adapter(tmp_path / "ben2", base, seed=77)
    await host.manager.house.engines["npc"].serve("ben", other)
    played = await replay(read_recording(recording), host)
    first = played.first_difference
    assert first is not None
    assert first.recorded.agent == "ben"
    assert first.causes[0].startswith("the adapter of ben was ")
    assert played.changed_adapters == ("npc/ben",)
    assert not played.passed


async def test_a_changed_persona_is_named_with_its_file(host: Hosted, recording: Path) -> None:
    file = host.world.root / "npcs" / "anna.toml"
    text = file.read_text(encoding="utf-8").replace("count every spoon", "lose every spoon")
    file.write_text(text, encoding="utf-8")
    changed = dataclasses.replace(host, world=World.load(host.world.root))
    played = await replay(read_recording(recording), changed)
    first = played.first_difference
    assert first is not None
    assert first.recorded.agent == "anna"
    assert first.causes[0].startswith("the prompt's persona was ")
    assert "npcs/anna.toml" in first.causes[0]


@pytest.mark.parametrize(
    ("now", "shown"),
    [
        ({"emotion": "wary"}, "[[-amused-]{+wary+}] Good night."),
        ({"text": "Good morning."}, "[amused] Good [-night-]{+morning+}."),
        ({"actions": [{"name": "wait", "arguments": {}}]}, "Good night.{+ > wait {}+}"),
    ],
    ids=["mood", "words", "actions"],
)
def test_whatever_differs_is_shown_also_without_colours(now: dict[str, object], shown: str) -> None:
    told = Told(line="1", agent="ben", text="Good night.", emotion="amused")
    other = dataclasses.replace(told, **now)  # type: ignore[arg-type]
    line = Comparison(number=1, recorded=told, replayed=other)
    played = Replay(lines=(line,), changed_files=(), changed_adapters=(), refusals=())
    page = io.StringIO()
    print_replay(played, Console(file=page, soft_wrap=True))
    assert shown in page.getvalue()
    first = as_json(played)["first_difference"]
    assert first["recorded"] != first["replayed"]


async def test_another_sampler_is_named(host: Hosted, recording: Path) -> None:
    spec = host.world.spec.model_copy(update={"seed": 4321})
    changed = dataclasses.replace(host, world=dataclasses.replace(host.world, spec=spec))
    played = await replay(read_recording(recording), changed)
    first = played.first_difference
    assert first is not None
    assert first.causes[0].startswith("the sampler's seed was ")


async def test_a_line_taken_back_replays_as_far_as_it_was_heard(
    host: Hosted, tmp_path: Path
) -> None:
    path = tmp_path / "cancelled.jsonl"
    recorder = Recorder(host.manager.house, host.manager, path)
    say = wire.SayRequest(agent="anna", text="Tell me everything about the house.")
    answers = recorder.handle(PEER, Request("taken-back", "say", say))
    heard = ""
    async for part in answers:
        heard += part.text if isinstance(part, wire.Delta) else ""
        if heard:
            break
    await answers.aclose()  # type: ignore[attr-defined]  # an async generator
    await send(recorder, "say", wire.SayRequest(agent="anna", text="And then?"))
    recorder.close()
    read = read_recording(path)
    assert read.entries[0].cancelled
    assert read.entries[0].heard == heard
    assert (await replay(read, host)).passed


async def test_a_recording_becomes_a_script_that_passes_and_can_fail(
    host: Hosted, tmp_path: Path
) -> None:
    path = tmp_path / "session.jsonl"
    recorder = Recorder(host.manager.house, host.manager, path)
    scene = play.SceneRequest(scene="room", place="hall", present=["anna", "ben"])
    await send(recorder, "scene", scene)
    for number, text in enumerate(SAID):  # one of two in private, though a scene goes on
        say = wire.SayRequest(agent="anna", text=text, scene="room" if number % 2 else "")
        await send(recorder, "say", say)
    recorder.close()
    recording = read_recording(path)
    recording.entries[2].lines[0].origin.sampler["seed"] += 1  # as after a second attempt
    house = new_house(host.world, host.manager.house.engines)
    file = tmp_path / "recorded.yaml"
    file.write_text(script_of(recording, house, "recorded"), encoding="utf-8")
    house.store.close()
    verdict = await check(read_file(file), host.world, host.stages(), host.instruments)
    assert verdict.passed
    assert verdict.num_lines == len(SAID)
    table = yaml.safe_load(file.read_text(encoding="utf-8"))
    for turn in table["turns"][1:]:
        turn["seed"] += 1
    file.write_text(yaml.safe_dump(table, allow_unicode=True), encoding="utf-8")
    verdict = await check(read_file(file), host.world, host.stages(), host.instruments)
    assert not verdict.passed


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["{"], ":1 is not a recording's line"),
        ([json.dumps({"head": {"recording": 9}})], "version 9; this program reads 1"),
        ([json.dumps({"end": 3, "at_s": 0, "lines": []})], "KeyError"),
        ([], "holds no recording"),
    ],
)
def test_a_damaged_recording_names_the_line(tmp_path: Path, rows: list[str], message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(RecordingError, match=r"bad\.jsonl") as caught:
        read_recording(path)
    assert message in str(caught.value)


async def test_a_damaged_state_is_one_clear_error(host: Hosted, recording: Path) -> None:
    read = read_recording(recording)
    damaged = dataclasses.replace(read, head=dataclasses.replace(read.head, state="AAAA"))
    with pytest.raises(RecordingError, match="state is damaged"):
        await replay(damaged, host)
