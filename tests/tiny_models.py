"""Tiny random models for tests: real folders that transformers, PEFT and the engine all load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

SPECIAL = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Sorted: a set's order would differ from run to run, and with it the vocabulary.
_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
VOCABULARY = len(SPECIAL) + len(_ALPHABET)

_CONFIGS: dict[str, Any] = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "gemma": GemmaConfig,
    "gemma3": Gemma3TextConfig,
    "phi3": Phi3Config,
}
SHAPES = tuple(_CONFIGS)


def tiny_tokenizer(folder: Path) -> None:
    """Write a byte-level tokenizer (one token per byte) with the house's chat template."""
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *_ALPHABET))}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=list(SPECIAL[2:]),
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)


def tiny_base(folder: Path, shape: str = "llama", *, seed: int = 0, **overrides: Any) -> Path:
    """Write a random base of two layers and hidden size 64 (about 150 thousand parameters).

    Args:
        shape: one of SHAPES.
        overrides: fields of the transformers config.
    """
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
        "tie_word_embeddings": shape != "phi3",
    }
    if shape == "mistral":
        settings["sliding_window"] = 24
    if shape == "gemma3":
        settings |= {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"]}
        settings["query_pre_attn_scalar"] = 16
    if shape == "phi3":
        del settings["head_dim"]
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_CONFIGS[shape](**settings | overrides))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Wide enough that greedy choices are not near ties, biases and norms included.
            spread = 0.1 if "norm" in name or name.endswith("bias") else 0.25
            weight.add_(torch.randn_like(weight) * spread)
    model.save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder


def tiny_adapter(
    folder: Path,
    base: Path,
    *,
    seed: int = 0,
    rank: int = 4,
    targets: Sequence[str] | str = "all-linear",
    **settings: Any,
) -> Path:
    """Write a random LoRA adapter for a tiny base, large enough to change the words."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    names = targets if isinstance(targets, str) else list(targets)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, **settings)
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn_like(weight) * 0.15)
    adapted.save_pretrained(folder)
    return folder
