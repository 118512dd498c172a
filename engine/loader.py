"""From a model folder to a decoder: safetensors only, one tensor at a time."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from engine.architecture import DEFAULT_CONTEXT, Architecture, read_architecture, rotary_tables
from engine.config import EngineConfig, Quantization
from engine.errors import BaseModelError
from engine.kv_cache import KVCache
from engine.linear import Linear, make_linear, round_nf4
from engine.lora import AdaptedLinear, LoraBank
from engine.model import Decoder, Layer, Step, StepFunction
from engine.store import Bank


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedBase:
    """A base ready to run, with what belongs to it."""

    folder: Path
    digest: str
    architecture: Architecture
    quantization: Quantization
    decoder: Decoder
    bank: Bank
    cache: KVCache
    eos_ids: frozenset[int]
    device: torch.device


class RmsNorm:
    """Root mean square norm (Zhang & Sennrich 2019) over the last dimension."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight, self.eps = weight, eps

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        """Norm every vector."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Embedding:
    """Token vectors: weight [vocabulary, hidden], returned in the model's dtype."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self.weight, self.dtype = weight, dtype

    def __call__(self, token_ids: Tensor, step: Step) -> Tensor:
        """Look up: int64 [N] -> [N, hidden]."""
        return self.weight[token_ids].to(self.dtype)


class Head:
    """The product that ends in logits."""

    def __init__(self, linear: Linear) -> None:
        self.linear = linear

    def __call__(self, x: Tensor, step: Step) -> Tensor:
        """[M, hidden] -> [M, vocabulary]."""
        return self.linear(x)


def find_folder(base: str) -> Path:
    """The local folder of a base, fetched from the hub if it is no folder here.

    Raises:
        BaseModelError: it is neither a folder nor a model that can be fetched.
    """
    if Path(base).is_dir():
        return Path(base)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    patterns = ["*.json", "*.safetensors", "*.jinja", "tokenizer*"]
    try:
        return Path(snapshot_download(base, allow_patterns=patterns))
    except (OSError, HFValidationError, HfHubHTTPError) as error:
        raise BaseModelError(
            f"base {base!r} is neither a folder nor a model on the hub: {error}"
        ) from error


def file_digest(paths: list[Path]) -> str:
    """SHA-256 over the contents of files, in hexadecimal."""
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


class WeightFiles:
    """The tensors of a model folder by name, read when asked for."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.paths = sorted(folder.glob("*.safetensors"))
        if not self.paths:
            others = [p.name for p in folder.glob("*.bin")] + [p.name for p in folder.glob("*.pt")]
            found = f"only {', '.join(others)}" if others else "no weights"
            raise BaseModelError(f"{folder} holds {found}; weights must be .safetensors")
        self._folder, self._files = folder, {}
        for path in self.paths:
            try:
                opened = stack.enter_context(safe_open(path, framework="pt"))
            except Exception as error:  # safetensors has no error class of its own to name
                raise BaseModelError(f"{path} is damaged: {error}") from error
            self._files.update(dict.fromkeys(opened.keys(), opened))

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def get(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """One tensor. Raises: BaseModelError if it is missing or of another shape."""
        if name not in self._files:
            raise BaseModelError(f"{self._folder} holds no tensor {name!r}")
        tensor: Tensor = self._files[name].get_tensor(name)
        if tuple(tensor.shape) != shape:
            raise BaseModelError(
                f"{self._folder}: {name} has shape {tuple(tensor.shape)}, not {shape}"
            )
        return tensor


def resolve(config: EngineConfig) -> tuple[torch.device, Quantization]:
    """The device and quantisation that "auto" stands for here; 4 bit falls back with a warning."""
    gpu = torch.cuda.is_available()
    if config.device == "cuda" and not gpu:
        raise BaseModelError("device is 'cuda', but torch finds no GPU; use 'cpu'")
    device = torch.device("cuda" if gpu and config.device != "cpu" else "cpu")
    quantization = config.quantization
    if quantization == "auto" or (quantization == "int8" and device.type == "cuda"):
        quantization = "bf16" if device.type == "cuda" else "int8"
    if quantization == "nf4":
        try:
            make_linear(torch.zeros(64, 64, device=device), None, "nf4")
        except (ImportError, RuntimeError, AttributeError) as error:
            warnings.warn(f"4-bit weights don't work here ({error}); using bf16", stacklevel=2)
            quantization = "bf16"
    return device, quantization


def load_base(config: EngineConfig) -> LoadedBase:
    """Load a base as configured.

    Raises:
        BaseModelError: missing, incomplete, damaged, or an unsupported architecture.
    """
    folder = find_folder(config.base)
    shape, hf_config = read_architecture(folder)
    device, quantization = resolve(config)
    dtype = torch.bfloat16 if quantization == "bf16" else torch.float32
    if device.type == "cuda" and quantization == "nf4":
        dtype = torch.bfloat16
    length = config.context_tokens or min(shape.context_tokens, DEFAULT_CONTEXT)
    if length > shape.context_tokens:
        raise BaseModelError(
            f"context_tokens is {length}; {folder.name} was made for {shape.context_tokens}"
        )
    cache = KVCache(shape, config.max_rows, length, dtype, device)
    tables = [table.to(device) for table in rotary_tables(hf_config, shape, length)]
    with ExitStack() as stack:
        files = WeightFiles(folder, stack)
        digest = file_digest([folder / "config.json", *files.paths])
        bank = LoraBank(shape, config.adapter_slots, config.max_rank, digest, dtype, device)
        builder = _Builder(shape, files, config, quantization, dtype, device, bank)
        decoder = Decoder(
            shape,
            embed=Embedding(builder.embedding, dtype),
            layers=list(builder.layers()),
            norm=builder.norm("model.norm.weight", shape.hidden_size),
            head=Head(builder.head()),
            rotary=tables,
            cache=cache,
        )
    return LoadedBase(
        folder=folder,
        digest=digest,
        architecture=shape,
        quantization=quantization,
        decoder=decoder,
        bank=bank,
        cache=cache,
        eos_ids=read_eos_ids(folder, hf_config),
        device=device,
    )


def read_eos_ids(folder: Path, hf_config: Any) -> frozenset[int]:
    """Tokens that end a text, as `generate` would take them."""
    path = folder / "generation_config.json"
    found = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
    if found is None:
        found = getattr(hf_config, "eos_token_id", None)
    return frozenset([found] if isinstance(found, int) else found or ())


class _Builder:
    """Makes the decoder's parts out of a folder's tensors."""

    def __init__(
        self,
        shape: Architecture,
        files: WeightFiles,
        config: EngineConfig,
        quantization: Quantization,
        dtype: torch.dtype,
        device: torch.device,
        bank: LoraBank,
    ) -> None:
        self._shape, self._files, self._bank = shape, files, bank
        self._nf4_rounded = config.nf4_rounded
        self._quantization, self._dtype, self._device = quantization, dtype, device
        self.embedding = self._get("model.embed_tokens.weight", shape.vocab_size, shape.hidden_size)

    def _get(self, name: str, *shape: int) -> Tensor:
        return self._files.get(name, shape).to(device=self._device, dtype=self._dtype)

    def norm(self, name: str, size: int) -> StepFunction:
        weight = self._get(name, size)
        return RmsNorm(weight + 1 if self._shape.norm_offset else weight, self._shape.norm_eps)

    def head(self) -> Linear:
        # Transformers leaves the head out of 4-bit quantisation, and so must we to be exact.
        kind = "none" if self._quantization == "nf4" else self._quantization
        shape = (self._shape.vocab_size, self._shape.hidden_size)
        tied = self._shape.tied or "lm_head.weight" not in self._files
        return make_linear(
            self.embedding if tied else self._get("lm_head.weight", *shape), None, kind
        )

    def layers(self) -> Iterator[Layer]:
        for number in range(self._shape.num_layers):
            yield self._layer(number)

    def _layer(self, number: int) -> Layer:
        shape, prefix = self._shape, f"model.layers.{number}."
        hidden, head = shape.hidden_size, shape.head_dim

        def norm(name: str, size: int) -> StepFunction:
            return self.norm(f"{prefix}{name}.weight", size)

        before_mlp = "pre_feedforward_layernorm" if shape.sandwich else "post_attention_layernorm"
        return Layer(
            attention_norm=norm("input_layernorm", hidden),
            qkv=self._linear(number, "qkv"),
            o=self._linear(number, "o"),
            mlp_norm=norm(before_mlp, hidden),
            gate_up=self._linear(number, "gate_up"),
            down=self._linear(number, "down"),
            q_norm=norm("self_attn.q_norm", head) if shape.qk_norm else None,
            k_norm=norm("self_attn.k_norm", head) if shape.qk_norm else None,
            after_attention_norm=(
                norm("post_attention_layernorm", hidden) if shape.sandwich else None
            ),
            after_mlp_norm=norm("post_feedforward_layernorm", hidden) if shape.sandwich else None,
        )

    def _linear(self, number: int, site: str) -> AdaptedLinear:
        found = self._bank.sites[site]
        names = [f"model.layers.{number}.{part.name}" for part in found.parts]
        sizes = [part.size for part in found.parts]
        weights = [
            self._get(f"{name}.weight", size, found.in_size)
            for name, size in zip(names, sizes, strict=True)
        ]
        if self._quantization == "nf4":
            # Blocks of 64 must not straddle two modules, or they would differ from training.
            base: Linear = _SideBySide(
                [
                    make_linear(w, self._bias(n, s), "nf4")
                    for w, n, s in zip(weights, names, sizes, strict=True)
                ]
            )
        else:
            if self._nf4_rounded:
                weights = [round_nf4(weight) for weight in weights]
            biases = [self._bias(name, size) for name, size in zip(names, sizes, strict=True)]
            bias = None
            if any(b is not None for b in biases):
                zeros = [weights[0].new_zeros(size) for size in sizes]
                bias = torch.cat(
                    [z if b is None else b for b, z in zip(biases, zeros, strict=True)]
                )
            base = make_linear(torch.cat(weights), bias, self._quantization)
        return AdaptedLinear(base, self._bank, number, site)

    def _bias(self, name: str, size: int) -> Tensor | None:
        return self._get(f"{name}.bias", size) if f"{name}.bias" in self._files else None


class _SideBySide:
    """Products whose weights can't be fused, with their results joined."""

    def __init__(self, parts: list[Linear]) -> None:
        self._parts = parts

    def __call__(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self._parts], dim=1)
