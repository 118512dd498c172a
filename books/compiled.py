"""Students in C: every book asked runs as a model of its own, a thread per book.

Books share nothing but keys and values, so a step is cut by book instead of by output: a thread
takes one student after another, whose weights stay in its cache for all of its tokens, and waits
for nobody. engine/kernels.c does the work; books/stacked.py is the same in torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from books.int8 import SCALE, dequantize
from books.slots import Student, StudentBank
from engine import kernels
from engine.architecture import Architecture
from engine.compiled import Space, describe_layer, describe_model, pack
from engine.kv_cache import KVCache
from engine.model import Step

_SITES = ("qkv", "o", "gate_up", "down")
_NORMS = ("attention_norm", "mlp_norm")
_INT64 = 8  # bytes


class CompiledStudents(StudentBank):
    """Slots of students laid out for the kernels, and the decoder that runs them.

    Args:
        library: of `kernels.load_library`, for the cache's precision.
        rotary: as `rotary_tables` makes them.
    """

    def __init__(
        self,
        shape: Architecture,
        num_slots: int,
        tokenizer_digest: str,
        library: Any,
        rotary: Sequence[Tensor],
        cache: KVCache,
    ) -> None:
        super().__init__(shape, num_slots, tokenizer_digest)
        self.architecture, self.cache, self._library = shape, cache, library
        self._rotary = [table.contiguous() for table in rotary]
        self._models = (kernels.Model * (num_slots + 1))()
        self._parts: dict[int, list[Any]] = {}  # what the models point to, by slot
        tile = 2 * library.lanes
        self._space = Space(shape, library, 0, -(-shape.vocab_size // tile) * tile)

    @property
    def size_bytes(self) -> int:
        """Memory of the slots in use."""
        return sum(_bytes_of(parts) for parts in self._parts.values())

    def write(self, slot: int, content: Student) -> None:
        """Put a student into a slot, its weights rounded as the kernels take them."""
        shape, cache, full = self.shape, self.cache, self.cache.keys.dtype == torch.float32
        tensors = dequantize(content.tensors) if full else content.tensors

        def packed(name: str, *, gates: bool = False) -> kernels.Matrix:
            scale = tensors.get(name + SCALE)
            return pack(
                tensors[name], None, self._library, full=full, interleave=gates, scale=scale
            )

        layers = [
            {site: packed(f"{site}.{n}", gates=site == "gate_up") for site in _SITES}
            | {name: tensors[f"{name}.{n}"].float() for name in _NORMS}
            for n in range(shape.num_layers)
        ]
        described = (kernels.Layer * shape.num_layers)(
            *(describe_layer(shape, cache, self._rotary, *each, {}) for each in enumerate(layers))
        )
        embedding = _words(tensors).to(cache.keys.dtype).contiguous()
        norm, head = tensors["norm"].float(), packed("embed")
        self._models[slot] = describe_model(
            shape,
            cache,
            rank=0,
            half=self._rotary[0].shape[2],
            embedding=embedding,
            norm=norm,
            head=head,
            layers=described,
        )
        self._parts[slot] = [embedding, norm, head, described, *layers]

    def forward(self, step: Step) -> Tensor:
        """Write the step's keys and values; logits of the wanted tokens, fp32 [M, vocabulary].

        Tokens are put in the order of their slots; nothing else about them changes.
        """
        order = step.slots.argsort(stable=True)
        slots = step.slots.bincount().nonzero().flatten()
        counts = step.slots.bincount()[slots]
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        wanted, turn = place[step.wanted].sort()
        ends = counts.cumsum(0)
        limits = torch.searchsorted(wanted, torch.stack((ends - counts, ends)))
        asked = limits[1] - limits[0]
        tensors = {
            "token_ids": step.token_ids[order],
            "positions": step.positions[order],
            "rows": step.rows[order],
            "slots": torch.zeros_like(order),  # of adapters, which students have none of
        }
        within = wanted - (ends - counts).repeat_interleave(asked)
        self._space.reserve(len(order), len(wanted))
        described = (kernels.Step * len(slots))()
        starts = torch.stack((ends - counts, counts, limits[0], asked), dim=1).tolist()
        for number, (start, count, first, num) in enumerate(starts):
            described[number] = kernels.Step(
                tokens=count,
                wanted=num,
                wanted_tokens=within.data_ptr() + _INT64 * first,
                **{name: t.data_ptr() + _INT64 * start for name, t in tensors.items()},
                **self._space.since(start, first),
            )
        self._run(slots, described)
        return self._space.logits[turn.argsort(), : self.architecture.vocab_size]

    def _run(self, slots: Tensor, described: Any) -> None:
        threads = torch.get_num_threads()
        for slot in slots.tolist():
            self._models[slot].threads = threads
        pointer = slots.data_ptr()
        self._library.run_steps(self._models, pointer, described, len(slots), threads)


def _words(tensors: dict[str, Tensor]) -> Tensor:
    """The embeddings, no longer rounded to int8."""
    names = ("embed", "embed" + SCALE)
    return dequantize({name: tensors[name] for name in names if name in tensors})["embed"]


def _bytes_of(parts: Any) -> int:
    if isinstance(parts, Tensor):
        return parts.numel() * parts.element_size()
    if isinstance(parts, kernels.Matrix):
        return sum(_bytes_of(tensor) for tensor in parts.tensors if tensor is not None)
    if isinstance(parts, dict):
        return sum(map(_bytes_of, parts.values()))
    return sum(map(_bytes_of, parts)) if isinstance(parts, list) else 0
