"""The decoder's forward pass in C: the same step as engine/model.py, for int8 or fp32 on a CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine import kernels
from engine.architecture import Architecture
from engine.kv_cache import KVCache
from engine.linear import quantize_rows
from engine.lora import LoraBank
from engine.model import Step

HEAD_SIZES = (16, 32, 64, 96, 128, 256)  # those that the attention kernel is compiled for


def pointer(tensor: Tensor | None) -> int | None:
    """Where a tensor lies, for C."""
    return None if tensor is None else tensor.data_ptr()


def pack(
    weight: Tensor, bias: Tensor | None, library: Any, *, full: bool, interleave: bool = False
) -> kernels.Matrix:
    """Lay out a weight [out, in] as the kernels read it; outputs are padded to whole tiles.

    Args:
        library: of `kernels.load_library`; a tile is two of its vectors.
        full: keep fp32 instead of quantising to int8.
        interleave: the first half of the outputs gates the second: put a vector of one beside a
            vector of the other, so that a tile holds both.
    """
    out, size = weight.shape
    tile = 2 * library.lanes
    padded = -(-out // tile) * tile
    weight = F.pad(weight.float(), (0, 0, 0, padded - out))
    bias = None if bias is None else F.pad(bias.float(), (0, padded - out))
    if interleave:
        order = torch.arange(out).view(2, -1, library.lanes).transpose(0, 1).reshape(-1)
        weight, bias = weight[order], None if bias is None else bias[order]
    scale = None
    if full:
        tiles = weight.view(-1, tile, size).transpose(1, 2).contiguous()
    else:
        quantized, scale = quantize_rows(weight)
        unsigned = (quantized.to(torch.int16) + 128).to(torch.uint8)
        tiles = unsigned.view(-1, tile, size // 4, 4).transpose(1, 2).contiguous()
    packed = kernels.Matrix(pointer(tiles), pointer(scale), pointer(bias), size, padded)
    packed.tensors = (tiles, scale, bias)
    return packed


def is_covered(shape: Architecture) -> bool:
    """Whether the kernels cover this architecture."""
    sizes = (shape.hidden_size, shape.q_size, shape.kv_size, shape.intermediate_size)
    return (
        all(size % 32 == 0 for size in sizes)
        and shape.head_dim in HEAD_SIZES
        and not shape.sandwich
        and shape.num_heads % shape.num_kv_heads == 0
    )


class CompiledDecoder:
    """What Decoder is, in one call of C per step.

    Args:
        library: of `kernels.load_library`, for the cache's precision.
        embedding: [vocabulary, hidden], as the cache in fp32 for fp32 weights, else in bf16, so
            that a step reads half the bytes.
        layers: by field of `kernels.Layer`: norms' weights, and products.
    """

    def __init__(
        self,
        shape: Architecture,
        library: Any,
        *,
        embedding: Tensor,
        layers: Sequence[dict[str, Tensor | kernels.Matrix]],
        norm: Tensor,
        head: kernels.Matrix,
        rotary: Sequence[Tensor],
        cache: KVCache,
        bank: LoraBank,
    ) -> None:
        self.architecture, self.cache, self._library = shape, cache, library
        self._bank, self._bank_version = bank, -1
        self._embedding, self._layers, self._norm, self._head = embedding, layers, norm, head
        self._rotary = [table.contiguous() for table in rotary]
        self._described = (kernels.Layer * len(layers))()
        self._model = self._describe_model()
        self._space: dict[str, Tensor] = {}
        self._room = (0, 0)

    def forward(self, step: Step) -> Tensor:
        """Write the step's keys and values; logits of the wanted tokens, fp32 [M, vocabulary].

        The result is overwritten by the next step.
        """
        if self._bank_version != self._bank.version:
            self._describe_layers()
        tokens, wanted = len(step.token_ids), len(step.wanted)
        self._reserve(tokens, wanted)
        space = {name: tensor.data_ptr() for name, tensor in self._space.items()}
        self._model.threads = torch.get_num_threads()
        described = kernels.Step(
            tokens=tokens,
            wanted=wanted,
            token_ids=step.token_ids.data_ptr(),
            positions=step.positions.data_ptr(),
            rows=step.rows.data_ptr(),
            slots=step.slots.data_ptr(),
            wanted_tokens=step.wanted.data_ptr(),
            embeddings=pointer(step.embeddings),
            **space,
        )
        self._library.run_step(ctypes.byref(self._model), ctypes.byref(described))
        return self._space["logits"][:wanted, : self.architecture.vocab_size]

    def _describe_model(self) -> kernels.Model:
        shape = self.architecture
        return kernels.Model(
            layers=shape.num_layers,
            hidden=shape.hidden_size,
            heads=shape.num_heads,
            kv_heads=shape.num_kv_heads,
            head_dim=shape.head_dim,
            wide=shape.intermediate_size,
            half=self._rotary[0].shape[2],
            rank=self._bank.max_rank,
            time=self.cache.length,
            gelu=int(shape.activation == "gelu"),
            threads=torch.get_num_threads(),
            eps=shape.norm_eps,
            attention_scale=shape.attention_scale,
            embed_scale=shape.embed_scale,
            embedding=self._embedding.data_ptr(),
            norm=self._norm.data_ptr(),
            head=self._head,
            layer=self._described,
        )

    def _describe_layers(self) -> None:
        """Point at weights and adapter stacks; again whenever the bank takes new memory."""
        shape = self.architecture
        for number, layer in enumerate(self._layers):
            parts = {n: p.data_ptr() if isinstance(p, Tensor) else p for n, p in layer.items()}
            adapters = {f"adapt_{s}": self._describe_site(number, s) for s in self._bank.sites}
            self._described[number] = kernels.Layer(
                **parts,
                **adapters,
                keys=self.cache.keys[number].data_ptr(),
                values=self.cache.values[number].data_ptr(),
                rotary=self._rotary[shape.rope_layers[number]].data_ptr(),
                window=shape.windows[number],
            )
        self._bank_version = self._bank.version

    def _describe_site(self, layer: int, site: str) -> kernels.Site:
        parts = self._bank.sites[site].parts
        described = kernels.Site(parts=len(parts))
        starts = [part.start for part in parts] + [parts[-1].start + parts[-1].size]
        for number, start in enumerate(starts):
            described.starts[number] = start
        if site in self._bank.a:
            described.a = self._bank.a[site][layer].data_ptr()
            for number, b in enumerate(self._bank.b[site]):
                described.b[number] = b[layer].data_ptr()
        return described

    def _reserve(self, tokens: int, wanted: int) -> None:
        """Make room for a step; kept for the next ones."""
        room = (max(tokens, self._room[0]), max(wanted, self._room[1]))
        if room == self._room:
            return
        tokens, wanted = self._room = room
        shape = self.architecture
        hidden, q, wide = shape.hidden_size, shape.q_size, shape.intermediate_size
        widest = max(hidden, q, wide)
        operands = {1: torch.int8, 2: torch.int16, 4: torch.float32}
        kinds = {"operands": operands[self._library.operand_bytes], "sums": torch.int32}
        sizes = {
            "x": (tokens, hidden),
            "y": (tokens, max(q + 2 * shape.kv_size, widest)),
            "attended": (tokens, q),
            "inner": (tokens, 3 * self._bank.max_rank),
            "scale": (tokens,),
            "logits": (wanted, self._head.out_size),
            "operands": (tokens, widest),
            "sums": (tokens,),
        }
        self._space = {
            name: torch.empty(size, dtype=kinds.get(name, torch.float32))
            for name, size in sizes.items()
        }
