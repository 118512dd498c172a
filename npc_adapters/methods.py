"""The ways to adapt a base, and what each one costs in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    TaskType,
    get_peft_model,
)
from transformers import AutoConfig, AutoModelForCausalLM

from npc_adapters.errors import UsageError

Method = Literal["lora", "qlora", "dora", "ia3", "prompt", "prefix", "ptuning", "full"]
METHODS: tuple[str, ...] = get_args(Method)
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
ALL_LINEAR = (*ATTENTION, *MLP)
LORA = ("lora", "qlora", "dora")
SOFT = ("prompt", "prefix", "ptuning")  # vectors ahead of the words; weights stay as they are
VIRTUAL_TOKENS = 16
_DEFAULT_LR = {"lora": 1e-3, "qlora": 1e-3, "dora": 1e-3, "full": 2e-4}


def check_method(method: str) -> None:
    """Refuse a method that does not exist. Raises: UsageError."""
    if method not in METHODS:
        raise UsageError(f"no method {method!r}; there are: {', '.join(METHODS)}")


def default_lr(method: str) -> float:
    """A learning rate to start from; methods with few parameters need a large one."""
    return _DEFAULT_LR.get(method, 1e-2)


def upper_layers(base: str, first: int) -> range | None:
    """The numbers of a base's layers from `first` on; None for all of them.

    Raises:
        UsageError: the base has no such layer.
    """
    if first == 0:
        return None
    depth = AutoConfig.from_pretrained(base, trust_remote_code=False).num_hidden_layers
    if not 0 < first < depth:
        raise UsageError(f"first layer {first} is none of this base's, 0 to {depth - 1}")
    return range(first, depth)


def peft_config(
    method: str,
    *,
    rank: int,
    alpha: float,
    dropout: float,
    targets: Sequence[str],
    layers: Sequence[int] | None = None,
) -> PeftConfig | None:
    """PEFT's configuration of a method; None for full fine-tuning.

    Args:
        method: one of `METHODS`.
        rank: of LoRA.
        alpha: LoRA's scale is alpha / rank.
        dropout: on LoRA's input.
        targets: projections that LoRA changes.
        layers: in which of the base's layers; None means in all.

    Raises:
        UsageError: an unknown method.
    """
    check_method(method)
    task = TaskType.CAUSAL_LM
    if method in LORA:
        return LoraConfig(
            task_type=task,
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            target_modules=list(targets),
            use_dora=method == "dora",
            layers_to_transform=None if layers is None else list(layers),
            layers_pattern=None if layers is None else "layers",
        )
    if method == "ia3":
        return IA3Config(
            task_type=task,
            target_modules=["k_proj", "v_proj", "down_proj"],
            feedforward_modules=["down_proj"],
        )
    if method == "prompt":
        return PromptTuningConfig(task_type=task, num_virtual_tokens=VIRTUAL_TOKENS)
    if method == "prefix":
        return PrefixTuningConfig(task_type=task, num_virtual_tokens=VIRTUAL_TOKENS)
    if method == "ptuning":
        return PromptEncoderConfig(
            task_type=task, num_virtual_tokens=VIRTUAL_TOKENS, encoder_hidden_size=128
        )
    return None


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run needs: parameters, and bytes of memory at its peak (an estimate)."""

    trainable: int
    total: int
    memory_bytes: int

    @property
    def share(self) -> float:
        """Trainable share of all parameters, 0 to 1."""
        return self.trainable / self.total


def estimate(
    base: str, config: PeftConfig | None, *, four_bit: bool, tokens_per_batch: int
) -> Cost:
    """Count parameters on the meta device (no weights are read) and estimate memory.

    Weights take 4 bytes each (0.55 in nf4), a trainable one 12 more (gradient and Adam's two
    moments), and a token 34 hidden vectors per layer plus two rows of logits (fp32), after
    Korthikanti et al. 2022, without checkpointing.
    """
    shape = AutoConfig.from_pretrained(base, trust_remote_code=False)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(shape)
        if config is not None:
            model = get_peft_model(model, config)
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    per_token = 34 * shape.hidden_size * shape.num_hidden_layers + 2 * 4 * shape.vocab_size
    weights = (total - trainable) * (0.55 if four_bit else 4) + trainable * 16
    return Cost(trainable, total, int(weights + per_token * tokens_per_batch))
