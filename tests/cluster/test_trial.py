from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install .[cluster]")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def command(state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "biblioteca", "cluster", *words],
        env=os.environ | {"XDG_STATE_HOME": str(state)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_trial_comes_up_on_loopback_is_shown_and_goes_down(tmp_path: Path) -> None:
    assert "no cluster runs here" in command(tmp_path, "status").stderr
    up = command(tmp_path, "up", "--nodes", "2", "--json")
    assert up.returncode == 0, up.stderr
    try:
        assert json.loads(up.stdout)["address"].startswith("127.0.0.1:")
        again = command(tmp_path, "up")
        assert again.returncode == 1
        assert "a cluster runs at" in again.stderr
        found: dict[str, Any] = json.loads(command(tmp_path, "status", "--json").stdout)
        assert [node["address"] for node in found["nodes"]] == ["127.0.0.1"] * 2
        assert found["free_cpus"] == 2
    finally:
        down = command(tmp_path, "down")
    assert "is down" in down.stdout
    assert "no cluster of ours" in command(tmp_path, "down").stderr
