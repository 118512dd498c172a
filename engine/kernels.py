"""The C kernels' library: compiled once per machine, kept in the user's cache, loaded by ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from ctypes import POINTER, c_float, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("kernels.c")
HEADER = Path(__file__).with_name("vectors.h")
# No -ffast-math: sums keep the order they are written in, so that no token's numbers depend on
# which copy of a loop computed them.
FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp")
COMPILE_TIMEOUT_S = 120.0


class Matrix(ctypes.Structure):
    """`Matrix` of kernels.c; `tensors` are what it points to."""

    tensors: tuple[Any, ...]
    _fields_ = [  # ctypes wants a plain list
        ("weight", c_void_p), ("scale", c_void_p), ("bias", c_void_p),
        ("in_size", c_int64), ("out_size", c_int64),
    ]  # fmt: skip


class Site(ctypes.Structure):
    """`Site` of kernels.c."""

    _fields_ = [
        ("a", c_void_p), ("b", c_void_p * 3), ("parts", c_int64), ("starts", c_int64 * 4),
    ]  # fmt: skip


class Layer(ctypes.Structure):
    """`Layer` of kernels.c."""

    _fields_ = [
        ("attention_norm", c_void_p), ("mlp_norm", c_void_p),
        ("q_norm", c_void_p), ("k_norm", c_void_p),
        ("qkv", Matrix), ("o", Matrix), ("gate_up", Matrix), ("down", Matrix),
        ("adapt_qkv", Site), ("adapt_o", Site), ("adapt_gate_up", Site), ("adapt_down", Site),
        ("keys", c_void_p), ("values", c_void_p), ("rotary", c_void_p), ("window", c_int64),
    ]  # fmt: skip


class Model(ctypes.Structure):
    """`Model` of kernels.c."""

    _fields_ = [
        ("layers", c_int64), ("hidden", c_int64), ("heads", c_int64), ("kv_heads", c_int64),
        ("head_dim", c_int64), ("wide", c_int64), ("half", c_int64), ("rank", c_int64),
        ("time", c_int64), ("gelu", c_int64), ("threads", c_int64),
        ("eps", c_float), ("attention_scale", c_float), ("embed_scale", c_float),
        ("embedding", c_void_p), ("norm", c_void_p), ("head", Matrix), ("layer", POINTER(Layer)),
    ]  # fmt: skip


class Step(ctypes.Structure):
    """`Step` of kernels.c."""

    _fields_ = [
        ("tokens", c_int64), ("wanted", c_int64), ("token_ids", c_void_p),
        ("positions", c_void_p), ("rows", c_void_p), ("slots", c_void_p),
        ("wanted_tokens", c_void_p), ("embeddings", c_void_p),
        ("x", c_void_p), ("y", c_void_p), ("attended", c_void_p),
        ("inner", c_void_p), ("scale", c_void_p), ("logits", c_void_p),
        ("operands", c_void_p), ("sums", c_void_p),
    ]  # fmt: skip


@cache
def load_library(full: bool = False) -> Any | None:
    """The kernels, compiled now if they never were on this machine; None without a compiler.

    Besides `run_step` and `run_steps` it tells what memory layouts depend on: `lanes`, how many
    numbers a vector of this processor holds, and `operand_bytes`.

    Args:
        full: for fp32 weights instead of int8.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    flags = (*FLAGS, "-DFULL") if full else FLAGS
    path = _cache_folder() / f"kernels-{_digest(flags)}.so"
    if not path.is_file():
        if compiler is None:
            return None
        try:
            _compile(compiler, flags, path)
        except (OSError, subprocess.SubprocessError) as error:
            detail = getattr(error, "stderr", "") or error
            warnings.warn(f"the C kernels don't compile here, using torch: {detail}", stacklevel=2)
            return None
    library = ctypes.CDLL(str(path))
    library.run_step.argtypes = [POINTER(Model), POINTER(Step)]
    library.run_steps.argtypes = [POINTER(Model), c_void_p, POINTER(Step), c_int64, c_int64]
    library.run_step.restype = library.run_steps.restype = None
    for name in ("lanes", "operand_bytes"):
        setattr(library, name, c_int64.in_dll(library, name).value)
    return library


def _compile(compiler: str, flags: tuple[str, ...], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / "kernels.so"
        command = [compiler, *flags, "-shared", "-fPIC", "-o", str(built), str(SOURCE), "-lm"]
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S
        )
        built.replace(path)  # whole or not at all, also when two engines start at once


def _digest(flags: tuple[str, ...]) -> str:
    """Changes with the source, the flags and the processor that -march=native meant."""
    processor = platform.machine() + platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text().splitlines()
        processor += next((s for s in lines if s.startswith(("flags", "Features"))), "")
    text = SOURCE.read_bytes() + HEADER.read_bytes() + repr((flags, processor)).encode()
    return hashlib.sha256(text).hexdigest()[:16]


def _cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "biblioteca"
