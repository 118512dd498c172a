"""A deeper base out of a trained one: depth up-scaling (SOLAR, Kim et al. 2023)."""

from __future__ import annotations

import copy
from typing import Any

from npc_adapters.errors import UsageError


def upscale_depth(model: Any, layers: int) -> Any:
    """Stack two copies of a model, each short of the layers nearest the seam.

    With n layers and n - m kept of each copy, layer i of the result is layer i of the original
    for the first n - m, then layers m to n - 1 follow: 2 (n - m) layers.

    Args:
        model: a trained Llama-shaped causal language model.
        layers: wanted depth: even, above the model's own, at most twice it.

    Raises:
        UsageError: if such a depth cannot be made.
    """
    own = model.config.num_hidden_layers
    if layers % 2 or not own < layers <= 2 * own:
        raise UsageError(
            f"{layers} layers cannot be made of {own}; ask for an even number "
            f"above {own} and at most {2 * own}"
        )
    kept = layers // 2
    order = [*range(kept), *range(own - kept, own)]
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in order]
    deeper = type(model)(config)
    source = model.state_dict()
    target = {key: value for key, value in source.items() if ".layers." not in key}
    for new, old in enumerate(order):
        mark = f".layers.{old}."
        for key, value in source.items():
            if mark in key:
                target[key.replace(mark, f".layers.{new}.")] = value
    deeper.load_state_dict(target)
    return deeper
