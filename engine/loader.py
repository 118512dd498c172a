"""From a model folder to a decoder: safetensors only, one tensor at a time."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from engine import kernels
from engine.architecture import DEFAULT_CONTEXT, Architecture, read_architecture, rotary_tables
from engine.bases import base_digest, find_folder
from engine.compiled import CompiledDecoder, is_covered, pack
from engine.config import EngineConfig, Quantization
from engine.errors import BaseModelError
from engine.kv_cache import KVCache
from engine.linear import make_linear, round_nf4
from engine.lora import LoraBank
from engine.model import Decoder, DecoderLike, Layer, Step, StepFunction
from engine.store import Bank


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedBase:
    """A base ready to run, with what belongs to it."""

    folder: Path
    digest: str
    architecture: Architecture
    quantization: Quantization
    decoder: DecoderLike
    bank: Bank
    cache: KVCache
    eos_ids: frozenset[int]
    device: torch.device


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
    library = find_kernels(config, shape, device, quantization)
    if quantization == "int8" and library is None:
        warnings.warn("the C kernels can't serve int8 here; using fp32", stacklevel=2)
        quantization = "none"
    # Beside int8 weights the kernels read adapters, keys and values as bf16; ranks in vectors.
    kept = torch.bfloat16 if quantization == "int8" else dtype
    lanes = library.lanes if library else 1
    max_rank = -(-config.max_rank // lanes) * lanes
    cache = KVCache(shape, config.max_rows, length, kept, device)
    tables = [table.to(device) for table in rotary_tables(hf_config, shape, length)]
    with ExitStack() as stack:
        files = WeightFiles(folder, stack)
        digest = base_digest(folder)
        tile = lanes if library else 0
        bank = LoraBank(shape, config.adapter_slots, max_rank, digest, kept, device, tile)
        builder = _Builder(shape, files, config, quantization, dtype, device, bank)
        if library is None:
            decoder: DecoderLike = builder.decoder(tables, cache)
        else:
            decoder = builder.compiled_decoder(tables, cache, library)
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


def find_kernels(
    config: EngineConfig, shape: Architecture, device: torch.device, quantization: Quantization
) -> Any | None:
    """The C kernels' library, where it can serve this base as configured."""
    if not config.compiled or device.type != "cpu" or not is_covered(shape):
        return None
    if quantization not in ("none", "int8"):
        return None
    return kernels.load_library(full=quantization == "none")


def read_eos_ids(folder: Path, hf_config: Any) -> frozenset[int]:
    """Tokens that end a text, as `generate` would take them."""
    path = folder / "generation_config.json"
    found = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
    if found is None:
        found = getattr(hf_config, "eos_token_id", None)
    return frozenset([found] if isinstance(found, int) else found or ())


Make = Callable[[str, int], Any]


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

    def decoder(self, rotary: list[Tensor], cache: KVCache) -> Decoder:
        """The decoder in torch."""
        # Transformers leaves the head out of 4-bit quantisation, and so must we to be exact.
        kind = "none" if self._quantization == "nf4" else self._quantization
        head = make_linear(self._head_weight(), None, kind)
        return Decoder(
            self._shape,
            embed=lambda token_ids, step: self.embedding[token_ids],
            layers=[Layer(**parts) for parts in self._layers(self._norm, self._linear)],
            norm=self._norm("model.norm", self._shape.hidden_size),
            head=lambda x, step: head(x),
            rotary=rotary,
            cache=cache,
        )

    def compiled_decoder(
        self, rotary: list[Tensor], cache: KVCache, library: Any
    ) -> CompiledDecoder:
        """The decoder in C."""
        full = self._quantization == "none"

        def packed(site: str, number: int) -> kernels.Matrix:
            fused, gates = self._fused(number, site), site == "gate_up"
            return pack(*fused, library, full=full, interleave=gates)

        return CompiledDecoder(
            self._shape,
            library,
            embedding=self.embedding.to(cache.keys.dtype).contiguous(),
            layers=list(self._layers(self._norm_weight, packed)),
            norm=self._norm_weight("model.norm", self._shape.hidden_size),
            head=pack(self._head_weight(), None, library, full=full),
            rotary=rotary,
            cache=cache,
            bank=self._bank,
        )

    def _layers(self, norm: Make, product: Make) -> Iterator[dict[str, Any]]:
        """Each layer's parts by name: norm(tensor's name, size), product(site, layer)."""
        shape = self._shape
        hidden, sandwich = shape.hidden_size, shape.sandwich
        before_mlp = "pre_feedforward_layernorm" if sandwich else "post_attention_layernorm"
        norms = {"attention_norm": ("input_layernorm", hidden), "mlp_norm": (before_mlp, hidden)}
        if shape.qk_norm:
            norms |= {f"{x}_norm": (f"self_attn.{x}_norm", shape.head_dim) for x in "qk"}
        if sandwich:
            norms["after_attention_norm"] = ("post_attention_layernorm", hidden)
            norms["after_mlp_norm"] = ("post_feedforward_layernorm", hidden)
        for number in range(shape.num_layers):
            made = {k: norm(f"model.layers.{number}.{n}", size) for k, (n, size) in norms.items()}
            yield made | {site: product(site, number) for site in self._bank.sites}

    def _norm_weight(self, name: str, size: int) -> Tensor:
        weight = self._get(f"{name}.weight", size)
        return weight + 1 if self._shape.norm_offset else weight

    def _norm(self, name: str, size: int) -> StepFunction:
        """A root mean square norm (Zhang & Sennrich 2019) over the last dimension."""
        weight, eps = self._norm_weight(name, size), self._shape.norm_eps
        return lambda x, step: F.rms_norm(x, weight.shape, weight, eps)

    def _head_weight(self) -> Tensor:
        tied = self._shape.tied or "lm_head.weight" not in self._files
        shape = (self._shape.vocab_size, self._shape.hidden_size)
        return self.embedding if tied else self._get("lm_head.weight", *shape)

    def _linear(self, site: str, number: int) -> StepFunction:
        """A base product plus each token's own adapter."""
        # Blocks of 64 must not straddle two modules, or 4 bits would differ from training.
        apart = self._quantization == "nf4"
        tensors = self._tensors(number, site) if apart else [self._fused(number, site)]
        linears = [make_linear(*tensor, self._quantization) for tensor in tensors]

        def apply(x: Tensor, step: Step) -> Tensor:
            y = torch.cat([linear(x) for linear in linears], dim=1) if apart else linears[0](x)
            self._bank.add(number, site, x, y, step)
            return y

        return apply

    def _fused(self, number: int, site: str) -> tuple[Tensor, Tensor | None]:
        """A site's weights and biases as one product."""
        tensors = list(self._tensors(number, site))
        weights = [round_nf4(w) if self._nf4_rounded else w for w, _ in tensors]
        if all(bias is None for _, bias in tensors):
            return torch.cat(weights), None
        biases = [w.new_zeros(w.shape[0]) if bias is None else bias for w, bias in tensors]
        return torch.cat(weights), torch.cat(biases)

    def _tensors(self, number: int, site: str) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Weight and bias of each module fused into a site."""
        found = self._bank.sites[site]
        for part in found.parts:
            name = f"model.layers.{number}.{part.name}"
            has_bias = f"{name}.bias" in self._files
            bias = self._get(f"{name}.bias", part.size) if has_bias else None
            yield self._get(f"{name}.weight", part.size, found.in_size), bias
