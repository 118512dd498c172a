"""The store takes in what comes in any order and any amount."""

from __future__ import annotations

import pytest

from protocol.administration import LineInfo, LinesReply, StatsReply
from protocol.messages import Accepted, Body, Welcome
from protocol.telemetry import LineDelta, LineEnded, LineFailed, LineStarted, Logged
from tui import store as store_file
from tui.seen import Seen
from tui.store import Store


def see(
    store: Store, name: str, body: Body | None = None, at: float = 1.0, about: str = ""
) -> None:
    store.see(Seen(time_s=at, name=name, body=body, about=about))


def spoken(line: str, text: str = "yes") -> LineEnded:
    return LineEnded(line=line, agent="anna", tier="npc", text=text)


def test_pieces_of_an_own_line_are_not_counted_twice() -> None:
    store = Store()
    see(store, "line_delta", LineDelta(line="1", agent="anna", text="Go "))  # telemetry was first
    see(store, "accepted", Accepted(line="1", agent="anna", tier="npc"))
    for text in ("Go ", "on"):
        see(store, "piece", LineDelta(line="1", agent="anna", text=text))
        see(store, "line_delta", LineDelta(line="1", agent="anna", text=text))
    assert store.lines["1"].text == "Go on"


def test_a_line_that_ended_takes_no_more_pieces() -> None:
    store = Store()
    see(store, "line_ended", spoken("1"))
    see(store, "line_delta", LineDelta(line="1", agent="anna", text="no"))
    assert store.lines["1"].text == "yes"


def test_the_same_event_twice_is_logged_once() -> None:
    store = Store()
    for _ in range(2):
        see(store, "line_started", LineStarted(line="1", agent="anna", tier="npc", text="hm"))
        see(store, "line_ended", spoken("1"))
    assert [row.text for row in store.log] == ["the game: hm", "yes"]


def test_lines_from_before_go_in_front() -> None:
    store = Store()
    see(store, "line_ended", spoken("9"))
    old = [LineInfo(line=str(i), agent="anna", tier="npc", text="old") for i in (8, 7, 6)]
    see(store, "lines", LinesReply(lines=old))
    assert list(store.lines) == ["6", "7", "8", "9"]


def test_what_was_being_said_when_the_server_went_is_marked() -> None:
    store = Store()
    see(store, "connected", Welcome(session="s", token="t", role="admin"))
    see(store, "line_started", LineStarted(line="1", agent="anna", tier="npc", text="hm"))
    see(store, "lost", about="gone")
    assert store.lines["1"].state == "unknown"
    assert store.samples[-1][1] is None


def test_a_server_that_never_was_is_not_lost() -> None:
    store = Store()
    see(store, "lost", about="no server")
    assert store.connection.state == "connecting"
    assert store.connection.why == "no server"


def test_a_gap_in_the_counters_stays_a_gap() -> None:
    store = Store()
    see(store, "stats", StatsReply())
    see(store, "gap", about="stats")
    see(store, "stats", StatsReply())
    assert [sample is None for _, sample in store.samples] == [False, True, False]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_file, "MAX_LINES", 10)
    store = Store()
    for i in range(100):
        see(store, "line_ended", spoken(str(i)))
    assert list(store.lines) == [str(i) for i in range(90, 100)]


def test_a_cancelled_line_is_no_error() -> None:
    store = Store()
    see(store, "line_failed", LineFailed(line="1", agent="anna", code="cancelled"))
    see(store, "line_failed", LineFailed(line="2", agent="anna", code="expired", message="late"))
    assert [(row.level, row.text) for row in store.log] == [
        ("info", "cancelled"), ("error", "expired: late"),
    ]  # fmt: skip


def test_unknown_names_change_nothing() -> None:
    store = Store()
    see(store, "something_newer")
    assert not store.revisions


def test_the_servers_notes_of_our_own_requests_are_left_out() -> None:
    store = Store()
    welcome = Welcome(session="ours", token="-", role="admin")
    store.see(Seen(time_s=1.0, name="connected", body=welcome))
    for session in ("ours", "theirs"):
        note = Logged(level="info", text=f'{{"session": "{session}", "type": "adapters"}}')
        store.see(Seen(time_s=2.0, name="log", body=note))
    assert [row.text for row in store.log if "adapters" in row.text] == [
        '{"session": "theirs", "type": "adapters"}'
    ]
