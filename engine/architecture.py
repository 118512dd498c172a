"""What a decoder looks like, read from its config.json: shapes, not weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from engine.errors import BaseModelError

SUPPORTED = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma3_text")
# Their frequencies don't change with the length of the prompt, so one table serves all rows.
FIXED_ROPE = ("default", "linear", "llama3", "yarn")
DEFAULT_CONTEXT = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """Shapes of one decoder.

    Attributes:
        fused: weights come as qkv_proj and gate_up_proj (Phi-3).
        activation: of the gate; "gelu" is the tanh approximation.
        norm_offset: RMSNorm multiplies by 1 + weight (Gemma).
        sandwich: norms after attention and after the MLP as well (Gemma 3).
        windows: per layer, how many tokens back it sees; 0 sees all.
        rope_layers: per layer, which of the rotary tables it uses.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    norm_eps: float
    context_tokens: int
    tied: bool
    fused: bool
    activation: Literal["silu", "gelu"]
    norm_offset: bool
    qk_norm: bool
    sandwich: bool
    embed_scale: float
    attention_scale: float
    windows: tuple[int, ...]
    rope_layers: tuple[int, ...]

    @property
    def q_size(self) -> int:
        """Width of all queries of a token."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all keys (or values) of a token."""
        return self.num_kv_heads * self.head_dim


def read_architecture(folder: Path) -> tuple[Architecture, Any]:
    """The architecture in a model folder, with the transformers config it was read from.

    Raises:
        BaseModelError: the folder holds no decoder that this engine serves exactly.
    """
    if not (folder / "config.json").is_file():
        raise BaseModelError(f"{folder} holds no config.json; it is not a model folder")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise BaseModelError(f"{folder}/config.json can't be read: {error}") from error
    if config.model_type not in SUPPORTED:
        raise BaseModelError(
            f"{folder} is a {config.model_type!r} model; the engine serves {', '.join(SUPPORTED)}"
        )
    return _describe(config), config


def _describe(config: Any) -> Architecture:
    kind: str = config.model_type
    gemma = kind.startswith("gemma")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    scalar = getattr(config, "query_pre_attn_scalar", None) or head_dim
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    activations: dict[str, Literal["silu", "gelu"]] = {
        "silu": "silu",
        "gelu_pytorch_tanh": "gelu",
        "gelu": "gelu",
    }
    if activation not in activations or (activation == "gelu" and not gemma):
        raise BaseModelError(f"activation {activation!r} is not served; silu and tanh gelu are")
    return Architecture(
        model_type=kind,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads or config.num_attention_heads,
        head_dim=head_dim,
        intermediate_size=config.intermediate_size,
        norm_eps=config.rms_norm_eps,
        context_tokens=config.max_position_embeddings,
        tied=bool(config.tie_word_embeddings),
        fused=kind == "phi3",
        activation=activations[activation],
        norm_offset=gemma,
        qk_norm=kind in ("qwen3", "gemma3_text"),
        sandwich=kind == "gemma3_text",
        embed_scale=config.hidden_size**0.5 if gemma else 1.0,
        attention_scale=scalar**-0.5,
        windows=_windows(config),
        rope_layers=tuple(0 if kind != "gemma3_text" else i for i in _layer_kinds(config)),
    )


def _layer_kinds(config: Any) -> list[int]:
    """Per layer: 1 where it is a sliding one, 0 where it sees everything."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return [int(kind == "sliding_attention") for kind in kinds]
    everywhere = config.model_type in ("mistral", "phi3")
    return [int(everywhere)] * config.num_hidden_layers


def _windows(config: Any) -> tuple[int, ...]:
    window = getattr(config, "sliding_window", None) or 0
    if not getattr(config, "use_sliding_window", True):
        window = 0
    return tuple(window if sliding else 0 for sliding in _layer_kinds(config))


def rotary_tables(config: Any, architecture: Architecture, length: int) -> list[torch.Tensor]:
    """Cosines and sines of each rotary kind: [length, 2, rotary_dim / 2], fp32 (Su et al. 2021).

    Raises:
        BaseModelError: a scaling whose frequencies depend on the prompt's length.
    """
    if architecture.model_type == "gemma3_text":
        kinds = ("full_attention", "sliding_attention")
        return [_rotary(config, architecture, length, config.rope_parameters[k], k) for k in kinds]
    return [_rotary(config, architecture, length, config.rope_parameters, None)]


def _rotary(
    config: Any, architecture: Architecture, length: int, parameters: Any, layer_type: str | None
) -> torch.Tensor:
    kind = parameters["rope_type"]
    factor = 1.0
    if kind == "default":
        size = int(architecture.head_dim * parameters.get("partial_rotary_factor", 1.0))
        steps = torch.arange(0, size, 2, dtype=torch.float) / size
        inverse = 1.0 / (parameters["rope_theta"] ** steps)
    elif kind in FIXED_ROPE:
        named = {"layer_type": layer_type} if layer_type else {}
        inverse, factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), **named)
    elif kind in ("dynamic", "longrope"):
        limit = parameters.get("original_max_position_embeddings", architecture.context_tokens)
        if length > limit:
            raise BaseModelError(
                f"rotary scaling {kind!r} is served up to {limit} tokens of context, not {length}"
            )
        inverse, factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=length)
    else:
        known = (*FIXED_ROPE, "dynamic", "longrope")
        raise BaseModelError(f"rotary scaling {kind!r} is not served; {', '.join(known)} are")
    angles = torch.arange(length, dtype=torch.float)[:, None] * inverse[None, :].float()
    return torch.stack((angles.cos() * factor, angles.sin() * factor), dim=1)
