"""Reading PEFT adapters: what the bank can hold exactly, and refusing the rest by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from engine.errors import AdapterError

Factors = dict[str, tuple[Tensor, Tensor]]
"""By module path (`3.self_attn.q_proj`): A [rank, in] and B [out, rank], scale folded into B."""

Laid = dict[str, tuple[Tensor, list[Tensor]]]
"""By site, as a bank's slot has it but no wider than its ranks: see `LoraBank.lay_out`."""

PREFIX = "base_model.model."
SOFT = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")
SERVED = ("LORA", *SOFT)
# What names the machine an adapter was made on, not the adapter.
_INCIDENTAL = ("base_model_name_or_path", "inference_mode", "revision", "peft_version")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedAdapter:
    """An adapter in host memory.

    Attributes:
        digest: SHA-256 of configuration and tensors.
        base_digest: of the base it was trained on, if its card tells; else None.
        rank: the largest of its modules.
        factors: its matrices, until a bank has laid them out.
        laid: what goes into a slot.
        prompt: a soft prompt's embeddings, fp32 [tokens, hidden].
        prefix: a prefix's keys and values, fp32 [2, layers, kv_heads, tokens, head_dim].
    """

    path: Path
    digest: str
    base_digest: str | None
    rank: int
    size_bytes: int
    factors: Factors = field(default_factory=dict)
    laid: Laid = field(default_factory=dict)
    prompt: Tensor | None = None
    prefix: Tensor | None = None

    @property
    def num_virtual(self) -> int:
        """Positions that a soft prompt or prefix takes ahead of the words."""
        if self.prefix is not None:
            return self.prefix.shape[3]
        return 0 if self.prompt is None else self.prompt.shape[0]


def read_adapter(path: Path) -> LoadedAdapter:
    """Read a PEFT folder (adapter_config.json, adapter_model.safetensors), or a blend of such.

    A blend is a folder with a blend.json, `{"parts": [{"path": ..., "weight": ...}, ...]}`,
    paths relative to it: LoRA adapters added up exactly, by concatenating their ranks. With a
    `"rank"` in it, the sum is rounded to that rank. One soft prompt may lie on top of them.

    Raises:
        AdapterError: missing or damaged files, pickled weights, or a kind of adapter that
            slots can't hold exactly (DoRA, modules_to_save, trained biases, other methods).
    """
    if (path / "blend.json").is_file():
        return _read_blend(path)
    config, content = _read_files(path)
    _refuse_inexact(path, config)
    try:
        tensors = load_tensors(content)
    except (SafetensorError, ValueError) as error:
        raise AdapterError(f"{path}/adapter_model.safetensors is damaged: {error}") from error
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise AdapterError(f"{path} is damaged: {name} holds NaN or infinite numbers")
    digest, base_digest = _digest(config, content), card_digest(path, "base_digest")
    if config["peft_type"] in SOFT:
        return _read_soft(path, config, tensors, digest, base_digest)
    return _assemble(path, digest, base_digest, _pair(path, config, tensors))


def adapter_digest(path: Path) -> str:
    """The digest that an engine gives the adapter in a folder. Raises: AdapterError."""
    return read_adapter(path).digest


def _assemble(path: Path, digest: str, base_digest: str | None, factors: Factors) -> LoadedAdapter:
    return LoadedAdapter(
        path=path,
        digest=digest,
        base_digest=base_digest,
        rank=max(a.shape[0] for a, _ in factors.values()),
        size_bytes=sum(a.nbytes + b.nbytes for a, b in factors.values()),
        factors=factors,
    )


def _read_soft(
    path: Path,
    config: dict[str, Any],
    tensors: dict[str, Tensor],
    digest: str,
    base_digest: str | None,
) -> LoadedAdapter:
    """A soft prompt (Lester et al. 2021; Liu et al. 2021) or a prefix (Li & Liang 2021)."""
    if tensors.keys() != {"prompt_embeddings"}:
        found = ", ".join(sorted(tensors))
        raise AdapterError(f"{path} should hold prompt_embeddings alone; it holds {found}")
    vectors, prefix = tensors["prompt_embeddings"].float(), None
    if config["peft_type"] == "PREFIX_TUNING":
        heads = config["num_attention_heads"]
        shape = (vectors.shape[0], config["num_layers"], 2, heads, config["token_dim"] // heads)
        if vectors.numel() != torch.Size(shape).numel():
            raise AdapterError(f"{path}: a prefix of shape {tuple(vectors.shape)}, not {shape}")
        prefix = vectors.view(shape).permute(2, 1, 3, 0, 4).contiguous()
    return LoadedAdapter(
        path=path,
        digest=digest,
        base_digest=base_digest,
        rank=0,
        size_bytes=vectors.nbytes,
        prompt=vectors if prefix is None else None,
        prefix=prefix,
    )


def _read_blend(path: Path) -> LoadedAdapter:
    try:
        described = json.loads((path / "blend.json").read_text(encoding="utf-8"))
        named = [(path / part["path"], float(part["weight"])) for part in described["parts"]]
        rank = int(described.get("rank", 0))
    except (ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"{path}/blend.json names no parts with path and weight") from error
    if not named:
        raise AdapterError(f"{path}/blend.json blends nothing")
    parts = [(read_adapter(folder), weight) for folder, weight in named]
    return blend(path, parts, rank)


def blend(path: Path, parts: Sequence[tuple[LoadedAdapter, float]], rank: int = 0) -> LoadedAdapter:
    """The weighted sum of LoRA adapters, exactly: their ranks stand side by side.

    Args:
        rank: what to round the sum to, if it has more; 0 leaves it exact.

    Raises:
        AdapterError: there is no LoRA adapter or more than one soft prompt, or they are for
            different bases.
    """
    halves: dict[str, list[tuple[Tensor, Tensor]]] = {}
    soft = [adapter for adapter, _ in parts if adapter.num_virtual]
    if len(soft) > 1 or len(soft) == len(parts):
        raise AdapterError(f"{soft[-1].path} is no LoRA adapter; one may lie on top of others")
    for adapter, weight in parts:
        for name, (a, b) in adapter.factors.items():
            halves.setdefault(name, []).append((a, b * weight))
    bases = {adapter.base_digest for adapter, _ in parts if adapter.base_digest}
    if len(bases) > 1:
        raise AdapterError(f"{path} blends adapters of different bases: {', '.join(bases)}")
    joined = {
        name: (torch.cat([a for a, _ in found]), torch.cat([b for _, b in found], dim=1))
        for name, found in halves.items()
    }
    recipe: list[object] = [[adapter.digest, weight] for adapter, weight in parts]
    if rank:
        joined = {name: _round(a, b, rank) for name, (a, b) in joined.items()}
        recipe.append(rank)
    digest = hashlib.sha256(b"blend" + json.dumps(recipe).encode()).hexdigest()
    whole = _assemble(path, digest, next(iter(bases), None), joined)
    if not soft:
        return whole
    size = whole.size_bytes + soft[0].size_bytes
    return replace(whole, prompt=soft[0].prompt, prefix=soft[0].prefix, size_bytes=size)


def _round(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The factors of this rank whose product is nearest to b [out, R] @ a [R, in].

    (Eckart and Young 1936.) By way of QR, so that the product itself is never formed.
    """
    qa, ra = torch.linalg.qr(a.T.float())
    qb, rb = torch.linalg.qr(b.float())
    u, s, vh = torch.linalg.svd(rb @ ra.T)
    return vh[:rank] @ qa.T, (qb @ u[:, :rank]) * s[:rank]


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


def card_digest(path: Path, field: str) -> str | None:
    """A digest that the card beside an adapter tells, if it does."""
    try:
        card = json.loads((path / "card.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # the card is a convenience; shapes are checked in any case
    found = card.get(field) if isinstance(card, dict) else None
    return found if isinstance(found, str) and found else None


def _refuse_inexact(path: Path, config: dict[str, Any]) -> None:
    method = config.get("peft_type")
    refusals = {
        f"it is a {method!r} adapter; {', '.join(SERVED)} are served": method not in SERVED,
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
