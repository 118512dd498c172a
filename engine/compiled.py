"""The decoder's forward pass in C: the same step as engine/model.py, for int8 or fp32 on a CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
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
    weight: Tensor,
    bias: Tensor | None,
    library: Any,
    *,
    full: bool,
    interleave: bool = False,
    scale: Tensor | None = None,
) -> kernels.Matrix:
    """Lay out a weight [out, in] as the kernels read it; outputs are padded to whole tiles.

    Args:
        library: of `kernels.load_library`; a tile is two of its vectors.
        full: keep fp32 instead of quantising to int8.
        interleave: the first half of the outputs gates the second: put a vector of one beside a
            vector of the other, so that a tile holds both.
        scale: of a weight that is int8 already, fp32 [out].
    """
    out, size = weight.shape
    tile = 2 * library.lanes
    padded = -(-out // tile) * tile
    if not full and scale is None:
        weight, scale = quantize_rows(weight)
    if interleave:
        order = torch.arange(out).view(2, -1, library.lanes).transpose(0, 1).reshape(-1)

    def arrange(rows: Tensor) -> Tensor:
        rows = rows[order] if interleave else rows
        if padded == out:
            return rows
        return torch.cat((rows, rows.new_zeros(padded - out, *rows.shape[1:])))

    weight = arrange(weight if scale is not None else weight.float())
    scale = None if scale is None else arrange(scale)
    bias = None if bias is None else arrange(bias.float())
    if scale is None:
        tiles = weight.view(-1, tile, size).transpose(1, 2).contiguous()
    else:
        unsigned = weight.view(torch.uint8) ^ 128  # value + 128
        fours = unsigned.view(torch.int32).view(-1, tile, size // 4)
        tiles = fours.transpose(1, 2).contiguous()
    packed = kernels.Matrix(pointer(tiles), pointer(scale), pointer(bias), size, padded)
    packed.tensors = (tiles, scale, bias)
    return packed


def is_covered(shape: Architecture) -> bool:
    """Whether the kernels cover this architecture."""
    sizes = (shape.hidden_size, shape.q_size, shape.kv_size)
    return (
        all(size % 32 == 0 for size in sizes)
        and shape.intermediate_size % 16 == 0
        and shape.head_dim in HEAD_SIZES
        and not shape.sandwich
        and shape.num_heads % shape.num_kv_heads == 0
    )


def describe_model(
    shape: Architecture,
    cache: KVCache,
    *,
    rank: int,
    half: int,
    embedding: Tensor,
    norm: Tensor,
    head: kernels.Matrix,
    layers: Any,
) -> kernels.Model:
    """A model for C: sizes, and where its parts lie; what they point to must be kept alive.

    Args:
        rank: of the adapters beside its products.
        half: pairs of numbers that the rotary embedding turns.
        embedding: [vocabulary, hidden] in the library's precision for caches.
        layers: an array of `kernels.Layer`.
    """
    return kernels.Model(
        layers=shape.num_layers,
        hidden=shape.hidden_size,
        heads=shape.num_heads,
        kv_heads=shape.num_kv_heads,
        head_dim=shape.head_dim,
        wide=shape.intermediate_size,
        half=half,
        rank=rank,
        time=cache.length,
        gelu=int(shape.activation == "gelu"),
        threads=torch.get_num_threads(),
        eps=shape.norm_eps,
        attention_scale=shape.attention_scale,
        embed_scale=shape.embed_scale,
        embedding=embedding.data_ptr(),
        norm=norm.data_ptr(),
        head=head,
        layer=layers,
    )


def describe_layer(
    shape: Architecture,
    cache: KVCache,
    rotary: Sequence[Tensor],
    number: int,
    parts: dict[str, Tensor | kernels.Matrix],
    adapters: dict[str, kernels.Site],
) -> kernels.Layer:
    """A layer for C: `parts` are its norms' weights and its products, by field."""
    return kernels.Layer(
        **{n: p.data_ptr() if isinstance(p, Tensor) else p for n, p in parts.items()},
        **adapters,
        keys=cache.keys[number].data_ptr(),
        values=cache.values[number].data_ptr(),
        rotary=rotary[shape.rope_layers[number]].data_ptr(),
        window=shape.windows[number],
    )


class Space:
    """Room for what a step computes; kept for the next ones."""

    def __init__(self, shape: Architecture, library: Any, rank: int, logits: int) -> None:
        hidden, q, wide = shape.hidden_size, shape.q_size, shape.intermediate_size
        widest = max(hidden, q, wide)
        operands = {1: torch.int8, 2: torch.int16, 4: torch.float32}
        self._kinds = {"operands": operands[library.operand_bytes], "sums": torch.int32}
        self._widths = {
            "x": hidden,
            "y": max(q + 2 * shape.kv_size, widest),
            "attended": q,
            "inner": 3 * rank,
            "scale": 1,
            "operands": widest,
            "sums": 1,
            "logits": logits,
        }
        self._room = (0, 0)
        self._tensors: dict[str, Tensor] = {}

    @property
    def logits(self) -> Tensor:
        """Of the wanted tokens, fp32 [M or more, width]."""
        return self._tensors["logits"]

    def reserve(self, tokens: int, wanted: int) -> None:
        """Make room for as many."""
        room = (max(tokens, self._room[0]), max(wanted, self._room[1]))
        if room == self._room:
            return
        self._room = room
        self._tensors = {
            name: torch.empty(
                room[name == "logits"], width, dtype=self._kinds.get(name, torch.float32)
            )
            for name, width in self._widths.items()
        }

    def since(self, token: int, wanted: int) -> dict[str, int]:
        """Where the room of a token, and of a wanted one, begins, by field of `kernels.Step`."""
        return {
            name: tensor.data_ptr()
            + (wanted if name == "logits" else token) * tensor.shape[1] * tensor.element_size()
            for name, tensor in self._tensors.items()
        }


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
        self._model = describe_model(
            shape,
            cache,
            rank=bank.max_rank,
            half=self._rotary[0].shape[2],
            embedding=embedding,
            norm=norm,
            head=head,
            layers=self._described,
        )
        self._space = Space(shape, library, bank.max_rank, head.out_size)

    def forward(self, step: Step) -> Tensor:
        """Write the step's keys and values; logits of the wanted tokens, fp32 [M, vocabulary].

        The result is overwritten by the next step.
        """
        if self._bank_version != self._bank.version:
            self._describe_layers()
        tokens, wanted = len(step.token_ids), len(step.wanted)
        self._space.reserve(tokens, wanted)
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
            **self._space.since(0, 0),
        )
        self._library.run_step(ctypes.byref(self._model), ctypes.byref(described))
        return self._space.logits[:wanted, : self.architecture.vocab_size]

    def _describe_layers(self) -> None:
        """Point at weights and adapter stacks; again whenever the bank takes new memory."""
        for number, parts in enumerate(self._layers):
            adapters = {f"adapt_{s}": self._describe_site(number, s) for s in self._bank.sites}
            self._described[number] = describe_layer(
                self.architecture, self.cache, self._rotary, number, parts, adapters
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
