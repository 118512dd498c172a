"""Bases made here: from text to a tokenizer, a trained model, and a folder that loads anywhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from engine.template import ChatTemplate
from npc_adapters.data import Row, read_rows
from npc_adapters.encoding import common_words, encode
from npc_adapters.errors import TrainingError
from npc_adapters.examples import Example
from npc_adapters.induction import plant_induction
from npc_adapters.pretrain import PretrainConfig, Run, new_base, pretrain
from npc_adapters.tokenizer import CONTROL_TOKENS, SPECIAL_TOKENS, train_tokenizer

_TOKENIZER_ROWS = 8000
Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class BaseShape:
    """The size of a base made from scratch: 5.3M parameters as it stands."""

    vocab_size: int = 2048
    hidden: int = 256
    layers: int = 6
    heads: int = 8
    intermediate: int = 704


def read_corpus(paths: Sequence[Path]) -> list[Row]:
    """All rows of some corpus files, checked."""
    return read_rows(paths, control_tokens=CONTROL_TOKENS).require_sound()


def make_examples(
    template: ChatTemplate,
    rows: Sequence[Row],
    *,
    prompt_weight: float,
    max_tokens: int,
    copy_weight: float = 1.0,
    known: frozenset[str] | None = None,
) -> list[Example]:
    """Rows as examples; those longer than `max_tokens` are left out."""
    examples = (
        encode(
            template,
            row.messages,
            prompt_weight=prompt_weight,
            copy_weight=copy_weight,
            known=known,
        )
        for row in rows
    )
    return [example for example in examples if len(example.ids) <= max_tokens]


def train_base(
    *,
    train: Sequence[Path],
    valid: Sequence[Path],
    out: Path,
    work: Path,
    config: PretrainConfig,
    shape: BaseShape | None = None,
    prompt_weight: float = 0.1,
    copy_weight: float = 2.0,
    max_tokens: int = 512,
    report: Report = print,
) -> list[dict[str, float]]:
    """Train a base from scratch.

    Args:
        train: JSON Lines files of conversations.
        valid: held-out conversations.
        out: where the finished model goes, bf16 safetensors.
        work: folder of checkpoints; a run that was killed goes on from there.
        config: how to train.
        shape: its size.
        prompt_weight: weight in the loss of everything that is not a reply.
        copy_weight: weight of a reply's rare words, which must be copied from the prompt.
        max_tokens: longer conversations are left out.
        report: called with a line of text now and then.

    Returns:
        The run's reports, oldest first.

    Raises:
        DataError: faulty rows.
        TrainingError: no row is short enough.
    """
    torch.manual_seed(config.seed)
    rows, held_out = read_corpus(train), read_corpus(valid)
    work.mkdir(parents=True, exist_ok=True)
    tokenizer, model = _fresh(rows, shape or BaseShape(), work)
    planted = plant_induction(model)
    tokenizer.save_pretrained(work)
    template = ChatTemplate(work)
    known = common_words(row.text for row in rows)
    examples = make_examples(
        template,
        rows,
        prompt_weight=prompt_weight,
        copy_weight=copy_weight,
        max_tokens=max_tokens,
        known=known,
    )
    if not examples:
        raise TrainingError(f"no row has at most {max_tokens} tokens")
    probes = make_examples(
        template, held_out, prompt_weight=0.0, max_tokens=max_tokens, known=known
    )
    run = Run(model, config, work, planted)
    report(
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters; {len(examples)} "
        f"rows, {sum(len(e.ids) for e in examples) / 1e6:.2f}M tokens, "
        f"{sum(sum(w >= 1 for w in e.weights) for e in examples) / 1e6:.2f}M of them replies"
        + ("; going on from a checkpoint" if run.resume() else "")
    )
    history = pretrain(
        run,
        examples,
        probes,
        pad_id=tokenizer.pad_token_id,
        num_special=len(SPECIAL_TOKENS),
        report=report,
    )
    save_base(model, tokenizer, out)
    return history


def _fresh(rows: Sequence[Row], shape: BaseShape, work: Path) -> tuple[Any, Any]:
    """A tokenizer learned from the rows (or the one a killed run left) and a new model."""
    if (work / "tokenizer.json").exists():
        tokenizer = AutoTokenizer.from_pretrained(work)
    else:
        sample = rows[:: max(1, len(rows) // _TOKENIZER_ROWS)]
        texts = (message.text for row in sample for message in row.messages)
        tokenizer = train_tokenizer(texts, shape.vocab_size)
    model = new_base(
        len(tokenizer),
        hidden=shape.hidden,
        layers=shape.layers,
        heads=shape.heads,
        intermediate=shape.intermediate,
    )
    return tokenizer, model


def save_base(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a base as bf16; the old folder stays until the new one is complete."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    model.save_pretrained(partial, state_dict=weights)
    tokenizer.save_pretrained(partial)
    _set_dtype(partial)
    replace_folder(partial, folder)


def _set_dtype(folder: Path) -> None:
    """Let config.json say that the weights are bf16."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["dtype"] = "bfloat16"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def replace_folder(new: Path, old: Path) -> None:
    """Put a complete new folder in an old one's place; the old one goes last."""
    folder_before = old.with_name(old.name + ".old")
    shutil.rmtree(folder_before, ignore_errors=True)
    if old.exists():
        old.rename(folder_before)
    old.parent.mkdir(parents=True, exist_ok=True)
    new.rename(old)
    shutil.rmtree(folder_before, ignore_errors=True)


def name_base(folder: Path, base: Path | str) -> None:
    """Name the base by its folder's name: an adapter tells nothing of the machine it is from.

    Args:
        base: its folder, or the name by which it is found anywhere.
    """
    path = folder / "adapter_config.json"
    if path.exists():
        config = json.loads(path.read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = base if isinstance(base, str) else base.name
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
