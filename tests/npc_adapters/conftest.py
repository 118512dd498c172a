from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engine.requests import Message, Segment
from npc_adapters.data import Row
from tests.tiny_models import tiny_base

torch.set_num_threads(1)


def row(said: str, reply: str, facts: tuple[str, ...] = ()) -> Row:
    def message(role: str, text: str) -> Message:
        return Message(role=role, segments=(Segment(kind="x", text=text),))  # type: ignore[arg-type]

    chat = (message("system", "You talk."), message("user", said), message("assistant", reply))
    return Row(chat, "rows.jsonl", 1, facts=facts)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"), intermediate_size=128)  # nf4 blocks of 64


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    return [row(f"Guest: Number {i}?", f"[calm] Arr, {i} it be.") for i in range(24)]


def write_feedback(path: Path, **entry: object) -> None:
    usual = {
        "agent": "pim",
        "verdict": "bad",
        "messages": [{"role": "user", "content": "Guest: Hi."}],
        "reply": "[calm] No.",
        "rewrite": "",
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(usual | entry) + "\n")
