"""The conformance suite against what a player runs: `biblioteca serve`, on real processes."""

from __future__ import annotations

import subprocess
import sys

from protocol.conformance.server_checks import CHECKS
from tests.faults.gateway import ROOT
from tests.faults.house import House


def test_a_served_world_follows_the_spec(house: House) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "biblioteca", "conform", "--connect", str(house.path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert f"{len(CHECKS)} of {len(CHECKS)} hold" in done.stdout
    house.check_clean()
