from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPTS = """\
name: good
scene: {present: [anna], place: hall}
turns:
  - say: Hello?
    expect: {prompt: {contains: You are Anna}}
---
name: golden
scene: {present: [ben], place: hall}
turns:
  - say: Hello?
    expect: {exact: The roses are fine.}
"""


def run_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q"]
    command += ["-p", "no:cacheprovider", "-c", str(folder / "none.ini"), *options]
    (folder / "none.ini").write_text("[pytest]\n", encoding="utf-8")
    return subprocess.run(
        [*command, str(folder / "dialogues")], capture_output=True, text=True, check=False
    )


def test_scripts_are_items_with_readable_failures(world_folder: Path) -> None:
    folder = world_folder / "dialogues"
    folder.mkdir()
    (folder / "house.yaml").write_text(SCRIPTS, encoding="utf-8")
    done = run_pytest(world_folder)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed" in done.stdout
    assert "house.yaml:11: exact: the words differ" in done.stdout
    assert "diff: [-The" in done.stdout
    assert "You are Ben, the gardener." in done.stdout
    assert "nobody noted what made the golden" in done.stdout


def test_a_broken_script_is_a_collection_error_with_its_line(world_folder: Path) -> None:
    folder = world_folder / "dialogues"
    folder.mkdir()
    (folder / "house.yaml").write_text(SCRIPTS.replace("prompt", "promt"), encoding="utf-8")
    done = run_pytest(world_folder)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "house.yaml:5: turns.0.expect.promt: is not a key here; did you mean 'prompt'?" in (
        done.stdout.replace("\n", "")
    )
