"""A character learns from play while its world is served, and forgets again."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import torch

from npc_adapters.card import AdapterCard, base_digest, write_card
from npc_adapters.train import TrainConfig
from protocol import administration as admin
from protocol import play
from roles import training
from roles.manager import Manager
from roles.serve import open_store
from roles.world import World
from tests.roles.test_manager import ask, say
from tests.roles.worlds_for_tests import write_world
from tests.tiny_models import tiny_adapter, tiny_base

QUICK = TrainConfig(epochs=2, lr=1e-2, batch_size=4, max_tokens=700, replay=0.0)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """The small world, Anna with a live adapter and lines held out for her gate."""
    monkeypatch.chdir(tmp_path)  # no corpus, no server but the test's own
    monkeypatch.setenv("BIBLIOTECA_CONNECTION", str(tmp_path / "nobody.json"))
    folder = write_world(tmp_path / "house")
    with (folder / "world.toml").open("a") as file:
        file.write("\n[gate]\nmax_broken = 1.0\nmax_perplexity_ratio = 0.99\n")
    base = tiny_base(folder / "models" / "npc-base", max_position_embeddings=1024)
    live = tiny_adapter(folder / "models" / "adapters" / "anna", base, seed=3)
    write_card(live, AdapterCard(name="anna", base="npc-base", base_digest=base_digest(base)))
    rows = ({"instruction": f"Guest: Spoon {i}?", "output": better(i)} for i in range(20))
    (folder / "npcs" / "anna.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return World.load(folder)


def better(number: int) -> str:
    return f"[calm] Spoon {number} is counted."


async def test_a_served_character_learns_from_rewritten_lines_and_a_rollback_undoes_it(
    world: World, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    manager = Manager(world, open_store(tmp_path / "state"))
    await manager.start()
    await manager.wait_ready()
    try:
        before = await say(manager, "Spoon 1?", seed=5, ephemeral=True)
        for number in range(8):
            line = await say(manager, f"Spoon {number}?", max_tokens=20, ephemeral=True)
            judged = play.FeedbackRequest(line=line.line, verdict="rewrite", text=better(number))
            await ask(manager, "feedback", judged)
        learned = tmp_path / "state" / "feedback.jsonl"
        await asyncio.to_thread(
            training.train_from_feedback, world, "anna", learned, QUICK, "sft", show=False
        )
        again = await say(manager, "Spoon 1?", seed=5, ephemeral=True)
        assert again.text == before.text  # a candidate speaks to nobody
        card = await asyncio.to_thread(training.promote, world, "anna", scripts=False)
        await ask(manager, "adapters", admin.AdaptersRequest(op="load", name="anna"))
        after = await say(manager, "Spoon 1?", seed=5, ephemeral=True)
        assert after.adapter is not None
        assert after.adapter.digest == card.digest
        assert after.text != before.text
        await ask(manager, "adapters", admin.AdaptersRequest(op="rollback", name="anna"))
        back = await say(manager, "Spoon 1?", seed=5, ephemeral=True)
        assert back.adapter is not None
        assert before.adapter is not None
        assert (back.text, back.adapter.digest) == (before.text, before.adapter.digest)
    finally:
        await manager.close()
