"""Students at one byte per weight: symmetric int8, one fp32 scale per row.

The C kernels multiply just these numbers, so a student kept so is half as large and opened in
half the time; in torch they are made bf16 again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from books.card import CARD_NAME, StudentCard, file_digest, read_card
from books.errors import StudentError
from engine.linear import quantize_rows

SCALE = ".scale"


def quantize(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices [R, C] as int8 with scales `NAME.scale` [R]; vectors stay as they are."""
    out: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if tensor.dim() == 2:
            out[name], out[name + SCALE] = quantize_rows(tensor)
        else:
            out[name] = tensor
    return out


def dequantize(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo `quantize`, in bf16; weights that aren't quantised pass through."""
    out: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name.endswith(SCALE):
            continue
        if tensor.dtype == torch.int8:
            tensor = (tensor.float() * weights[name + SCALE][:, None]).to(torch.bfloat16)
        out[name] = tensor
    return out


def quantize_student(folder: Path) -> StudentCard:
    """Rewrite a student's weights in int8, and its card, which is returned.

    Raises:
        StudentError: the weights are not the ones its card names.
    """
    card, path = read_card(folder), folder / "model.safetensors"
    if file_digest(path) != card.weights_digest:
        raise StudentError(f"{folder}: the weights don't match {CARD_NAME}; distil it again")
    partial = path.with_suffix(".partial")
    save_file(quantize(load(path.read_bytes())), partial, metadata={"format": "pt"})
    partial.replace(path)
    card = replace(card, weights_digest=file_digest(path))
    (folder / CARD_NAME).write_text(json.dumps(asdict(card), indent=2) + "\n")
    return card


def is_quantized(folder: Path) -> bool:
    """Whether a student's weights are int8 on disk."""
    with safe_open(folder / "model.safetensors", framework="pt") as stored:
        return any(name.endswith(SCALE) for name in stored.keys())  # noqa: SIM118


@torch.no_grad()
def round_model(model: Any) -> Any:
    """Round a model's matrices as `quantize` does, in place."""
    for parameter in model.parameters():
        if parameter.dim() == 2:
            quantized, scale = quantize_rows(parameter)
            parameter.copy_((quantized.float() * scale[:, None]).to(torch.bfloat16))
    return model


def int8_bytes(model: Any) -> int:
    """Bytes of a model's weights once quantised."""
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return sum(t.numel() * t.element_size() for t in quantize(weights).values())
