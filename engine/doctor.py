"""What this machine can do for the engine, in words."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch


def examine() -> dict[str, Any]:
    """Findings, each with `what`, `found` and `allows`, as one JSON-able document."""
    findings = [_processor(), _memory(), _torch(), _kernels(), _gpu(), _nf4()]
    return {"findings": findings}


def _finding(what: str, found: str, allows: str) -> dict[str, str]:
    return {"what": what, "found": found, "allows": allows}


def _processor() -> dict[str, str]:
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    return _finding(
        "processor",
        f"{platform.machine()}, {cores} cores, {usable} usable here",
        f"give the game what it needs and the engines the rest, about {max(1, usable // 2)} "
        "threads on a machine that also renders",
    )


def _memory() -> dict[str, str]:
    total, free = _meminfo("MemTotal"), _meminfo("MemAvailable")
    if total is None or free is None:
        return _finding("memory", "not told by this system", "set memory budgets by hand")
    # Weights with a third on top for caches, adapters and the process itself.
    billions = {bits: free / 1e9 / (bits / 8) / 1.33 for bits in (32, 8, 4)}
    return _finding(
        "memory",
        f"{total / 2**30:.1f} GiB, {free / 2**30:.1f} GiB free",
        f"a base of up to about {billions[32]:.1f} billion parameters in fp32, "
        f"{billions[8]:.1f} in int8, {billions[4]:.1f} in nf4",
    )


def _meminfo(field: str) -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(s.split()[1]) * 1024 for s in lines if s.startswith(field + ":")), None)


def _torch() -> dict[str, str]:
    return _finding(
        "torch",
        f"{torch.__version__}, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}",
        "every supported base in fp32",
    )


def _kernels() -> dict[str, str]:
    from engine.kernels import load_library

    library = load_library()
    if library is None:
        allows = "steps run in torch, int8 bases in fp32; a C compiler would make them fast"
        return _finding("C kernels", "no compiler", allows)
    found = f"compiled, {library.lanes} numbers to a vector"
    return _finding("C kernels", found, "int8, the default for serving on this CPU, and fp32")


def _gpu() -> dict[str, str]:
    if not torch.cuda.is_available():
        return _finding("GPU", "none that torch can use", "everything runs on the CPU")
    memory = torch.cuda.get_device_properties(0).total_memory
    return _finding(
        "GPU",
        f"{torch.cuda.get_device_name(0)}, {memory / 2**30:.1f} GiB",
        f"a base of up to about {memory / 1e9 / 2 / 1.33:.1f} billion parameters in bf16, "
        f"{memory / 1e9 * 2 / 1.33:.1f} in nf4",
    )


def _nf4() -> dict[str, str]:
    try:
        from engine.linear import Nf4Linear

        Nf4Linear(torch.eye(64), None)(torch.ones(1, 64))
    except (ImportError, RuntimeError, AttributeError) as error:
        return _finding("4 bit (nf4)", f"no: {error}", "nf4 bases are served in bf16 instead")
    fast = torch.cuda.is_available()
    allows = (
        "QLoRA training and serving"
        if fast
        else ("QLoRA training, slowly; serve such a base as int8 with nf4_rounded")
    )
    return _finding("4 bit (nf4)", "works", allows)
