"""Copying from the first step: induction heads written into a fresh model's weights.

A small model trained for an hour learns to copy names late or never: it must find two attention
heads in two layers that are useless without each other (Olsson et al. 2022). Here they are
planted at the start, and training only has to polish them:

- layer 0: two heads look one position back. Every embedding shares one constant component, so a
  query and a key can be constant, and rotary positions make their product largest at distance
  one. They write what the last token was into channels of its own ("the note").
- layer 1: four heads ask "where was my token the last token?" by matching their token against
  the notes, in the slow rotary frequencies that distance hardly turns, and bring back what
  stood there, straight into the channels that the tied unembedding reads.

Every other write into the residual stream starts at zero, so the circuit works undisturbed. It is
delicate: held in place while the rest learns (`Planted`), it may be trained at several times the
learning rate that would otherwise tear it apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

_EMBEDDING_STD = 0.05
_CONSTANT = 4.0  # the shared component, in standard deviations
_BACK_SHARPNESS = 9.0  # attention logit of the previous position, per unit of rotary agreement
_MATCH_GAIN = 2.4
_COPY_GAIN = 3.0
_SLOW = 0.02  # radians per token: slower rotary pairs count as position-free


@dataclass(slots=True)
class Planted:
    """The weights of a circuit, to be held in place: parameters with masks, and their values."""

    held: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def add(self, parameter: Tensor, *where: tuple[slice, ...]) -> None:
        """Hold some parts of a parameter."""
        mask = torch.zeros_like(parameter, dtype=torch.bool)
        for part in where:
            mask[part] = True
        self.held.append((parameter, mask, parameter.detach()[mask].clone()))

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Before an optimizer's step: nothing is to be learned here."""
        for parameter, mask, _ in self.held:
            if parameter.grad is not None:
                parameter.grad[mask] = 0

    @torch.no_grad()
    def restore(self) -> None:
        """After the step: take back what weight decay or momentum changed."""
        for parameter, mask, values in self.held:
            parameter[mask] = values


@torch.no_grad()
def plant_induction(model: Any) -> Planted:
    """Overwrite a fresh Llama-shaped model's first two layers with an induction circuit.

    Args:
        model: a randomly initialised causal language model with tied embeddings, at least two
            layers, four heads and 16 channels per head.

    Returns:
        The circuit, still free: its holder decides for how long it is held.
    """
    config = model.config
    hidden, heads = config.hidden_size, config.num_attention_heads
    size = hidden // heads
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    note = 2 * size  # channels that hold the last token, at the end
    embedding = model.model.embed_tokens.weight
    embedding.normal_(std=_EMBEDDING_STD)
    embedding[:, 0] = _CONSTANT * _EMBEDDING_STD
    embedding[:, hidden - note :] = 0
    frequencies = model.model.rotary_emb.inv_freq.float()  # [size / 2], radians per token
    _look_back(model.model.layers[0].self_attn, frequencies, size, hidden)
    _match_and_copy(model.model.layers[1].self_attn, frequencies, size, hidden)
    return _planted(model, size, slice(hidden - note, hidden))


def _planted(model: Any, size: int, note: slice) -> Planted:
    """All that the circuit is made of, and what must not write over its note."""
    planted = Planted()
    everything = slice(None)
    planted.add(model.model.embed_tokens.weight, (everything, slice(0, 1)), (everything, note))
    for layer, heads in zip(model.model.layers, (2, 4), strict=False):
        rows = slice(0, heads * size)
        attention = layer.self_attn
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            planted.add(projection.weight, (rows,))
        planted.add(layer.input_layernorm.weight, (everything,))
        first = layer is model.model.layers[0]
        planted.add(attention.o_proj.weight, (everything, rows), *([(note,)] if first else []))
        if first:
            planted.add(layer.mlp.down_proj.weight, (note,))
    return planted


def _look_back(attention: Any, frequencies: Tensor, size: int, hidden: int) -> None:
    """Heads 0 and 1: attend to the previous position, write its token into the note."""
    half = size // 2
    constant = _CONSTANT  # about what the first norm makes of the shared component
    scale = math.sqrt(_BACK_SHARPNESS * math.sqrt(size)) / constant
    for head in (0, 1):
        rows = slice(head * size, (head + 1) * size)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection.weight[rows].zero_()
        start = head * size
        attention.q_proj.weight[start : start + half, 0] = scale
        attention.k_proj.weight[start : start + half, 0] = scale * frequencies.cos()
        attention.k_proj.weight[start + half : start + size, 0] = scale * frequencies.sin()
        for i in range(size):
            attention.v_proj.weight[start + i, 1 + start + i] = 1.0
            attention.o_proj.weight[hidden - 2 * size + start + i, start + i] = _EMBEDDING_STD


def _match_and_copy(attention: Any, frequencies: Tensor, size: int, hidden: int) -> None:
    """Heads 0 to 3: find the note that names the current token, bring back what stood there."""
    half = size // 2
    slow = [i for i in range(half) if frequencies[i] < _SLOW]
    channels = [*slow, *(i + half for i in slow)]
    for head in range(4):
        rows = slice(head * size, (head + 1) * size)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            projection.weight[rows].zero_()
        for i, channel in enumerate(channels):
            named = (head * len(channels) + i) % (2 * size)
            row = head * size + channel
            attention.q_proj.weight[row, 1 + named] = _MATCH_GAIN
            attention.k_proj.weight[row, hidden - 2 * size + named] = _MATCH_GAIN
        for i in range(size):
            row = head * size + i
            channel = 1 + row
            if channel < hidden - 2 * size:
                attention.v_proj.weight[row, channel] = 1.0
                attention.o_proj.weight[channel, row] = _COPY_GAIN * _EMBEDDING_STD
