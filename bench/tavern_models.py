"""The random models of bench/tavern.py: a base, a word-per-token tokenizer, adapters."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast


def main() -> None:
    """Make what is missing in a folder: FOLDER COUNT BASE SHAPE on the command line."""
    folder, count, base, shape = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    make_models(folder, count, base, json.loads(shape))


def make_models(
    folder: Path, count: int, base: str = "", shape: dict[str, int] | None = None
) -> None:
    """A base and rank-16 adapters on q, k, v and o; what is already there is kept."""
    torch.manual_seed(0)
    if not (folder / "base").is_dir():
        if base:
            model = AutoModelForCausalLM.from_pretrained(base)
        else:
            model = AutoModelForCausalLM.from_config(
                LlamaConfig(**(shape or {}), bos_token_id=None, eos_token_id=1, pad_token_id=0)
            )
        model.save_pretrained(folder / "base")
        word_tokenizer(model.config.vocab_size).save_pretrained(folder / "base")
    missing = [n for n in range(count) if not (folder / f"adapter{n}").is_dir()]
    if not missing:
        return
    model = AutoModelForCausalLM.from_pretrained(folder / "base")
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    adapted = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=targets))
    for number in missing:
        torch.manual_seed(number + 1)
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if "lora_" in name:
                    weight.copy_(torch.randn_like(weight) * 0.02)
        adapted.save_pretrained(folder / f"adapter{number}")


def word_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A tokenizer in which token n is the word "wn"; the first three are control tokens."""
    special = ("<pad>", "<end>", "<unknown>")  # not "w0": control tokens are found inside words too
    words = (*special, *(f"w{number}" for number in range(len(special), size)))
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=special[2]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=special[0],
        eos_token=special[1],
        unk_token=special[2],
    )
