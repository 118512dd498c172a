"""Training an adapter with TRL and PEFT: from rows to a folder with weights, card and report."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from engine.linear import round_nf4
from engine.template import ChatTemplate
from npc_adapters.bases import name_base, replace_folder
from npc_adapters.blend import lay_on_lora, lies_on_lora
from npc_adapters.card import AdapterCard, base_digest, write_card
from npc_adapters.data import Row, data_digest, split_rows
from npc_adapters.encoding import encode
from npc_adapters.errors import TrainingError, UsageError
from npc_adapters.methods import (
    ATTENTION,
    LORA,
    Cost,
    check_method,
    default_lr,
    estimate,
    peft_config,
    upper_layers,
)
from npc_adapters.precision import compute_dtype, has_bf16
from npc_adapters.progress import draw_losses, quietly
from npc_adapters.trainer import IGNORED, make_trainer


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How an adapter is trained.

    Attributes:
        method: lora, qlora, dora, ia3, prompt, prefix, ptuning or full.
        lr: peak learning rate; 0 takes the method's default.
        warmup: share of the steps spent warming up.
        batch_size: rows per forward pass.
        accumulate: forward passes per optimizer step.
        first_layer: LoRA leaves the layers below it alone; no gradient has to reach them, which
            saves up to half of the time.
        replay: rows of general dialogue mixed in, as a share of the character's own, against
            forgetting (Rolnick et al. 2019).
        patience: epochs without a better validation loss before training stops.
        max_tokens: longer rows are left out.
        max_rows: use this many of the character's rows at most; 0 uses all.
        max_valid: judge on this many held-out rows at most, once per epoch; 0 uses all.
        strength: share of a LoRA's learned change that is served; at less, less of the base is
            forgotten (weight interpolation, Wortsman et al. 2022).
        checkpointing: recompute activations to save memory (Chen et al. 2016).
        nf4: train over a base rounded to 4 bit (QLoRA, Dettmers et al. 2023).
    """

    method: str = "lora"
    rank: int = 16
    alpha: float = 32
    dropout: float = 0.05
    targets: Sequence[str] = ATTENTION
    first_layer: int = 0
    epochs: float = 3
    lr: float = 0.0
    warmup: float = 0.08
    batch_size: int = 8
    accumulate: int = 1
    replay: float = 0.1
    patience: int = 2
    max_tokens: int = 640
    max_rows: int = 0
    max_valid: int = 64
    strength: float = 1.0
    checkpointing: bool = False
    seed: int = 1

    @property
    def nf4(self) -> bool:
        """Whether the base is held in 4 bit."""
        return self.method == "qlora"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a training run left: the folder, its card and the figures of its report."""

    folder: Path
    card: AdapterCard
    report: dict[str, Any]


def check_feasible(base: Path, config: TrainConfig) -> None:
    """Say before the start what cannot run here, and what could instead.

    Raises:
        UsageError: an unknown method.
        TrainingError: no 4-bit support, or too little memory.
    """
    check_method(config.method)
    for option, used in (("strength", config.strength != 1), ("first-layer", config.first_layer)):
        if used and config.method not in LORA:
            raise UsageError(
                f"{config.method} has no {option}, only {', '.join(LORA)} have; "
                f"leave --{option} out"
            )
    if not (base / "config.json").is_file():
        raise TrainingError(f"there is no base model in {base}; train or download one first")
    if config.nf4:
        _check_four_bit()
    cost, free = cost_of(base, config), free_memory()
    if cost.memory_bytes > free:
        instead = (
            "--method qlora, --checkpointing" if torch.cuda.is_available() else "--checkpointing"
        )
        raise TrainingError(
            f"{config.method} needs about {cost.memory_bytes / 2**30:.1f} GiB and "
            f"{free / 2**30:.1f} GiB are free; use {instead} or a smaller --batch-size"
        )


def cost_of(base: Path, config: TrainConfig) -> Cost:
    """Parameters and memory of a run, without reading any weights."""
    tokens = config.batch_size * config.max_tokens
    four_bit = config.nf4 and torch.cuda.is_available()
    return estimate(str(base), _peft(base, config), four_bit=four_bit, tokens_per_batch=tokens)


def _check_four_bit() -> None:
    try:
        import bitsandbytes.functional as four_bit

        four_bit.quantize_4bit(torch.ones(64, 64), quant_type="nf4")
    except (ImportError, RuntimeError, NotImplementedError) as error:
        raise TrainingError(
            f"4-bit weights don't work on this machine ({error}); use --method lora"
        ) from error


def free_memory() -> int:
    """Bytes that this process may still take."""
    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 2**63


def _peft(base: Path, config: TrainConfig) -> Any:
    return peft_config(
        config.method,
        rank=config.rank,
        alpha=config.alpha,
        dropout=config.dropout,
        targets=config.targets,
        layers=upper_layers(str(base), config.first_layer),
    )


def train_adapter(
    *,
    name: str,
    base: Path,
    rows: Sequence[Row],
    out: Path,
    config: TrainConfig,
    valid: Sequence[Row] = (),
    replay: Sequence[Row] = (),
    parent: Path | None = None,
    resume: bool = False,
    show: bool = True,
) -> Outcome:
    """Train an adapter on a character's rows.

    Args:
        name: whose adapter it is.
        base: folder of the base model.
        rows: checked rows with their system message.
        valid: held-out rows; without them a tenth of `rows` is held out, by hash.
        out: where the finished adapter goes; checkpoints sit in `out.work` until then.
        config: how to train.
        replay: general rows, of which `config.replay` times as many as own rows are mixed in.
        parent: adapter to go on from (same method and shape), or the LoRA adapter that a soft
            prompt is to lie on.
        resume: go on from the last whole epoch of a killed run, to the same weights.
        show: draw a progress bar.

    Raises:
        DataError, TrainingError, UsageError: what cannot be trained, said before it starts.
    """
    check_feasible(base, config)
    train, valid = (rows, valid) if valid else split_rows(rows)
    train, valid = train[: config.max_rows or None], valid[: config.max_valid or None]
    mixed = [*train, *_sample(replay, round(config.replay * len(train)), config.seed)]
    datasets = _datasets(name, base, (mixed, valid), config)
    torch.manual_seed(config.seed)
    work = out.with_name(out.name + ".work")
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    with quietly():
        model = load_for_training(base, config, parent)
        trainer, speed = make_trainer(model, base, datasets, work, config, show)
        result = _run(trainer, work)
    report = {
        **_report(trainer, config),
        "num_train_rows": len(train),
        "num_valid_rows": len(valid),
        "seconds": result.metrics["train_runtime"],
        "tokens_per_s": speed.tokens_per_s,
    }
    partial = out.with_name(out.name + ".partial")
    save_adapter(trainer.model, base, partial, report)
    if config.strength != 1:
        _weaken(partial, config.strength)
    if parent is not None and lies_on_lora(config.method, parent):
        lay_on_lora(partial, parent)
    metrics = {"valid_loss": report["valid_loss"]}
    card = write_card(partial, _card(name, base, rows, config, parent, metrics))
    replace_folder(partial, out)
    shutil.rmtree(work, ignore_errors=True)
    return Outcome(folder=out, card=card, report=report)


def _run(trainer: Any, work: Path) -> Any:
    """Train, from the last checkpoint if there is one."""
    try:
        return trainer.train(resume_from_checkpoint=any(work.glob("checkpoint-*")))
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{work} can't be written: {error}; go on with --resume") from error


def _datasets(
    name: str, base: Path, parts: Sequence[Sequence[Row]], config: TrainConfig
) -> list[Dataset]:
    """Training and held-out rows as token ids. Raises: TrainingError if none is short enough."""
    template = ChatTemplate(base)
    datasets = [to_dataset(template, part, config.max_tokens) for part in parts]
    for part, dataset in zip(("training", "validation"), datasets, strict=True):
        if len(dataset) == 0:
            raise TrainingError(f"{name} has no {part} row of at most {config.max_tokens} tokens")
    return datasets


def _card(
    name: str,
    base: Path,
    rows: Sequence[Row],
    config: TrainConfig,
    parent: Path | None,
    metrics: dict[str, float],
) -> AdapterCard:
    return AdapterCard(
        name=name,
        base=base.name,
        base_digest=base_digest(base),
        method=config.method,
        rank=config.rank if config.method in LORA else 0,
        alpha=config.alpha * config.strength,
        targets=tuple(config.targets),
        data_digest=data_digest(rows),
        num_rows=len(rows),
        metrics=metrics,
        parents=_parents(parent),
    )


def _parents(parent: Path | None) -> tuple[str, ...]:
    from engine.adapters import adapter_digest

    return (adapter_digest(parent),) if parent else ()


def _sample(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    return random.Random(seed).sample(list(rows), min(count, len(rows)))


def to_dataset(template: ChatTemplate, rows: Sequence[Row], max_tokens: int) -> Dataset:
    """Rows as token ids and labels; the loss is on the character's words only."""
    columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for row in rows:
        example = encode(template, row.messages)
        if len(example.ids) <= max_tokens:
            pairs = zip(example.ids, example.weights, strict=True)
            columns["input_ids"].append(list(example.ids))
            columns["labels"].append([token if w > 0 else IGNORED for token, w in pairs])
    return Dataset.from_dict(columns)


def load_for_training(base: Path, config: TrainConfig, parent: Path | None = None) -> Any:
    """The base with a fresh adapter, or with its parent's weights, ready to train.

    A soft prompt over a LoRA adapter is trained on the base with that adapter merged in.

    Raises:
        UsageError: the parent is made of several adapters.
    """
    if parent is not None and (parent / "blend.json").exists():
        raise UsageError(f"{parent} is a blend; training goes on from a single adapter only")
    # A frozen base is kept as it is computed with; the adapter's own weights stay fp32 (PEFT).
    frozen = config.method in LORA
    options: dict[str, Any] = {"dtype": compute_dtype() if frozen else torch.float32}
    if not torch.cuda.is_available() and has_bf16():
        options["attn_implementation"] = "eager"  # in bf16 the fused one's backward pass is slower
    if config.nf4 and torch.cuda.is_available():
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute_dtype(),
        )
    model = AutoModelForCausalLM.from_pretrained(base, **options)
    if config.nf4 and torch.cuda.is_available():
        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=config.checkpointing
        )
    elif config.nf4:
        _round_base(model)
    if lies_on_lora(config.method, parent):
        model = PeftModel.from_pretrained(model, parent).merge_and_unload()
    elif parent is not None:
        return PeftModel.from_pretrained(model, parent, is_trainable=True)
    peft = _peft(base, config)
    return model if peft is None else get_peft_model(model, peft)


@torch.no_grad()
def _round_base(model: Any) -> None:
    """Round a base's projections to 4 bit, once.

    On a CPU bitsandbytes would unpack them in every pass; the numbers are the same, and the
    memory that packing saves is not saved.
    """
    for module in model.model.layers.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.copy_(round_nf4(module.weight))


def _report(trainer: Any, config: TrainConfig) -> dict[str, Any]:
    """The figures of a run, for people and machines."""
    history = [{k: float(v) for k, v in e.items()} for e in trainer.state.log_history]
    best = min((entry["eval_loss"] for entry in history if "eval_loss" in entry), default=math.nan)
    parameters = list(trainer.model.parameters())
    return {
        "config": asdict(config) | {"lr": config.lr or default_lr(config.method)},
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "parameters": sum(p.numel() for p in parameters),
        "valid_loss": best,
        "valid_perplexity": math.exp(best),
        "history": history,
    }


def save_adapter(model: Any, base: Path, folder: Path, report: dict[str, Any]) -> None:
    """Weights, report and plot into a folder that nobody loads yet.

    Raises:
        TrainingError: the disk is full or not writable; nothing that was there is lost.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        # PEFT would look for the base on the hub to see whether its vocabulary grew.
        unchanged = {"save_embedding_layers": False} if isinstance(model, PeftModel) else {}
        model.save_pretrained(folder, **unchanged)
        (folder / "README.md").unlink(missing_ok=True)
        _round_weights(folder)
        name_base(folder, base)
        text = json.dumps(report, indent=2) + "\n"
        (folder / "report.json").write_text(text, encoding="utf-8")
        draw_losses(report["history"], folder / "loss.png")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise TrainingError(f"{folder} could not be saved: {error}") from error


def _weaken(folder: Path, strength: float) -> None:
    """Serve less of what a LoRA adapter learned: its scale is alpha / rank."""
    path = folder / "adapter_config.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    described["lora_alpha"] *= strength
    path.write_text(json.dumps(described, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _round_weights(folder: Path) -> None:
    """Store an adapter's weights as bf16: half the size, and what the base itself is kept in."""
    path = folder / "adapter_model.safetensors"
    if path.exists():
        tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
