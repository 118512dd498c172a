"""Engines that raise, hang, are killed or run out of memory in the middle of a line."""

from __future__ import annotations

import pytest

from protocol.conformance.probe import code
from tests.faults.gateway import wait_for
from tests.faults.house import House, speaking
from tests.faults.injection import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_that_fails_at_a_token_ends_its_lines_and_is_replaced(
    house: House, kind: str
) -> None:
    words, restarts = house.words(), house.engine()["restarts"]
    lines = [
        speaking(house, agent, conversation=f"c{number}", ephemeral=True)
        for number, agent in enumerate(("anna", "ben", "anna"))
    ]
    house.fault.write_text(f"{kind} 12")
    causes = []
    for probe, target in lines:
        end = probe.finish(target)[-1]
        assert code(end) == "done"  # what was spoken stands, or an authored line stood in
        causes.append(end["body"]["cause"])
        probe.ask("bye")
        probe.close()
    assert any(causes)  # the first may have been whole before the last began
    # The engine is down or hangs: the house goes on, with authored lines.
    assert code(house.ask("focus", agent="ben", level="near")) == "done"
    assert house.reply()["text"]
    house.wait_ready(restarts + 1)
    assert house.words() == words
    house.check_clean()
    if kind in ("raise", "memory"):
        wait_for(
            lambda: "the engine failed" in house.log.read_text(), lambda: house.log.read_text()
        )
