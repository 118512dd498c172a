"""The console against `biblioteca serve`: tiny random models, but real ones, in real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from textual.widgets import Input

from protocol.client import connect
from tests.roles.worlds_for_tests import write_world
from tests.tiny_models import tiny_adapter, tiny_base
from tests.tui.conftest import WIDE, Console, console_on
from tui.pane import Pane
from tui.request import read_fields
from tui.table import Table

START_S = 60.0
pytestmark = pytest.mark.slow  # starting engines takes as long as importing torch twice


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "biblioteca", *arguments]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small world of two characters, a book and a director, with random weights."""
    folder = write_world(tmp_path_factory.mktemp("world") / "house")
    models = folder / "models"
    base = tiny_base(models / "npc-base", max_position_embeddings=2048)
    tiny_base(models / "director-base", seed=1, max_position_embeddings=2048)
    for seed, npc in enumerate(("anna", "ben")):
        tiny_adapter(models / "adapters" / npc, base, seed=seed)
    broken = models / "adapters" / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def connection(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The connection file of a server of that world, its characters ready to speak."""
    folder = tmp_path_factory.mktemp("serve")
    path = folder / "connection.json"
    with (folder / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            _command("serve", str(world), "--connection", str(path), "--state", str(folder / "s")),
            stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        asyncio.run(_ready(path, folder / "serve.log"))
        yield path
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


async def _ready(path: Path, log: Path) -> None:
    """Wait until the characters' engine has loaded."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if path.exists():
            with connect(path) as client:
                agents = client.request("agents", read_fields("agents", [])).agents
                if all(agent.state == "ready" for agent in agents if agent.tier == "npc"):
                    return
        await asyncio.sleep(0.25)
    raise AssertionError(f"no server after {START_S} s:\n{log.read_text(errors='replace')}")


@pytest.fixture
async def console(connection: Path) -> AsyncIterator[Console]:
    async with console_on(connection, WIDE) as running:
        yield running


async def _say(console: Console, text: str) -> str:
    """Say something to Anna and wait until she has answered; returns the line's id."""
    store = console.session.store
    before = len(store.lines)
    console.session.look_at("anna")
    await console.go(2)
    await console.type(text)
    await console.until(lambda: len(store.lines) > before, "a new line")
    line = next(reversed(store.lines.values()))
    await console.until(lambda: line.state != "speaking", "spoken")
    return line.line


async def test_a_real_line_shows_the_prompt_its_model_saw(console: Console) -> None:
    line = await _say(console, "where is the salt")
    await console.pilot.press("escape", "enter")
    await console.see("persona", "You are Anna", "where is the salt", "prefill")
    known = console.session.store.inspections[line]
    assert "".join(known.token_texts).count("You are Anna") == 1
    assert sum(s.end - s.start for s in known.segments) == len(known.token_ids)
    await console.pilot.press("l")
    await console.see("alternatives")
    assert any(token.alternatives for token in known.completion)


async def test_after_a_swap_the_next_line_comes_from_the_other_adapter(console: Console) -> None:
    store = console.session.store
    first = store.lines[await _say(console, "hello")]
    assert first.adapter is not None
    await console.go(4)
    await console.see("anna", "ben")
    console.page.query_one(Table).move_to("ben")
    await console.pilot.press("s")
    await console.type("anna")
    await console.until(lambda: "anna" in store.adapters["ben"].agents, "swapped")
    second = store.lines[await _say(console, "hello")]
    assert second.adapter is not None
    assert (first.adapter.name, second.adapter.name) == ("anna", "ben")
    assert first.adapter.digest != second.adapter.digest


async def test_a_failed_load_leaves_the_voice_as_it_was(console: Console) -> None:
    store = console.session.store
    before = store.agents["ben"].adapter
    await console.go(4)
    await console.see("ben")
    await console.pilot.press("n")
    await console.type("broken")
    await console.see("load failed")
    assert "broken" in store.troubles
    line = store.lines[await _say(console, "still there")]
    assert line.state == "spoken"
    await console.until(lambda: store.agents["ben"].adapter == before)


async def test_a_blend_of_two_adapters_is_heard_and_kept(console: Console) -> None:
    store = console.session.store
    await console.go(4)
    await console.see("anna", "ben")
    await console.pilot.press("m")
    dialog = await console.dialog()
    heard = dialog.query_one("#heard", Pane)
    await console.pilot.press("left", "left", "down", "right", "right", "tab")
    await console.until(lambda: isinstance(console.app.focused, Input), "asks")
    await console.type("who are you")
    await console.until(lambda: heard.text not in {"", "blending …"}, "hears the blend")
    await console.until(lambda: "console-blend" in store.adapters, "is an adapter")
    shares = store.adapters["console-blend"].metrics
    assert sorted((shares["anna"], shares["ben"])) == [0.2, 0.8]  # the row under the cursor leads
    await console.pilot.press("ctrl+s")
    await console.answer("both", after=dialog)
    await console.see("Kept as both")
    await console.pilot.press("escape")
    await console.until(lambda: "console-blend" not in store.adapters, "makes room")
    assert store.adapters["both"].digest


def test_every_action_is_a_plain_command(connection: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = _command("request", *words, "--connect", str(connection), "--json")
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    said = run("say", "agent=ben", "text=Good evening", "max_tokens=8", "seed=3")
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["seed"] == 3
    listed = run("adapters", "op=list")
    assert {a["name"] for a in json.loads(listed.stdout)["adapters"]} >= {"anna", "ben"}
    wrong = run("say", "agent=nobody_here", "text=Hello")
    assert wrong.returncode == 2
    assert "nobody_here" in wrong.stderr
