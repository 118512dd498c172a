"""Students as models: how large, initialised from what, saved and loaded."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from books.card import CARD_NAME, StudentCard, file_digest, read_card
from books.errors import DistillError, StudentError
from books.int8 import dequantize
from npc_adapters.induction import Planted, plant_induction

_HEAD_SIZE = 16
_WIDTHS = range(64, 1025, 32)
_LAYERS = 4
MIN_PARAMS = 100_000
MAX_PARAMS = 100_000_000


def parse_params(text: str) -> int:
    """A parameter budget such as "1M", "800k" or "1200000".

    Raises:
        DistillError: not a number, or outside what a student may be.
    """
    units = {"k": 1_000, "m": 1_000_000}
    lowered = text.strip().lower()
    try:
        budget = int(float(lowered.rstrip("km")) * units.get(lowered[-1:], 1))
    except ValueError as error:
        raise DistillError(f"--params is {text!r}; write a number such as 1M or 800k") from error
    if not MIN_PARAMS <= budget <= MAX_PARAMS:
        raise DistillError(f"--params is {text!r}; a student has 100k to 100M parameters")
    return budget


def student_config(num_params: int, vocab_size: int, context_tokens: int, end_id: int) -> Any:
    """The Llama shape nearest to 8/3 times as wide inside as outside that keeps the budget.

    Raises:
        DistillError: the vocabulary alone is beyond the budget.
    """
    best: tuple[float, int, int] | None = None
    for hidden in _WIDTHS:
        fixed = vocab_size * hidden + _LAYERS * (4 * hidden**2 + 2 * hidden) + hidden
        inner = (num_params - fixed) // (_LAYERS * 3 * hidden) // 16 * 16
        if inner >= hidden:
            fit = abs(inner / hidden - 8 / 3)
            best = min(best or (fit, hidden, inner), (fit, hidden, inner))
    if best is None:
        raise DistillError(
            f"{num_params:,} parameters are too few for a vocabulary of {vocab_size:,} tokens"
        )
    _, hidden, inner = best
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=_LAYERS,
        num_attention_heads=hidden // _HEAD_SIZE,
        num_key_value_heads=hidden // _HEAD_SIZE,
        max_position_embeddings=context_tokens,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end_id,
        pad_token_id=0,
    )


def new_student(
    config: Any, teacher: nn.Module | None, seed: int
) -> tuple[LlamaForCausalLM, Planted | None]:
    """A student with a width-equal teacher's evenly chosen layers, or with random weights.

    A random one gets a circuit that copies from its prompt, which so few steps would not teach
    it; the circuit is returned, to be held while the rest learns.
    """
    torch.manual_seed(seed)
    student = LlamaForCausalLM(config)
    if teacher is not None and _same_width(config, teacher.config):
        copy_layers(student, teacher)
        return student, None
    return student, plant_induction(student)


def copy_layers(student: Any, teacher: Any) -> None:
    """Initialise from the teacher: embeddings, norm, and layers spread from first to last."""
    depth, wanted = len(teacher.model.layers), len(student.model.layers)
    student.model.embed_tokens.load_state_dict(teacher.model.embed_tokens.state_dict())
    student.model.norm.load_state_dict(teacher.model.norm.state_dict())
    for number, layer in enumerate(student.model.layers):
        chosen = round(number * (depth - 1) / max(1, wanted - 1))
        layer.load_state_dict(teacher.model.layers[chosen].state_dict())


def _same_width(one: Any, other: Any) -> bool:
    names = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_attention_heads")
    return all(getattr(one, name, None) == getattr(other, name, None) for name in names)


def count_params(model: nn.Module) -> int:
    """Parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def save_student(
    model: Any, folder: Path, book: str, book_digest: str, tokenizer: Path
) -> StudentCard:
    """Write config, bf16 weights and card; `tokenizer` is the folder of the one it reads with."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads(model.config.to_json_string(use_diff=True)) | {"dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    weights = {
        name: tensor.detach().to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"  # tied to the embeddings
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    card = StudentCard(
        book=book,
        book_digest=book_digest,
        tokenizer=os.path.relpath(tokenizer.resolve(), folder.resolve()),
        tokenizer_digest=file_digest(tokenizer / "tokenizer.json"),
        weights_digest=file_digest(folder / "model.safetensors"),
        num_params=count_params(model),
    )
    (folder / CARD_NAME).write_text(json.dumps(asdict(card), indent=2) + "\n")
    return card


def load_model(folder: Path) -> Any:
    """A transformers model from a local folder, fp32, safetensors only.

    Raises:
        DistillError: the folder holds no such model.
    """
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise DistillError(f"{folder}: no model can be loaded: {error}") from error


def load_student(folder: Path) -> Any:
    """A student as a transformers model, fp32, whether its weights are quantised or not.

    Raises:
        StudentError: the folder holds no student, or its weights don't fit its config.
    """
    read_card(folder)
    try:
        config = LlamaConfig.from_pretrained(folder)
        weights = dequantize(load((folder / "model.safetensors").read_bytes()))
        student = LlamaForCausalLM(config).float()
        student.load_state_dict(weights, strict=False)
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
        raise StudentError(f"{folder}: the student can't be loaded: {error}") from error
    if missing := sorted({name for name, _ in student.named_parameters()} - set(weights)):
        raise StudentError(f"{folder}: the student's weights lack {missing[0]}")
    return student
