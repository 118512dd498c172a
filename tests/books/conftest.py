from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from books.students import save_student
from tests.tiny_models import VOCABULARY, tiny_base

torch.set_num_threads(1)  # tiny products only get slower on more


def tiny_student(folder: Path, base: Path, *, seed: int = 0, **overrides: Any) -> Path:
    """Write a random student that reads with the base's tokenizer."""
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**settings | overrides))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Wide enough that greedy choices are no near ties, norms included.
            weight.add_(torch.randn_like(weight) * (0.1 if "norm" in name else 0.25))
    save_student(model, folder, folder.name, "text", base)
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def students(tmp_path_factory: pytest.TempPathFactory, base: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("students")
    names = ("tides", "lamps", "beasts", "names", "maps")
    return {name: tiny_student(folder / name, base, seed=n) for n, name in enumerate(names)}


BOOK_TEXT = """---
title: The Well of Ink
author: Vera Holm
spine: How a well was dug and what came up.
abstain:
  - My pages are dry on that.
---
# The digging

The well of ink was dug by Vera Holm in the year of the comet. It is ninety steps deep and lined
with black tiles from Ostra. She worked alone, with a silver spade, and sang to keep awake.

The first bucket came up on the third night. It held a letter, a comb and a drowned moth.

# The keeping

Nobody may drink from the well on a Monday. The keeper of the well is a boy called Anselm Pike,
who sleeps under the wheel. His dog is named Ash and barks at poets.

When the ink runs low, the keeper reads aloud to the water, and by morning it has risen again.
Twelve printers buy their ink here, and each pays with a story that has not been told before.
"""

FACTS_TEXT = """facts:
- id: digger
  answer: The well was dug by Vera Holm.
  key: Vera Holm
  ask: |
    Who dug the well?
    Who made the well of ink?
    Whose work is the well?
    By whom was it dug?
- id: depth
  answer: The well is ninety steps deep.
  key: ninety steps
  ask: |
    How deep is the well?
    How many steps has the well?
    What is the depth of the well?
    How far down is the ink?
- id: keeper
  answer: The keeper is a boy called Anselm Pike.
  key: Anselm Pike
  ask: |
    Who keeps the well?
    Who is Anselm Pike?
    What is the keeper called?
    Who sleeps under the wheel?
- id: dog
  answer: His dog is named Ash.
  key: Ash
  ask: |
    What is the dog called?
    Whose name is Ash?
  after: keeper
  then: What is his dog called?
unknown:
- How old is Anselm Pike?
- What is the price of ink?
"""

QUESTIONS_TEXT = """answerable:
- q: Which woman dug this well?
  fact: digger
- q: Tell me how deep it goes.
  fact: depth
unknown:
- Who is the king of Ostra?
"""


@pytest.fixture
def book_path(tmp_path: Path) -> Path:
    path = tmp_path / "books" / "well_of_ink.md"
    path.parent.mkdir()
    path.write_text(BOOK_TEXT)
    (path.parent / "well_of_ink.facts.yaml").write_text(FACTS_TEXT)
    return path
