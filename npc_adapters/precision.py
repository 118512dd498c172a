"""The number format that training computes in: bf16 where this processor multiplies it."""

from __future__ import annotations

import torch


def has_bf16() -> bool:
    """Whether this CPU multiplies bf16 natively; elsewhere it is ten times slower than fp32."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def compute_dtype() -> torch.dtype:
    """The format of the products of 4-bit weights."""
    fast = torch.cuda.is_available() or has_bf16()
    return torch.bfloat16 if fast else torch.float32


def autocast() -> torch.autocast:
    """A context in which a CPU's matrix products are bf16 where that is faster, else fp32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=has_bf16())
