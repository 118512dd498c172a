"""The starter world's tokenizer: small, byte-level, and kind to words it has never seen.

A 5M-parameter model has to copy invented names out of its prompt. That is a matter of repeating
tokens, so a name must be cut alike wherever it stands: pieces never cross a word, digits stand
alone, and no piece is longer than `MAX_PIECE_CHARS`, which keeps rare names from being swallowed
whole in one place and spelt out in another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, END = "<|pad|>", "<|end|>"
ROLES = ("system", "user", "assistant")
SPECIAL_TOKENS = (PAD, END, *(f"<|{role}|>" for role in ROLES))
# What no text may hold: these, and what marks turns for the bases that we start from.
CONTROL_TOKENS = (*SPECIAL_TOKENS, "<|im_start|>", "<|im_end|>", "<|endoftext|>")
MAX_PIECE_CHARS = 10
# GPT-2's split, with single digits: contractions, words, digits, signs, white space.
WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int = 2048) -> Any:
    """Learn byte-pair merges (Sennrich et al. 2016) over bytes and wrap them for transformers.

    Args:
        texts: what to learn from, special tokens excluded.
        vocab_size: number of ids, the 256 bytes and the special tokens included.

    Returns:
        A `PreTrainedTokenizerFast` with the chat template `<|role|>content<|end|>`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=MAX_PIECE_CHARS,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        extra_special_tokens=[f"<|{role}|>" for role in ROLES],
        clean_up_tokenization_spaces=False,
    )
