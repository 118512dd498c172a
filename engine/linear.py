"""Matrix products of the decoder: weights of several precisions behind one call."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.config import Quantization

# Where a processor multiplies bf16, it asks for a package whose kernels lie on a hub.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

Linear = Callable[[Tensor], Tensor]
"""y = x W^T + b for the tokens of a step: [N, in] -> [N, out], in the model's dtype."""


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 with one scale per row: [R, C] -> int8 [R, C], fp32 scale [R]."""
    weight = weight.float()
    scale = weight.abs().amax(dim=1).clamp_min(1e-12) / 127.0
    return (weight / scale[:, None]).round().to(torch.int8), scale


class Nf4Linear:
    """Weights in 4 bit (Dettmers et al. 2023), multiplied by bitsandbytes."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        import bitsandbytes.functional as functional

        self.bias = bias
        self.packed, self.state = functional.quantize_4bit(
            weight, quant_type="nf4", compress_statistics=True
        )

    def __call__(self, x: Tensor) -> Tensor:
        """Apply to every token."""
        import bitsandbytes

        y: Tensor = bitsandbytes.matmul_4bit(x, self.packed.t(), self.state, bias=self.bias)
        return y


def round_nf4(weight: Tensor) -> Tensor:
    """The weights that training over nf4 sees: quantised and dequantised."""
    import bitsandbytes.functional as functional

    packed, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    rounded: Tensor = functional.dequantize_4bit(packed, state)
    return rounded.to(weight.dtype)


def make_linear(weight: Tensor, bias: Tensor | None, quantization: Quantization) -> Linear:
    """The linear in torch for a resolved quantisation; int8 is the C kernels' alone."""
    if quantization == "nf4":
        return Nf4Linear(weight, bias)
    return lambda x: F.linear(x, weight, bias)
