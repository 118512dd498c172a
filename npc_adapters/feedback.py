"""Learning from play: lines marked good or bad, or rewritten, change the live adapter a little.

Rewrites train by preference (DPO, Rafailov et al. 2023): the better line against the one that
was spoken. Plain marks train by KTO (Ethayarajh et al. 2024), which needs no pairs. "sft" takes
rewrites and good lines as ordinary rows. The live adapter is where training starts and, for the
first two, what it is held close to, so that a character does not drift.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from datasets import Dataset
from transformers import AutoTokenizer, PrinterCallback

from engine.requests import Message
from npc_adapters.bases import replace_folder
from npc_adapters.card import AdapterCard, base_digest, read_card, write_card
from npc_adapters.data import Row, message
from npc_adapters.errors import DataError, UsageError
from npc_adapters.progress import quietly
from npc_adapters.tokenizer import CONTROL_TOKENS
from npc_adapters.train import Outcome, TrainConfig, load_for_training, save_adapter, train_adapter

Preference = Literal["auto", "dpo", "kto", "sft"]
_LR = 1e-4


@dataclass(frozen=True, slots=True)
class Judgement:
    """A line that was judged: its prompt, what was said, and the better line ("" if none)."""

    messages: tuple[Message, ...]
    reply: str
    good: bool
    rewrite: str = ""


def read_feedback(path: Path, agent: str) -> list[Judgement]:
    """A character's judged lines, oldest first.

    Raises:
        DataError: the file is missing, a line is not as the server writes it, or there is
            nothing about this character.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            if entry["agent"] == agent:
                found.append(_judgement(entry))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}:{number}: is no judged line ({error})") from error
    if not found:
        raise DataError(f"{path} judges no line of {agent}")
    return found


def _judgement(entry: dict[str, Any]) -> Judgement:
    texts = [m["content"] for m in entry["messages"]] + [entry["reply"], entry.get("rewrite", "")]
    for text in texts:
        for token in CONTROL_TOKENS:
            if token in text:
                raise ValueError(f"a text contains the control token {token}")
    messages = tuple(message(m["role"], m["content"]) for m in entry["messages"])
    rewrite = entry.get("rewrite", "") if entry["verdict"] == "rewrite" else ""
    rewrite = _with_mood(rewrite, entry["reply"])
    return Judgement(messages, entry["reply"], entry["verdict"] == "good", rewrite)


def _with_mood(rewrite: str, reply: str) -> str:
    """A better line in the form that replies have: without a mood it takes the spoken line's."""
    mood, bracket, _ = reply.partition("] ")
    if not rewrite or rewrite.startswith("[") or not (bracket and mood.startswith("[")):
        return rewrite
    return f"{mood}] {rewrite}"


def choose(judged: Sequence[Judgement], wish: str = "auto") -> str:
    """The way to train: DPO where every line has a rewrite, else KTO.

    Raises:
        UsageError: an unknown way, or one that these lines can't feed.
    """
    if wish not in get_args(Preference):
        raise UsageError(f"no way {wish!r}; there are: {', '.join(get_args(Preference))}")
    pairs = sum(bool(one.rewrite) for one in judged)
    if wish == "dpo" and not pairs:
        raise UsageError("dpo needs rewritten lines and there is none; use kto")
    if wish != "auto":
        return wish
    return "dpo" if pairs == len(judged) else "kto"


def train_on_feedback(
    *,
    name: str,
    base: Path,
    live: Path,
    judged: Sequence[Judgement],
    out: Path,
    config: TrainConfig,
    way: str = "auto",
    replay: Sequence[Row] = (),
    show: bool = True,
) -> Outcome:
    """Go on from a live adapter with what players thought of its lines.

    Args:
        name: the character.
        base: folder of the base model.
        live: the adapter to go on from; it is left as it is.
        judged: lines with their judgements.
        out: where the result goes.
        config: epochs, batch size and learning rate (0: 1e-4); the rest is the live adapter's.
        way: auto, dpo, kto or sft.
        replay: rows of which `config.replay` times as many as judged ones are mixed in (sft).
        show: draw a progress bar (sft).

    Raises:
        UsageError, TrainingError: what can't be trained.
    """
    way = choose(judged, way)
    if way == "sft":
        rows = [_row(one) for one in judged if one.rewrite or one.good]
        return train_adapter(
            name=name,
            base=base,
            rows=rows,
            out=out,
            config=config,
            replay=replay,
            parent=live,
            show=show,
        )
    torch.manual_seed(config.seed)
    work = out.with_name(out.name + ".work")
    with quietly():
        model = load_for_training(base, config, live)
        trainer = _preference_trainer(model, base, judged, work, config, way)
        trainer.remove_callback(PrinterCallback)
        result = trainer.train()
    history = [{k: float(v) for k, v in entry.items()} for entry in trainer.state.log_history]
    report = {
        "way": way,
        "num_train_rows": len(judged),
        "seconds": result.metrics["train_runtime"],
        "train_loss": result.metrics["train_loss"],
        "history": history,
    }
    partial = out.with_name(out.name + ".partial")
    save_adapter(trainer.model, base, partial, report)
    before = read_card(live)
    card = write_card(
        partial,
        before.model_copy(
            update={
                "digest": "",
                "method": f"{before.method}+{way}",
                "parents": (before.digest,),
                "base_digest": base_digest(base),
            }
        ),
    )
    replace_folder(partial, out)
    shutil.rmtree(work, ignore_errors=True)
    return Outcome(folder=out, card=AdapterCard(**card.model_dump()), report=report)


def _row(one: Judgement) -> Row:
    return Row((*one.messages, message("assistant", one.rewrite or one.reply)), "feedback", 0)


def _preference_trainer(
    model: Any, base: Path, judged: Sequence[Judgement], work: Path, config: TrainConfig, way: str
) -> Any:
    """TRL's DPO or KTO trainer; the reference model is the live adapter itself."""
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

    rows = _pairs(judged) if way == "dpo" else _marks(judged)
    kind, arguments = (DPOTrainer, DPOConfig) if way == "dpo" else (KTOTrainer, KTOConfig)
    return kind(
        model=model,
        args=arguments(
            output_dir=str(work),
            num_train_epochs=config.epochs,
            per_device_train_batch_size=max(2, min(config.batch_size, len(rows))),
            learning_rate=config.lr or _LR,
            max_length=config.max_tokens,
            use_cpu=not torch.cuda.is_available(),
            bf16=False,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_steps=1,
            report_to=[],
            disable_tqdm=True,
            seed=config.seed,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(base),
    )


def _chat(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.text} for message in messages]


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _pairs(judged: Sequence[Judgement]) -> list[dict[str, Any]]:
    """Rows for DPO: the rewrite is chosen, the spoken line rejected."""
    return [
        {
            "prompt": _chat(one.messages),
            "chosen": _said(one.rewrite),
            "rejected": _said(one.reply),
        }
        for one in judged
        if one.rewrite
    ]


def _marks(judged: Sequence[Judgement]) -> list[dict[str, Any]]:
    """Rows for KTO: every line with its mark; a rewrite gives a good line and a bad one."""
    rows: list[dict[str, Any]] = []
    for one in judged:
        prompt = _chat(one.messages)
        rows.append({"prompt": prompt, "completion": _said(one.reply), "label": one.good})
        if one.rewrite:
            rows.append({"prompt": prompt, "completion": _said(one.rewrite), "label": True})
    return rows
