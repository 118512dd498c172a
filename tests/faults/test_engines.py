"""Engines that raise, hang, are killed or run out of memory in the middle of a line."""

from __future__ import annotations

import pytest

from protocol.client import Client
from protocol.conformance.probe import code
from protocol.wire import ClientConfig
from tests.faults.gateway import wait_for
from tests.faults.house import LINE, House, poll_until
from tests.faults.injection import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_that_fails_at_a_token_ends_its_lines_and_is_replaced(
    house: House, kind: str
) -> None:
    words, restarts = house.words(), house.engine()["restarts"]
    with Client(house.connection, ClientConfig(timeout_s=120)) as client:  # it pings as it waits
        calls = [
            client.start("say", agent=agent, conversation=f"c{number}", ephemeral=True, **LINE)
            for number, agent in enumerate(("anna", "ben", "anna"))
        ]
        poll_until(client, lambda: any(call.text for call in calls))
        house.fault.write_text(f"{kind} 12")
        poll_until(client, lambda: all(call.ended for call in calls))
    # What was spoken stands, or an authored line stood in; some may have been whole before.
    assert [call.error for call in calls] == [None] * 3
    assert any(getattr(call.reply, "cause", "") for call in calls)
    # The house goes on, with authored lines while the engine is down.
    assert code(house.ask("focus", agent="ben", level="near")) == "done"
    assert house.reply()["text"]
    house.wait_ready(restarts + 1)
    assert house.words() == words
    house.check_clean()
    if kind in ("raise", "memory"):
        wait_for(
            lambda: "the engine failed" in house.log.read_text(), lambda: house.log.read_text()
        )
