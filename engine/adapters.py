"""Reading PEFT adapters: what the bank can hold exactly, and refusing the rest by name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from engine.errors import AdapterError

Factors = dict[str, tuple[Tensor, Tensor]]
"""By module path (`3.self_attn.q_proj`): A [rank, in] and B [out, rank], scale folded into B."""

PREFIX = "base_model.model."
# What names the machine an adapter was made on, not the adapter.
_INCIDENTAL = ("base_model_name_or_path", "inference_mode", "revision", "peft_version")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedAdapter:
    """An adapter in host memory.

    Attributes:
        digest: SHA-256 of configuration and tensors.
        base_digest: of the base it was trained on, if its card tells; else None.
        rank: the largest of its modules.
        factors: what goes into a slot.
    """

    path: Path
    digest: str
    base_digest: str | None
    rank: int
    size_bytes: int
    factors: Factors = field(default_factory=dict)


def read_adapter(path: Path) -> LoadedAdapter:
    """Read a PEFT folder (adapter_config.json, adapter_model.safetensors).

    Raises:
        AdapterError: missing or damaged files, pickled weights, or a kind of adapter that
            slots can't hold exactly (DoRA, modules_to_save, trained biases, other methods).
    """
    config, content = _read_files(path)
    _refuse_inexact(path, config)
    try:
        tensors = load_tensors(content)
    except (SafetensorError, ValueError) as error:
        raise AdapterError(f"{path}/adapter_model.safetensors is damaged: {error}") from error
    factors = _pair(path, config, tensors)
    return LoadedAdapter(
        path=path,
        digest=_digest(config, content),
        base_digest=_base_digest(path),
        rank=max(a.shape[0] for a, _ in factors.values()),
        size_bytes=sum(a.nbytes + b.nbytes for a, b in factors.values()),
        factors=factors,
    )


def adapter_digest(path: Path) -> str:
    """The digest that an engine gives the adapter in a folder. Raises: AdapterError."""
    return _digest(*_read_files(path))


def _read_files(path: Path) -> tuple[dict[str, Any], bytes]:
    if not (path / "adapter_config.json").is_file():
        raise AdapterError(f"{path} holds no adapter_config.json; it is not an adapter folder")
    if not (path / "adapter_model.safetensors").is_file():
        other = " (adapter_model.bin is a pickle and is never read)"
        pickled = (path / "adapter_model.bin").is_file()
        raise AdapterError(f"{path} holds no adapter_model.safetensors{other if pickled else ''}")
    try:
        config = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise AdapterError(f"{path}/adapter_config.json is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{path}/adapter_config.json is not a JSON object")
    return config, (path / "adapter_model.safetensors").read_bytes()


def _digest(config: dict[str, Any], content: bytes) -> str:
    kept = {key: value for key, value in config.items() if key not in _INCIDENTAL}
    for key, value in kept.items():  # PEFT writes sets in any order
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            kept[key] = sorted(value)
    total = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    total.update(hashlib.sha256(content).digest())
    return total.hexdigest()


def _base_digest(path: Path) -> str | None:
    try:
        card = json.loads((path / "card.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # the card is a convenience; shapes are checked in any case
    found = card.get("base_digest") if isinstance(card, dict) else None
    return found if isinstance(found, str) else None


def _refuse_inexact(path: Path, config: dict[str, Any]) -> None:
    method = config.get("peft_type")
    refusals = {
        f"it is a {method!r} adapter; LORA is served": method != "LORA",
        "it uses DoRA, which rescales the base's weights": config.get("use_dora"),
        f"it replaces modules_to_save {config.get('modules_to_save')}": config.get(
            "modules_to_save"
        ),
        f"it trains biases (bias={config.get('bias')!r})": config.get("bias", "none") != "none"
        or config.get("lora_bias"),
        "it changes single tokens (trainable_token_indices)": config.get("trainable_token_indices"),
        "its weights are stored transposed (fan_in_fan_out)": config.get("fan_in_fan_out"),
        "it uses aLoRA, which switches on in mid-prompt": config.get("alora_invocation_tokens"),
    }
    for reason, refused in refusals.items():
        if refused:
            raise AdapterError(f"{path} can't be served exactly: {reason}")


def _pair(path: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Factors:
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        module, _, half = name.removeprefix(PREFIX).rpartition(".lora_")
        if half not in ("A.weight", "B.weight"):
            raise AdapterError(f"{path} can't be served exactly: it holds a tensor {name!r}")
        halves.setdefault(module, {})[half[0]] = tensor
    factors: Factors = {}
    for module, found in halves.items():
        if found.keys() != {"A", "B"} or found["A"].shape[0] != found["B"].shape[1]:
            raise AdapterError(f"{path} is damaged: lora_A and lora_B of {module} don't match")
        short = module.removeprefix("model.layers.")
        if short == module:
            raise AdapterError(f"{path} can't be served exactly: it changes {module!r}")
        scale = _scale(config, module, found["A"].shape[0])
        factors[short] = (found["A"].float(), found["B"].float() * scale)
    if not factors:
        raise AdapterError(f"{path} is empty: it holds no lora_A and lora_B tensors")
    return factors


def _scale(config: dict[str, Any], module: str, rank: int) -> float:
    alpha = _by_pattern(config.get("alpha_pattern") or {}, module, config.get("lora_alpha", 8))
    divisor = rank**0.5 if config.get("use_rslora") else rank
    return float(alpha / divisor)


def _by_pattern(patterns: dict[str, float], module: str, default: float) -> float:
    from peft.utils.other import get_pattern_key

    return patterns.get(get_pattern_key(list(patterns), module), default)
