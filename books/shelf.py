"""The shelf: students of one shape, stacked, so that many books answer in one forward pass.

The engine's own scheduler, sampler and caches run it; what differs is that every product takes
its weights from the slot of the token's book. A book that is asked and not in a slot is read
from disk (its digest verified again), written into the slot least recently used, and runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from books.card import CARD_NAME, file_digest, read_card, tokenizer_folder
from books.errors import StudentError
from books.int8 import dequantize
from books.stacked import PromptBatch, StackedLinear, prompt_batches
from engine.architecture import Architecture, read_architecture, rotary_tables
from engine.config import EngineConfig
from engine.engine import Engine
from engine.errors import AdapterError, BaseModelError, RequestError
from engine.kv_cache import KVCache
from engine.loader import LoadedBase, resolve
from engine.model import Decoder, Layer, Step
from engine.requests import AdapterInfo, EngineStats, Event, GenerationRequest
from engine.slots import Run, SlotPlan
from engine.template import ChatTemplate


@dataclass(frozen=True, kw_only=True, slots=True)
class Student:
    """A student in host memory, checked: what a slot is filled with.

    Attributes:
        tensors: by site, "qkv.0", "embed" ...; [out, in] or [size].
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
        shape, config = read_architecture(path)
        weights = (path / "model.safetensors").read_bytes()
    except (StudentError, BaseModelError) as error:
        raise AdapterError(str(error)) from error
    except OSError as error:
        raise AdapterError(f"{path}/model.safetensors can't be read: {error.strerror}") from error
    if tokenizer_digest is not None and card.tokenizer_digest != tokenizer_digest:
        raise AdapterError(
            f"{path} reads with the tokenizer {card.tokenizer_digest[:12]}, "
            f"this shelf's is {tokenizer_digest[:12]}"
        )
    found = sha256(weights).hexdigest()
    if found != card.weights_digest:
        raise AdapterError(
            f"{path}: the weights' digest is {found[:12]}, {CARD_NAME} says "
            f"{card.weights_digest[:12]}: damaged or changed"
        )
    try:
        tensors = _fuse(dequantize(load(weights)), shape)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise AdapterError(f"{path}/model.safetensors doesn't fit its config: {error}") from error
    return Student(
        path=path,
        digest=found,
        size_bytes=len(weights),
        shape=shape,
        config=config,
        tensors=tensors,
    )


def _fuse(loaded: dict[str, Tensor], shape: Architecture) -> dict[str, Tensor]:
    """Tensors by site, the products that share an input joined."""
    tensors = {"embed": loaded["model.embed_tokens.weight"], "norm": loaded["model.norm.weight"]}
    for number in range(shape.num_layers):
        prefix = f"model.layers.{number}."
        q, k, v, o = (loaded[f"{prefix}self_attn.{name}_proj.weight"] for name in "qkvo")
        gate, up, down = (loaded[f"{prefix}mlp.{name}_proj.weight"] for name in _MLP)
        tensors[f"attention_norm.{number}"] = loaded[f"{prefix}input_layernorm.weight"]
        tensors[f"mlp_norm.{number}"] = loaded[f"{prefix}post_attention_layernorm.weight"]
        tensors[f"qkv.{number}"] = torch.cat((q, k, v))
        tensors[f"o.{number}"] = o
        tensors[f"gate_up.{number}"] = torch.cat((gate, up))
        tensors[f"down.{number}"] = down
    sizes = site_sizes(shape)
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != sizes[name]:
            raise KeyError(f"{name} is {tuple(tensor.shape)}, not {sizes[name]}")
    return tensors


_MLP = ("gate", "up", "down")


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


class StudentBank:
    """Slots of stacked students: every tensor `[slots + 1, ...]`, slot 0 unused."""

    optional = False

    def __init__(
        self, shape: Architecture, num_slots: int, tokenizer_digest: str, dtype: torch.dtype
    ) -> None:
        self.shape, self.num_slots = shape, num_slots
        self._tokenizer_digest = tokenizer_digest
        self.stacks = {
            name: torch.zeros(num_slots + 1, *size, dtype=dtype)
            for name, size in site_sizes(shape).items()
        }

    @property
    def size_bytes(self) -> int:
        """Memory of all slots."""
        return sum(stack.numel() * stack.element_size() for stack in self.stacks.values())

    def read(self, path: Path) -> Student:
        """Read a student of this shelf's shape. Raises: AdapterError."""
        student = read_student(path, self._tokenizer_digest)
        check_shape(student, self.shape)
        return student

    def write(self, slot: int, content: Student) -> None:
        """Put a student into a slot, in place."""
        for name, tensor in content.tensors.items():
            self.stacks[name][slot] = tensor


def check_shape(student: Student, shape: Architecture) -> None:
    """Raises: AdapterError naming what differs from the shelf's shape."""
    for name in Architecture.__dataclass_fields__:
        mine, theirs = getattr(shape, name), getattr(student.shape, name)
        if mine != theirs:
            raise AdapterError(
                f"{student.path} has {name} {theirs}, the shelf's students have {mine}; "
                "one shelf holds students of one architecture"
            )


class StepSlots:
    """Which slot each token of a step belongs to; worked out once per step."""

    def __init__(self) -> None:
        self._step: Step | None = None
        self.tokens = torch.empty(0, dtype=torch.long)
        self.wanted = SlotPlan((), self.tokens.device, skip_zero=False)
        self.prompts: list[PromptBatch] = []

    def of(self, step: Step) -> StepSlots:
        """Itself, up to date with the step."""
        if self._step is not step:
            self._step = step
            slots = [run.slot for run in step.runs for _ in range(run.length)]
            self.tokens = torch.tensor(slots)
            runs = [
                Run(row=0, slot=slots[token], position=0, start=place, length=1)
                for place, token in enumerate(step.wanted.tolist())
            ]
            self.wanted = SlotPlan(runs, step.rows.device, skip_zero=False)
            self.prompts = prompt_batches(step.plan.chunks)
        return self


def build_decoder(bank: StudentBank, config: Any, cache: KVCache) -> Decoder:
    """A decoder whose every weight is looked up by the token's slot."""
    shape, slots = bank.shape, StepSlots()

    def norm(name: str) -> Any:
        weight = bank.stacks[name]

        def apply(x: Tensor, step: Step) -> Tensor:
            return F.rms_norm(x, x.shape[1:], None, shape.norm_eps) * weight[slots.of(step).tokens]

        return apply

    def last_norm(x: Tensor, step: Step) -> Tensor:
        chosen = bank.stacks["norm"][slots.of(step).tokens[step.wanted]]
        return F.rms_norm(x, x.shape[1:], None, shape.norm_eps) * chosen

    def linear(name: str) -> Any:
        stacked = StackedLinear(bank.stacks[name])
        return lambda x, step: stacked(x, step.plan, slots.of(step).prompts)

    def embed(token_ids: Tensor, step: Step) -> Tensor:
        return bank.stacks["embed"][slots.of(step).tokens, token_ids]

    head = StackedLinear(bank.stacks["embed"])
    return Decoder(
        shape,
        embed=embed,
        layers=[
            Layer(
                attention_norm=norm(f"attention_norm.{number}"),
                qkv=linear(f"qkv.{number}"),
                o=linear(f"o.{number}"),
                mlp_norm=norm(f"mlp_norm.{number}"),
                gate_up=linear(f"gate_up.{number}"),
                down=linear(f"down.{number}"),
            )
            for number in range(shape.num_layers)
        ],
        norm=last_norm,
        head=lambda x, step: head(x, slots.of(step).wanted),
        rotary=rotary_tables(config, shape, cache.length),
        cache=cache,
    )


class Shelf:
    """A core for `engine.service`: the engine over stacked students, made for the first one.

    A world may have no student yet. The first one put on the shelf decides the tokenizer and
    the shape of the stacks; until then every question is refused by name.
    """

    def __init__(self, config: EngineConfig) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        self._config = config
        self._engine: Engine | None = None
        self._bank: StudentBank | None = None
        self._tokenizer_digest: str | None = None

    def add_request(self, request: GenerationRequest) -> None:
        """Queue a question to a book. Raises: AdapterError, RequestError."""
        if request.adapter is None:
            raise RequestError("the request names no book; on a shelf every request needs one")
        if self._engine is None:
            raise AdapterError(f"no book named {request.adapter!r} is on the shelf; it is empty")
        self._engine.add_request(request)

    def cancel(self, request_id: str) -> bool:
        """Stop a request at the next step."""
        return self._engine is not None and self._engine.cancel(request_id)

    def has_work(self) -> bool:
        """Whether any book is answering."""
        return self._engine is not None and self._engine.has_work()

    def step(self) -> list[Event]:
        """Advance every book that is answering."""
        return self._engine.step() if self._engine is not None else []

    def read_adapter(self, path: str) -> Student:
        """Read a student. Raises: AdapterError."""
        student = read_student(Path(path), self._tokenizer_digest)
        if self._engine is not None:
            check_shape(student, self._engine.base.architecture)
        return student

    def install_adapter(self, name: str, adapter: Student, pinned: bool) -> AdapterInfo:
        """Put a student on the shelf under its book's name. Raises: AdapterError."""
        if self._engine is None:
            self._engine = self._build_engine(adapter)
        check_shape(adapter, self._engine.base.architecture)
        return self._engine.install_adapter(name, adapter, pinned)

    def unload_adapter(self, name: str) -> None:
        """Take a book off the shelf. Raises: AdapterError if it isn't there."""
        if self._engine is None:
            raise AdapterError(f"no book named {name!r} is on the shelf; it is empty")
        self._engine.unload_adapter(name)

    def adapters(self) -> list[AdapterInfo]:
        """Every book on the shelf."""
        return self._engine.adapters() if self._engine is not None else []

    def stats(self) -> EngineStats:
        """Counters and gauges."""
        if self._engine is not None:
            return self._engine.stats()
        return EngineStats(**dict.fromkeys(EngineStats.__dataclass_fields__, 0))

    @property
    def size_bytes(self) -> int:
        """Memory of the students' slots."""
        return self._bank.size_bytes if self._bank is not None else 0

    def _build_engine(self, student: Student) -> Engine:
        config, shape = self._config, student.shape
        try:
            folder = tokenizer_folder(student.path)
        except StudentError as error:
            raise AdapterError(str(error)) from error
        template = ChatTemplate(folder)
        self._tokenizer_digest = file_digest(folder / "tokenizer.json")
        device, quantization = resolve(config)
        dtype = torch.bfloat16 if quantization == "bf16" else torch.float32
        length = min(config.context_tokens or shape.context_tokens, shape.context_tokens)
        self._bank = bank = StudentBank(shape, config.adapter_slots, self._tokenizer_digest, dtype)
        cache = KVCache(shape, config.max_rows, length, dtype, device)
        base = LoadedBase(
            folder=folder,
            digest=self._tokenizer_digest,
            architecture=shape,
            quantization=quantization,
            decoder=build_decoder(bank, student.config, cache),
            bank=bank,
            cache=cache,
            eos_ids=frozenset() if template.end_id is None else frozenset([template.end_id]),
            device=device,
        )
        return Engine(config, base, template)


def build_shelf(config: EngineConfig) -> Shelf:
    """A shelf with `adapter_slots` students ready to run and `host_bytes` of others read.

    Students bring their tokenizer and shape, so `config.base` only names where they lie.
    """
    return Shelf(config)
