"""TRL's trainer, set up for small models: no padding mask, tokens per second, quiet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, EarlyStoppingCallback, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from npc_adapters.methods import default_lr
from npc_adapters.precision import compute_dtype
from npc_adapters.progress import Progress, Speed

if TYPE_CHECKING:
    from npc_adapters.train import TrainConfig

Collator = Callable[[Sequence[dict[str, Any]]], dict[str, torch.Tensor]]


def make_trainer(
    model: Any, base: Path, datasets: Sequence[Dataset], work: Path, config: TrainConfig, show: bool
) -> tuple[Any, Speed]:
    """A trainer of rows and held-out rows that judges and saves once per epoch, and its speed."""
    speed = Speed()
    callbacks: list[TrainerCallback] = [speed, EarlyStoppingCallback(config.patience)]
    if show:
        callbacks.append(Progress(speed))
    trainer = SFTTrainer(
        model=model,
        args=_arguments(work, config),
        train_dataset=datasets[0],
        eval_dataset=datasets[1],
        processing_class=AutoTokenizer.from_pretrained(base),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)  # it prints a dictionary for every entry of the log
    trainer.data_collator = without_mask(trainer.data_collator)
    return trainer, speed


def without_mask(collate: Collator) -> Collator:
    """A collator whose mask hides nothing.

    Rows are padded on the right and padding bears no label: with causal attention no word ever
    sees any of it. Without a mask attention needs half the products, and gives the same loss.
    """

    def whole(rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = collate(rows)
        batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
        return batch

    return whole


def _arguments(work: Path, config: TrainConfig) -> SFTConfig:
    return SFTConfig(
        output_dir=str(work),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        gradient_checkpointing=config.checkpointing,
        learning_rate=config.lr or default_lr(config.method),
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup,
        weight_decay=0.01,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        train_sampling_strategy="group_by_length",
        bf16=compute_dtype() is torch.bfloat16,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        include_num_input_tokens_seen="all",
        logging_steps=5,
        report_to=[],
        disable_tqdm=True,
        seed=config.seed,
        average_tokens_across_devices=False,
    )
