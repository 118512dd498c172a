"""What was seen can be written down and seen again; broken files are named, line and all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protocol.errors import Refusal
from protocol.messages import Welcome
from protocol.play import SavesRequest
from tests.tui.conftest import Hosted, console_on
from tests.tui.evening import seen
from tui.errors import RecordingError
from tui.recording import Recorder, ReplayLink, read_recording
from tui.seen import Seen
from tui.store import Store


def record(path: Path, things: list[Seen]) -> None:
    recorder = Recorder(path)
    for thing in things:
        recorder(thing)
    recorder.close()


def test_a_recording_gives_back_what_was_seen(tmp_path: Path) -> None:
    things = seen()
    record(tmp_path / "r.jsonl", things)
    again = read_recording(tmp_path / "r.jsonl")
    assert [(t.name, t.body, t.about) for t in again] == [(t.name, t.body, t.about) for t in things]
    first, second = Store(), Store()
    for one, other in zip(things, again, strict=True):
        first.see(one)
        second.see(other)
    assert list(first.log) == list(second.log)
    assert first.lines == second.lines


def test_a_recording_holds_no_session_secret(tmp_path: Path) -> None:
    welcome = Welcome(session="s", token="very-secret", role="admin")
    record(tmp_path / "r.jsonl", [Seen(time_s=1.0, name="connected", body=welcome)])
    assert "very-secret" not in (tmp_path / "r.jsonl").read_text()


async def test_a_live_session_replays_to_the_same_lines(hosted: Hosted, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "live.jsonl")
    async with console_on(hosted.connection, record=recorder) as console:
        await console.go(2)
        await console.type("hello")
        live = console.session.store
        await console.until(
            lambda: any(line.state == "spoken" for line in live.lines.values()), "spoken"
        )
    recorder.close()
    again = Store()
    for thing in read_recording(tmp_path / "live.jsonl"):
        again.see(thing)
    assert [(ln.line, ln.said, ln.text, ln.state) for ln in again.lines.values()] == [
        (ln.line, ln.said, ln.text, ln.state) for ln in live.lines.values()
    ]
    assert again.agents.keys() == live.agents.keys()


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path: Path) -> None:
    record(tmp_path / "r.jsonl", seen()[:3])
    with (tmp_path / "r.jsonl").open("a") as file:
        file.write('{"time_s": 5, "na')
    assert len(read_recording(tmp_path / "r.jsonl")) == 3


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", None),
        ('{"format": "other 1"}\n', "its format is 'other 1'"),
        ("[]\n", "its format is None"),
        ('{"format": "biblioteca-console 1"}\nnot json\n{}\n', "line 2"),
        (
            '{"format": "biblioteca-console 1"}\n'
            '{"time_s": 1, "name": "x", "type": "Nothing", "body": {}}\n{}\n',
            "unknown message type 'Nothing'",
        ),
    ],
)
def test_a_broken_recording_is_told_by_line(tmp_path: Path, text: str, why: str | None) -> None:
    (tmp_path / "r.jsonl").write_text(text)
    if why is None:
        assert read_recording(tmp_path / "r.jsonl") == []
        return
    with pytest.raises(RecordingError, match=why):
        read_recording(tmp_path / "r.jsonl")


def test_a_missing_recording_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="cannot read the recording"):
        read_recording(tmp_path / "none.jsonl")


async def test_a_replay_can_be_looked_at_but_not_asked() -> None:
    with pytest.raises(Refusal, match="this is a recording"):
        await ReplayLink([], "r").request("saves", SavesRequest())


def test_every_row_of_a_recording_is_json(tmp_path: Path) -> None:
    record(tmp_path / "r.jsonl", seen())
    rows = (tmp_path / "r.jsonl").read_text().splitlines()
    assert all(isinstance(json.loads(row), dict) for row in rows)
