"""The decoder's forward pass over one step's tokens, in torch.

Tokens of all requests stand side by side in one [N, hidden] matrix; only attention looks at
which request a token belongs to. Every product and norm takes the step as well, so that the
adapter bank, or a shelf of stacked students, can be plugged in per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.architecture import Architecture
from engine.kv_cache import KVCache
from engine.slots import Run, SlotPlan

TIME_BUCKET = 64  # attended lengths are rounded up to this, to meet few distinct shapes


@dataclass
class Step:
    """Everything the layers need to know about a step.

    Attributes:
        token_ids, positions, rows, slots: one entry per token, int64 [N].
        runs: the tokens by sequence.
        wanted: tokens whose logits are asked for, int64 [M].
        skip_zero: as in SlotPlan.
        embeddings: stand in for the tokens' own (a soft prompt), fp32 [N, hidden].
    """

    token_ids: Tensor
    positions: Tensor
    rows: Tensor
    slots: Tensor
    runs: Sequence[Run]
    wanted: Tensor
    skip_zero: bool
    embeddings: Tensor | None = None

    @classmethod
    def of(
        cls,
        runs: Sequence[Run],
        token_ids: Sequence[int],
        wanted: Sequence[int],
        device: torch.device,
        *,
        skip_zero: bool = True,
        embeddings: Tensor | None = None,
    ) -> Step:
        """A step of these runs."""

        def each(values: Iterable[int]) -> Tensor:
            return torch.tensor(list(values), dtype=torch.long, device=device)

        return cls(
            token_ids=each(token_ids),
            positions=each(p for r in runs for p in range(r.position, r.position + r.length)),
            rows=each(run.row for run in runs for _ in range(run.length)),
            slots=each(run.slot for run in runs for _ in range(run.length)),
            runs=runs,
            wanted=each(wanted),
            skip_zero=skip_zero,
            embeddings=embeddings,
        )

    @cached_property
    def plan(self) -> SlotPlan:
        """How tokens meet slotted weights; the C kernels do without."""
        return SlotPlan(self.runs, self.rows.device, skip_zero=self.skip_zero)


class DecoderLike(Protocol):
    """A decoder, whoever computes it: in torch below, in C in engine/compiled.py."""

    def forward(self, step: Step) -> Tensor:
        """Write the step's keys and values; logits of the wanted tokens, fp32 [M, vocabulary]."""


StepFunction = Callable[[Tensor, Step], Tensor]
"""A product or norm of the decoder: (x [N, in], step) -> [N, out]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One decoder layer; qkv and gate_up are fused products. The last four are optional."""

    attention_norm: StepFunction
    qkv: StepFunction
    o: StepFunction
    mlp_norm: StepFunction
    gate_up: StepFunction
    down: StepFunction
    q_norm: StepFunction | None = None
    k_norm: StepFunction | None = None
    after_attention_norm: StepFunction | None = None
    after_mlp_norm: StepFunction | None = None


class Decoder:
    """A whole decoder: embedding, layers, last norm, head.

    Args:
        embed: (token ids [N], step) -> [N, hidden].
        rotary: tables of `rotary_tables`, on the model's device.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        embed: StepFunction,
        layers: Sequence[Layer],
        norm: StepFunction,
        head: StepFunction,
        rotary: Sequence[Tensor],
        cache: KVCache,
    ) -> None:
        self.architecture, self.cache = architecture, cache
        self._embed, self._layers, self._norm, self._head = embed, layers, norm, head
        self._rotary = rotary

    @torch.inference_mode()
    def forward(self, step: Step) -> Tensor:
        """Write the step's keys and values; logits of the wanted tokens, fp32 [M, vocabulary]."""
        shape = self.architecture
        attention = Attention(shape, self.cache, step)
        turns = [table[step.positions] for table in self._rotary]  # [N, 2, rotary_dim / 2]
        x = self._embed(step.token_ids, step)
        if step.embeddings is not None:
            x = step.embeddings.to(x)
        if shape.embed_scale != 1.0:
            # Gemma rounds the scale to the weights' precision.
            x = x * torch.tensor(shape.embed_scale, dtype=x.dtype, device=x.device)
        for number, layer in enumerate(self._layers):
            x = self._layer(number, layer, x, turns[shape.rope_layers[number]], attention, step)
        x = self._norm(x[step.wanted], step)
        return self._head(x, step).float()

    def _layer(
        self,
        number: int,
        layer: Layer,
        x: Tensor,
        turn: Tensor,
        attention: Attention,
        step: Step,
    ) -> Tensor:
        shape = self.architecture
        qkv = layer.qkv(layer.attention_norm(x, step), step)
        q, k, v = torch.split(qkv, [shape.q_size, shape.kv_size, shape.kv_size], dim=1)
        q = q.reshape(-1, shape.num_heads, shape.head_dim)
        k = k.reshape(-1, shape.num_kv_heads, shape.head_dim)
        v = v.reshape(-1, shape.num_kv_heads, shape.head_dim)
        if layer.q_norm is not None and layer.k_norm is not None:
            q, k = layer.q_norm(q, step), layer.k_norm(k, step)
        attended = attention(number, rotate(q, turn), rotate(k, turn), v)
        attended = layer.o(attended, step)
        if layer.after_attention_norm is not None:
            attended = layer.after_attention_norm(attended, step)
        x = x + attended
        gate, up = layer.gate_up(layer.mlp_norm(x, step), step).chunk(2, dim=1)
        silu = shape.activation == "silu"
        gate = F.silu(gate) if silu else F.gelu(gate, approximate="tanh")
        y = layer.down(gate * up, step)
        if layer.after_mlp_norm is not None:
            y = layer.after_mlp_norm(y, step)
        return x + y


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Rotary embedding of the leading dimensions: x [N, heads, D], turn [N, 2, rotary_dim / 2]."""
    half = turn.shape[-1]
    cosine, sine = turn[:, None, 0].to(x.dtype), turn[:, None, 1].to(x.dtype)
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    parts = (first * cosine - second * sine, second * cosine + first * sine, rest)
    return torch.cat(parts, dim=-1)


class Attention:
    """Attention of one step's tokens to their own rows; masks are made once per step."""

    def __init__(self, shape: Architecture, cache: KVCache, step: Step) -> None:
        self._shape, self._cache, self._step = shape, cache, step
        self._singles = [run for run in step.runs if run.length == 1]
        self._chunks = [run for run in step.runs if run.length > 1]
        self._masks: dict[tuple[int, int], Tensor] = {}
        device = step.rows.device
        if self._singles:
            tokens = torch.tensor([run.start for run in self._singles], device=device)
            self._tokens, self._rows = tokens, step.rows[tokens]
            self._num_rows = max(run.row for run in self._singles) + 1
            longest = max(run.position for run in self._singles) + 1
            self._time = min(-(-longest // TIME_BUCKET) * TIME_BUCKET, cache.length)
            self._lengths = torch.ones(self._num_rows, dtype=torch.long, device=device)
            self._lengths[self._rows] = step.positions[tokens] + 1

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k and v, then attend: q [N, heads, D], k, v [N, kv_heads, D] -> [N, heads * D]."""
        step, keys, values = self._step, self._cache.keys[layer], self._cache.values[layer]
        keys[step.rows, :, step.positions] = k.to(keys.dtype)
        values[step.rows, :, step.positions] = v.to(values.dtype)
        out = torch.empty_like(q)
        window = self._shape.windows[layer]
        if self._singles:
            # Rows stand in place: an unused one among them is computed and thrown away.
            placed = q.new_zeros(self._num_rows, *q.shape[1:])
            placed[self._rows] = q[self._tokens]
            seen = slice(0, self._time)
            found = self._attend(
                placed[:, :, None],
                keys[: self._num_rows, :, seen],
                values[: self._num_rows, :, seen],
                self._decode_mask(window),
            )
            out[self._tokens] = found[self._rows, :, 0]
        for number, run in enumerate(self._chunks):
            tokens = slice(run.start, run.start + run.length)
            end = run.position + run.length
            found = self._attend(
                q[tokens].transpose(0, 1)[None],
                keys[run.row : run.row + 1, :, :end],
                values[run.row : run.row + 1, :, :end],
                self._chunk_mask(number, run, window),
            )
            out[tokens] = found[0].transpose(0, 1)
        return out.reshape(out.shape[0], -1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        grouped = self._shape.num_heads != self._shape.num_kv_heads
        scale = self._shape.attention_scale
        k, v = k.to(q.dtype), v.to(q.dtype)
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=scale, enable_gqa=grouped
        )

    def _decode_mask(self, window: int) -> Tensor:
        mask = self._masks.get((-1, window))
        if mask is None:
            times = torch.arange(self._time, device=self._lengths.device)
            mask = times < self._lengths[:, None]
            if window:
                mask &= times >= self._lengths[:, None] - window
            mask = self._masks[-1, window] = mask[:, None, None]
        return mask

    def _chunk_mask(self, number: int, run: Run, window: int) -> Tensor:
        mask = self._masks.get((number, window))
        if mask is None:
            device = self._step.rows.device
            asked = torch.arange(run.length, device=device)[:, None] + run.position
            times = torch.arange(run.position + run.length, device=device)
            mask = times <= asked
            if window:
                mask &= times > asked - window
            self._masks[number, window] = mask
        return mask
