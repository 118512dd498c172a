"""How an engine is set up: one frozen object, passed down, sent to the worker process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.errors import BaseModelError

Quantization = Literal["auto", "none", "bf16", "int8", "nf4"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineConfig:
    """Which base to serve and how much of the machine it may take.

    Attributes:
        base: folder of a transformers model, or a hub id.
        quantization: "none" is fp32, "int8" is W8A8, "nf4" is bitsandbytes' 4 bit; "auto" is
            int8 on a CPU and bf16 on a GPU.
        nf4_rounded: round the weights through nf4 before any other quantisation; for a base
            whose adapter was trained over nf4 weights, served fast without 4-bit kernels.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads of a step; 0 lets torch decide.
        adapter_slots: adapters that can run at once.
        max_rank: largest LoRA rank a slot holds.
        max_rows: requests that run at once; more wait.
        context_tokens: longest prompt plus reply; 0 takes the base's own limit, at most 2048.
        prefill_tokens: most prompt tokens computed in one step, so that streams never stall.
        cache_bytes: memory for cached prefixes of finished and shared prompts.
        host_bytes: memory for adapters that have been read but sit in no slot.
        compiled: use the C kernels (int8 and fp32 on a CPU) when this machine has a compiler;
            without, int8 is served as fp32, whose last bits differ with what else is in the batch.
        hang_s: a worker process that answers nothing for so long between steps is replaced.
    """

    base: str
    quantization: Quantization = "auto"
    nf4_rounded: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 0
    adapter_slots: int = 16
    max_rank: int = 16
    max_rows: int = 16
    context_tokens: int = 0
    prefill_tokens: int = 256
    cache_bytes: int = 256 << 20
    host_bytes: int = 512 << 20
    compiled: bool = True
    hang_s: float = 60.0

    def __post_init__(self) -> None:
        """Refuse sizes that no engine can have."""
        for name in ("adapter_slots", "max_rank", "max_rows", "prefill_tokens"):
            if getattr(self, name) < 1:
                raise BaseModelError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("threads", "context_tokens", "cache_bytes", "host_bytes"):
            if getattr(self, name) < 0:
                raise BaseModelError(f"{name} is {getattr(self, name)}; it must be 0 or more")
