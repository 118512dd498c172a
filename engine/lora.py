"""The adapter bank: LoRA factors of all resident adapters, stacked by slot.

Per fused product, A is [slots, in, parts * rank] and B one [slots, rank, out] per part, with
the adapter's scale folded in (Hu et al. 2021: y += scale * B A x). Slot 0 is all zero. An
adapter is written in place; nothing is rebuilt per batch. The C kernels read B in tiles of 16
outputs, so that a step walks through memory instead of jumping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from engine.adapters import Factors, Laid, LoadedAdapter, card_digest, read_adapter
from engine.architecture import Architecture
from engine.errors import AdapterError
from engine.model import Step


@dataclass(frozen=True, slots=True)
class Part:
    """One of the products fused into a site: its module's name, and its columns."""

    name: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Site:
    """A fused product of every layer that adapters may change."""

    in_size: int
    parts: tuple[Part, ...]


def adapter_sites(shape: Architecture) -> dict[str, Site]:
    """The sites of an architecture, by the layer attribute they belong to."""
    wide, q, kv = shape.intermediate_size, shape.q_size, shape.kv_size
    qkv: tuple[tuple[str, int], ...] = (("q_proj", q), ("k_proj", kv), ("v_proj", kv))
    gate_up: tuple[tuple[str, int], ...] = (("gate_proj", wide), ("up_proj", wide))
    if shape.fused:
        qkv, gate_up = (("qkv_proj", q + 2 * kv),), (("gate_up_proj", 2 * wide),)
    hidden = shape.hidden_size
    return {
        "qkv": Site(hidden, _parts("self_attn", qkv)),
        "o": Site(q, _parts("self_attn", (("o_proj", hidden),))),
        "gate_up": Site(hidden, _parts("mlp", gate_up)),
        "down": Site(wide, _parts("mlp", (("down_proj", hidden),))),
    }


def _parts(prefix: str, sizes: Sequence[tuple[str, int]]) -> tuple[Part, ...]:
    parts, start = [], 0
    for name, size in sizes:
        parts.append(Part(f"{prefix}.{name}", start, size))
        start += size
    return tuple(parts)


class LoraBank:
    """Stacked factors of `num_slots` adapters and the empty slot 0.

    Args:
        tile: outputs per tile of B, as the C kernels read it; 0 for plain rows, as torch does.

    Attributes:
        optional: requests may do without an adapter; their tokens are left out of the plan.
        version: counts up when a stack is allocated, as pointers to stacks then change.
    """

    optional = True

    def __init__(
        self,
        shape: Architecture,
        num_slots: int,
        max_rank: int,
        base_digest: str,
        dtype: torch.dtype,
        device: torch.device,
        tile: int = 0,
    ) -> None:
        self._shape, self.sites = shape, adapter_sites(shape)
        self.num_slots, self.max_rank, self.num_layers = num_slots, max_rank, shape.num_layers
        self._base_digest, self._dtype, self._device = base_digest, dtype, device
        self._tile = tile
        self.version = 0
        # Memory is taken for a site only once an adapter changes it.
        self.a: dict[str, Tensor] = {}  # [layers, slots + 1, in, parts * max_rank]
        # One [layers, slots + 1, max_rank, out] per part, or in tiles of outputs for the kernels:
        # [layers, slots + 1, out / tile, max_rank, tile].
        self.b: dict[str, list[Tensor]] = {}

    def read(self, path: Path) -> LoadedAdapter:
        """Read an adapter that fits, and lay it out: a slot is then filled by a few copies.

        Raises:
            AdapterError: damaged, made for another base, or of too high a rank.
        """
        adapter = read_adapter(path)
        if (told := card_digest(path, "digest")) not in (None, adapter.digest):
            raise AdapterError(
                f"{path} is damaged: its card tells of {told}, its weights are {adapter.digest}"
            )
        if adapter.base_digest not in (None, self._base_digest):
            raise AdapterError(
                f"{path} was trained on the base {adapter.base_digest}, this is {self._base_digest}"
            )
        try:
            self._check(adapter.factors)
            self._check_soft(adapter)
        except AdapterError as error:
            raise AdapterError(f"{path}: {error}") from error
        if not adapter.factors:
            return adapter
        laid = self.lay_out(adapter.factors)
        size = sum(t.nbytes for a, b in laid.values() for t in (a, *b))
        return replace(adapter, factors={}, laid=laid, size_bytes=size)

    def _check(self, factors: Factors) -> None:
        places = self._places()
        for path, (a, b) in factors.items():
            if path not in places:
                raise AdapterError(f"the adapter changes {path!r}, which this base does not have")
            site, part = places[path]
            expected = (self.sites[site].in_size, self.sites[site].parts[part].size)
            if (a.shape[1], b.shape[0]) != expected:
                raise AdapterError(
                    f"the adapter's {path} maps {a.shape[1]} to {b.shape[0]} numbers, "
                    f"the base's {expected[0]} to {expected[1]}: it is for another base"
                )
            if a.shape[0] > self.max_rank:
                raise AdapterError(
                    f"the adapter's {path} has rank {a.shape[0]}; a slot holds {self.max_rank}"
                )

    def _check_soft(self, adapter: LoadedAdapter) -> None:
        shape = self._shape
        if adapter.prompt is not None and adapter.prompt.shape[1] != shape.hidden_size:
            raise AdapterError(
                f"its soft prompt has vectors of {adapter.prompt.shape[1]} numbers, "
                f"the base's have {shape.hidden_size}"
            )
        if adapter.prompt is not None and shape.embed_scale != 1.0:
            raise AdapterError(f"soft prompts are not served on {shape.model_type} bases")
        if adapter.prefix is not None:
            _, layers, heads, _, dim = adapter.prefix.shape
            expected = (shape.num_layers, shape.num_kv_heads, shape.head_dim)
            if (layers, heads, dim) != expected:
                raise AdapterError(
                    f"its prefix has (layers, heads, size) {(layers, heads, dim)}, "
                    f"the base {expected}"
                )

    def lay_out(self, factors: Factors) -> Laid:
        """Factors by site: A [layers, in, parts, rank] and, per part, B [layers, rank, out], or in
        tiles [layers, out / tile, rank, tile]; in the bank's precision, missing modules zero."""
        places = self._places()
        laid: Laid = {}
        for name, site in self.sites.items():
            ranks = [a.shape[0] for path, (a, _) in factors.items() if places[path][0] == name]
            if ranks:
                laid[name] = self._empty(site, max(ranks))
        for path, (a, b) in factors.items():
            name, part = places[path]
            layer, rank = int(path.split(".", 1)[0]), a.shape[0]
            whole_a, whole_b = laid[name]
            whole_a[layer, :, part, :rank] = a.T
            if self._tile:
                tiles = b.reshape(-1, self._tile, rank).transpose(1, 2)
                whole_b[part][layer, :, :rank] = tiles
            else:
                whole_b[part][layer, :rank] = b.T
        return laid

    def _empty(self, site: Site, rank: int) -> tuple[Tensor, list[Tensor]]:
        layers, tile = self.num_layers, self._tile
        sizes = [
            (layers, part.size // tile, rank, tile) if tile else (layers, rank, part.size)
            for part in site.parts
        ]
        a = torch.zeros(layers, site.in_size, len(site.parts), rank, dtype=self._dtype)
        return a, [torch.zeros(size, dtype=self._dtype) for size in sizes]

    def write(self, slot: int, content: LoadedAdapter) -> None:
        """Put an adapter into a slot, in place; ranks below the maximum are padded."""
        for site in content.laid.keys() - self.a.keys():
            self._allocate(site)
        for site, stack in self.a.items():
            wide = stack[:, slot].view(*stack.shape[:1], stack.shape[2], -1, self.max_rank)
            parts = [part[:, slot] for part in self.b[site]]
            a, b = content.laid.get(site, (None, []))
            if a is None or a.shape[3] < self.max_rank:
                wide.zero_()
                for part in parts:
                    part.zero_()
            if a is None:
                continue
            wide[..., : a.shape[3]] = a
            for part, found in zip(parts, b, strict=True):
                part[..., : a.shape[3], :] = found

    def add(self, layer: int, site: str, x: Tensor, y: Tensor, step: Step) -> None:
        """Add every token's own adapter to y [N, out] for x [N, in], in place."""
        if site not in self.a or not step.plan:
            return
        plan, stack_a = step.plan, self.a[site][layer]
        parts = list(zip(self.sites[site].parts, self.b[site], strict=True))
        if plan.singles():
            inner = torch.bmm(plan.gather(x), plan.pick(stack_a))
            for inner_part, (part, b) in zip(
                torch.split(inner, self.max_rank, 2), parts, strict=True
            ):
                out = y[:, part.start : part.start + part.size]
                plan.add(out, torch.bmm(inner_part, plan.pick(b[layer])))
        for run in plan.chunks:
            tokens = slice(run.start, run.start + run.length)
            inner = x[tokens] @ stack_a[run.slot]
            for inner_part, (part, b) in zip(
                torch.split(inner, self.max_rank, 1), parts, strict=True
            ):
                out = y[tokens, part.start : part.start + part.size]
                out.addmm_(inner_part, b[layer, run.slot])

    def _places(self) -> dict[str, tuple[str, int]]:
        return {
            f"{layer}.{part.name}": (name, number)
            for layer in range(self.num_layers)
            for name, site in self.sites.items()
            for number, part in enumerate(site.parts)
        }

    def _allocate(self, site: str) -> None:
        self.version += 1
        found, lead = self.sites[site], (self.num_layers, self.num_slots + 1)
        width = len(found.parts) * self.max_rank

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*lead, *shape, dtype=self._dtype, device=self._device)

        self.a[site] = zeros(found.in_size, width)
        rank, tile = self.max_rank, self._tile
        self.b[site] = [
            zeros(part.size // tile, rank, tile) if tile else zeros(rank, part.size)
            for part in found.parts
        ]
