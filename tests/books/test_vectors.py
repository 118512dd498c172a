from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from books import vectors
from books.vectors import make_vectors

PIECES = ["[PAD]", "[UNK]", "lamp", "lamps", "##s", "oil", "it", "tide"]


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    pieces = {piece: number for number, piece in enumerate(PIECES)}
    tokenizer = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")
    fast.save_pretrained(tmp_path)
    torch.manual_seed(0)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(PIECES), intermediate_size=8, **shape)).save_pretrained(
        tmp_path
    )
    return tmp_path


def test_a_stem_of_the_encoders_words_or_the_texts_has_one_vector(
    encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_SIZE", 4)
    text = encoder / "book.md"
    text.write_text("The oils, the tides.", encoding="utf-8")
    made = make_vectors(encoder, [text])
    assert bytes(made["stems"].tolist()).decode().split("\n") == ["lamp", "oil", "the", "tide"]
    assert made["vectors"].shape == (4, 4)
    assert made["vectors"].dtype == torch.int8
    assert made["vectors"].abs().amax(1).tolist() == [127] * 4
