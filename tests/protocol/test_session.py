from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import Envelope
from protocol.errors import Code, FrameError, OrderError, Refusal
from protocol.session import ClientSession, Order, ServerSession, State


def new_session(**settings: Any) -> ServerSession:
    return ServerSession(session_id="s", token="t", role="admin", user="local", now=0.0, **settings)


def say(request_id: str = "1") -> Envelope:
    return Envelope("say", {"agent": "echo", "text": "hi"}, id=request_id)


@given(st.lists(st.sampled_from(["accepted", "delta", "done", "error", "pong"]), max_size=12))
def test_a_stream_never_leaves_its_order(steps: list[str]) -> None:
    order, taken = Order("say"), list[str]()
    for step in steps:
        try:
            order.advance(step)
        except OrderError:
            continue
        taken.append(step)
    ends = [step for step in taken if step in ("done", "error")]
    assert len(ends) <= 1
    assert not ends or taken[-1] == ends[0]
    assert "accepted" not in taken[1:]
    assert "pong" not in taken


def test_a_call_has_one_answer_and_no_number() -> None:
    order = Order("agents")
    assert not order.allows("delta")
    assert order.advance("done") is None
    assert order.state is State.ENDED
    assert not order.allows("error")


@given(
    st.lists(
        st.one_of(
            st.text("ab ", min_size=1, max_size=3).map(lambda text: ("delta", text)),
            st.integers(1, 3).map(lambda n: ("grant", n)),
            st.booleans().map(lambda on: ("block", on)),
        ),
        max_size=40,
    ),
    st.none() | st.integers(0, 3),
)
def test_no_text_is_lost_and_no_number_skipped_whatever_the_reader_does(
    steps: list[tuple[str, Any]], credit: int | None
) -> None:
    session, client = new_session(credit=credit), ClientSession()
    request = client.request("say", {})
    exchange = session.begin("r1", request, 0.0)
    sent, said, budget = list[Envelope](), "", credit
    for kind, value in steps:
        if kind == "delta":
            said += value
            sent += session.send(exchange, "delta", {"text": value}, 0.0)
        elif kind == "grant":
            session.grant(value)
            budget = None if budget is None else budget + value
            sent += session.flush(exchange)
        else:
            session.blocked = value
        assert budget is None or sum(e.t == "delta" for e in sent) <= budget
    sent += session.send(exchange, "done", {"text": said}, 0.0)
    for envelope in sent:
        assert client.receive(envelope) == request.id
    assert "".join(e.body["text"] for e in sent[:-1]) == said
    assert [e.seq for e in sent] == list(range(len(sent)))
    assert not session.open


def test_text_of_different_speakers_is_never_merged() -> None:
    session = new_session(credit=0)
    exchange = session.begin("r1", Envelope("converse", {}, id="1"), 0.0)
    for agent, text in (("a", "1"), ("a", "2"), ("b", "3")):
        session.send(exchange, "delta", {"agent": agent, "text": text}, 0.0)
    sent = session.send(exchange, "done", {}, 0.0)
    assert [e.body for e in sent[:-1]] == [
        {"agent": "a", "text": "12"},
        {"agent": "b", "text": "3"},
    ]


def test_an_id_may_come_again_after_a_minute() -> None:
    session = new_session()
    session.send(session.begin("r1", say(), 0.0), "done", {}, 0.0)
    session.send(session.begin("r2", say(), 61.0), "done", {}, 61.0)
    with pytest.raises(Refusal):
        session.begin("r3", say(), 62.0)


def test_an_id_is_used_once() -> None:
    session = new_session()
    exchange = session.begin("r1", say(), 0.0)
    with pytest.raises(Refusal) as caught:
        session.begin("r2", say(), 0.0)
    assert caught.value.code == Code.DUPLICATE
    session.send(exchange, "done", {}, 0.0)
    with pytest.raises(Refusal):
        session.begin("r3", say(), 1.0)


def test_too_many_open_requests_are_told_when_to_come_back() -> None:
    session = new_session(max_requests=2)
    for number in range(2):
        session.begin(f"r{number}", say(str(number)), 0.0)
    with pytest.raises(Refusal) as caught:
        session.begin("r9", say("9"), 0.0)
    assert caught.value.code == Code.BUSY
    assert caught.value.retry_ms


def test_ended_requests_are_forgotten_after_a_minute_and_beyond_64() -> None:
    session = new_session()
    for number in range(70):
        exchange = session.begin(f"r{number}", say(str(number)), 0.0)
        session.send(exchange, "done", {}, 0.0)
    assert session.find("0", 1.0) is None
    assert session.find("69", 59.0) is not None
    assert session.find("69", 61.0) is None
    assert not session.ended


def test_a_moved_request_ends_under_its_old_id_and_starts_anew() -> None:
    session = new_session()
    exchange = session.begin("r1", say("1"), 0.0)
    session.send(exchange, "delta", {"text": "so far"}, 0.0)
    end, messages = session.adopt(exchange, say("2"))
    assert (end.re, end.body["code"], end.seq) == ("1", Code.CONFLICT, 1)
    assert [(e.re, e.seq, e.body["text"]) for e in messages] == [("2", 0, "so far")]
    assert list(session.open) == ["2"]


def test_a_client_refuses_gaps_and_second_ends() -> None:
    client = ClientSession()
    request = client.request("say", {})
    client.receive(Envelope("delta", {"text": "a"}, re=request.id, seq=0))
    with pytest.raises(FrameError, match="1 was next"):
        client.receive(Envelope("delta", {"text": "c"}, re=request.id, seq=2))
    client = ClientSession()
    request = client.request("say", {})
    client.receive(Envelope("done", {}, re=request.id, seq=0))
    assert client.receive(Envelope("done", {}, re=request.id, seq=1)) is None
