from __future__ import annotations

from typing import Any

import pytest

from protocol.administration import AgentsRequest, StatsRequest
from protocol.calls import Calls
from protocol.codec import PROTOCOL, Envelope, decode, encode
from protocol.errors import Refusal
from protocol.messages import CancelRequest, HelloRequest, SayRequest, Welcome


class Told:
    """A client's calls, without sockets: the test says what the server sends."""

    def __init__(self) -> None:
        self.calls = Calls(HelloRequest(), heartbeat_s=1.0, timeout_s=5.0, server="nowhere")

    def greeted(self) -> None:
        """Hello, and the welcome of a server that doesn't know the client."""
        hello = self.calls.greet()
        welcome = Welcome(session=f"for-{hello.id}", token="t", role="admin")
        self.receive("welcome", hello.id, welcome.model_dump(exclude_none=True))

    def receive(
        self, t: str, request_id: str, body: dict[str, Any], seq: int | None = None
    ) -> None:
        frame = encode(Envelope(t, body, re=request_id, seq=seq))
        self.calls.receive([PROTOCOL, frame], now=0.0)

    def sent(self) -> list[tuple[str, str]]:
        """Channel and type of what was put into the outbox since this was last asked."""
        posted: list[tuple[str, str]] = [
            (p.channel, decode([PROTOCOL, p.frame]).t) for p in self.calls.outbox
        ]
        self.calls.outbox.clear()
        return posted


@pytest.mark.parametrize("has_begun", [False, True])
def test_a_request_with_a_key_is_sent_again_if_it_had_no_delta(has_begun: bool) -> None:
    told = Told()
    told.greeted()
    call = told.calls.start("say", SayRequest(agent="echo", text="hi"), idem="k")
    told.receive("accepted", call.id, {"line": "L1", "agent": "echo", "tier": "npc"})
    if has_begun:  # by a mood alone; another run's first delta would be taken for this one
        told.receive("delta", call.id, {"text": "", "emotion": "joy"}, seq=0)
    told.sent()
    told.greeted()
    if has_begun:
        assert told.sent() == [("work", "hello")]
        assert isinstance(call.error, Refusal)
        assert call.error.code == "no_session"
    else:
        assert told.sent() == [("work", "hello"), ("work", "say")]
        assert not call.ended


def test_a_hello_without_an_answer_is_repeated_as_the_same_call_under_another_id() -> None:
    told = Told()
    hello = told.calls.greet()
    first_id = hello.id
    assert told.calls.greet() is hello
    assert told.sent() == [("work", "hello")] * 2
    assert told.calls.every == [hello]
    welcome = Welcome(session="s", token="t", role="admin").model_dump(exclude_none=True)
    told.receive("welcome", first_id, welcome)
    assert not hello.ended
    told.receive("welcome", hello.id, welcome)
    assert hello.ended


def test_after_a_damaged_welcome_a_new_connection_is_greeted_anew() -> None:
    told = Told()
    hello = told.calls.greet()
    told.receive("welcome", hello.id, {})
    assert hello.error is not None
    assert told.calls.greet() is not hello


def test_what_waits_for_a_control_socket_goes_by_work_or_is_refused_where_there_is_none() -> None:
    told = Told()
    told.greeted()
    told.calls.join_control()
    told.calls.control_open = True
    told.sent()
    looked = told.calls.start("stats", StatsRequest())
    told.calls.start("cancel", CancelRequest(target="c1"))
    told.calls.join_control()
    told.calls.do_without_control("tcp://there")
    assert told.sent() == [("work", "cancel")]
    for call in (looked, told.calls.start("stats", StatsRequest())):
        assert isinstance(call.error, Refusal)
        assert call.error.code == "unsupported"
        assert str(call.error) == "tcp://there has no control address, where 'stats' belongs"
    told.calls.start("agents", AgentsRequest())
    assert told.sent() == [("work", "agents")]
