"""What the slots of a shelf hold: students read from disk, verified, their products fused."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from books.card import CARD_NAME, read_card
from books.errors import StudentError
from books.int8 import SCALE
from engine.architecture import Architecture, read_architecture
from engine.errors import AdapterError, BaseModelError

_HASHING = ThreadPoolExecutor(1)  # hashing takes as long as the rest, and no interpreter lock


@dataclass(frozen=True, kw_only=True, slots=True)
class Student:
    """A student in host memory, checked: what a slot is filled with.

    Attributes:
        tensors: by site, "qkv.0", "embed" ...; [out, in] or [size]; where one is int8, its scales
            [out] as "qkv.0.scale".
    """

    path: Path
    digest: str
    size_bytes: int
    shape: Architecture
    config: Any
    tensors: dict[str, Tensor]
    rank: int = 0
    num_virtual: int = 0


def read_student(path: Path, tokenizer_digest: str | None) -> Student:
    """Read a student's folder and verify it.

    Args:
        path: the folder.
        tokenizer_digest: of the shelf's tokenizer; None while it has none.

    Raises:
        AdapterError: it is no student, damaged, or reads with another tokenizer.
    """
    try:
        card = read_card(path)
        shape, config = _architecture(path)
        weights = (path / "model.safetensors").read_bytes()
        digest = _HASHING.submit(lambda: sha256(weights).hexdigest())
    except (StudentError, BaseModelError) as error:
        raise AdapterError(str(error)) from error
    except OSError as error:
        raise AdapterError(f"{path}/model.safetensors can't be read: {error.strerror}") from error
    if tokenizer_digest is not None and card.tokenizer_digest != tokenizer_digest:
        raise AdapterError(
            f"{path} reads with the tokenizer {card.tokenizer_digest[:12]}, "
            f"this shelf's is {tokenizer_digest[:12]}"
        )
    try:
        tensors = _fuse(load(weights), shape)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise AdapterError(f"{path}/model.safetensors doesn't fit its config: {error}") from error
    finally:  # damage is told first, whatever it broke
        _check_digest(path, digest.result(), card.weights_digest)
    return Student(
        path=path,
        digest=card.weights_digest,
        size_bytes=len(weights),
        shape=shape,
        config=config,
        tensors=tensors,
    )


def _check_digest(path: Path, found: str, wanted: str) -> None:
    if found != wanted:
        raise AdapterError(
            f"{path}: the weights' digest is {found[:12]}, {CARD_NAME} says "
            f"{wanted[:12]}: damaged or changed"
        )


_ARCHITECTURES: dict[str, tuple[Architecture, Any]] = {}  # by the text of config.json


def _architecture(folder: Path) -> tuple[Architecture, Any]:
    """As `read_architecture`, which takes longer than the rest; a shelf's students share one."""
    path = folder / "config.json"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text not in _ARCHITECTURES:
        _ARCHITECTURES[text] = read_architecture(folder)
    return _ARCHITECTURES[text]


def _fuse(loaded: dict[str, Tensor], shape: Architecture) -> dict[str, Tensor]:
    """Tensors by site, the products that share an input joined; an int8 one's scales beside it."""
    tensors: dict[str, Tensor] = {}

    def join(site: str, *names: str) -> None:
        parts = [loaded[f"{name}.weight"] for name in names]
        tensors[site] = torch.cat(parts) if len(parts) > 1 else parts[0]
        if any(part.dtype == torch.int8 for part in parts):
            tensors[site + SCALE] = torch.cat([loaded[f"{name}.weight{SCALE}"] for name in names])

    join("embed", "model.embed_tokens")
    join("norm", "model.norm")
    for number in range(shape.num_layers):
        prefix = f"model.layers.{number}."
        join(f"attention_norm.{number}", f"{prefix}input_layernorm")
        join(f"mlp_norm.{number}", f"{prefix}post_attention_layernorm")
        join(f"qkv.{number}", *(f"{prefix}self_attn.{name}_proj" for name in "qkv"))
        join(f"o.{number}", f"{prefix}self_attn.o_proj")
        join(f"gate_up.{number}", *(f"{prefix}mlp.{name}_proj" for name in ("gate", "up")))
        join(f"down.{number}", f"{prefix}mlp.down_proj")
    sizes = site_sizes(shape)
    for name, tensor in tensors.items():
        wanted = sizes[name.removesuffix(SCALE)][: 1 if name.endswith(SCALE) else None]
        if tuple(tensor.shape) != wanted:
            raise KeyError(f"{name} is {tuple(tensor.shape)}, not {wanted}")
    return tensors


def site_sizes(shape: Architecture) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of one student."""
    hidden, inner = shape.hidden_size, shape.intermediate_size
    sizes: dict[str, tuple[int, ...]] = {
        "embed": (shape.vocab_size, hidden),
        "norm": (hidden,),
    }
    for number in range(shape.num_layers):
        sizes[f"attention_norm.{number}"] = sizes[f"mlp_norm.{number}"] = (hidden,)
        sizes[f"qkv.{number}"] = (shape.q_size + 2 * shape.kv_size, hidden)
        sizes[f"o.{number}"] = (hidden, shape.q_size)
        sizes[f"gate_up.{number}"] = (2 * inner, hidden)
        sizes[f"down.{number}"] = (hidden, inner)
    return sizes


def check_shape(student: Student, shape: Architecture) -> None:
    """Raises: AdapterError naming what differs from the shelf's shape."""
    for name in Architecture.__dataclass_fields__:
        mine, theirs = getattr(shape, name), getattr(student.shape, name)
        if mine != theirs:
            raise AdapterError(
                f"{student.path} has {name} {theirs}, the shelf's students have {mine}; "
                "one shelf holds students of one architecture"
            )


class StudentBank(ABC):
    """Slots that an adapter store fills with students of one shape; slot 0 is unused."""

    optional = False

    def __init__(self, shape: Architecture, num_slots: int, tokenizer_digest: str) -> None:
        self.shape, self.num_slots = shape, num_slots
        self._tokenizer_digest = tokenizer_digest

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """Memory of the slots."""

    @abstractmethod
    def write(self, slot: int, content: Student) -> None:
        """Put a student into a slot."""

    def read(self, path: Path) -> Student:
        """Read a student of this shelf's shape. Raises: AdapterError."""
        student = read_student(path, self._tokenizer_digest)
        check_shape(student, self.shape)
        return student
