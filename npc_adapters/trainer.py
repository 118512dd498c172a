"""TRL's trainer, set up for small models: no padding mask, tokens per second, quiet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch.nn.functional import cross_entropy, pad
from transformers import (
    AutoTokenizer,
    EarlyStoppingCallback,
    PrinterCallback,
    TrainerCallback,
)
from trl import SFTConfig, SFTTrainer

from npc_adapters.methods import SOFT, default_lr
from npc_adapters.precision import compute_dtype
from npc_adapters.progress import Progress, Speed

if TYPE_CHECKING:
    from npc_adapters.train import TrainConfig

IGNORED = -100  # label that transformers leaves out of the loss
Collator = Callable[[Sequence[dict[str, Any]]], dict[str, torch.Tensor]]


def make_trainer(
    model: Any, base: Path, datasets: Sequence[Dataset], work: Path, config: TrainConfig, show: bool
) -> tuple[Any, Speed]:
    """A trainer of rows and held-out rows that judges and saves once per epoch, and its speed."""
    speed = Speed()
    callbacks: list[TrainerCallback] = [speed, EarlyStoppingCallback(config.patience)]
    if show:
        callbacks.append(Progress(speed))
    # A soft prompt's vectors lie ahead of the words and move every position.
    kind = SFTTrainer if config.method in SOFT else ReplyTrainer
    trainer = kind(
        model=model,
        args=_arguments(work, config),
        train_dataset=datasets[0],
        eval_dataset=datasets[1],
        processing_class=AutoTokenizer.from_pretrained(base),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)  # it prints a dictionary for every entry of the log
    trainer.data_collator = without_mask(trainer.data_collator)
    _leave_formats_to_autocast(model)
    return trainer, speed


def _leave_formats_to_autocast(model: Any) -> None:
    """PEFT would turn every layer's input into fp32 first, and autocast back into bf16."""
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False


class ReplyTrainer(SFTTrainer):  # type: ignore[misc]  # TRL has no types
    """TRL's trainer, with logits only where there is something to learn.

    TRL leaves the others out on GPUs alone, and transformers keeps the same positions of all rows
    of a batch. With a vocabulary of 49,152 they are a third of the work; the loss is the same.
    """

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """The mean loss of the labelled tokens, as `Trainer.compute_loss` has it."""
        following = pad(inputs["labels"], (0, 1), value=IGNORED)[:, 1:]
        learned = following != IGNORED
        unwrapped = self.accelerator.unwrap_model(model)
        inner = unwrapped.get_base_model() if isinstance(unwrapped, PeftModel) else unwrapped
        words = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        with self.accelerator.autocast():
            hidden = inner.model(**words, use_cache=False).last_hidden_state
            logits = inner.lm_head(hidden[learned]).float()
        loss = cross_entropy(logits, following[learned], reduction="sum")
        loss = loss / (learned.sum() if num_items_in_batch is None else num_items_in_batch)
        return (loss, {"loss": loss}) if return_outputs else loss


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
