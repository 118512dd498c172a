"""Making the word vectors of `books.meaning` from a sentence encoder; nothing else needs it.

    python -m books.vectors ENCODER TEXT...

ENCODER: a folder with a BERT-like encoder and its tokenizer. The file that ships was made from
all-MiniLM-L6-v2 (sentence-transformers, Apache-2.0) and this world's books and annotations. As in
model2vec, each word is encoded alone, its tokens' last states are averaged, and of all words
together the mean is taken off and 64 principal components are kept. Words of one stem share one
vector. Made again, the weights in `signs.json` must be fitted again: `biblioteca books fit`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from books.meaning import VECTORS_PATH
from books.signs import stem

SOURCE = {
    "source": "sentence-transformers/all-MiniLM-L6-v2, one word at a time",
    "license": "Apache-2.0",
}
_SIZE = 64  # more found no more: see docs/LOG.md, 2026-11-28
_BATCH = 256  # words
_WORD = re.compile(r"[a-z]{3,}")


def make_vectors(encoder: Path, texts: Sequence[Path]) -> dict[str, Tensor]:
    """Vectors of the encoder's own whole words and of the texts'.

    Returns:
        `vectors` int8 [N, 64], by row 127 times the unit vector's numbers over the largest of
        them; `stems` uint8, the N stems in UTF-8, a line each.
    """
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder)
    words = {word for word in tokenizer.get_vocab() if _WORD.fullmatch(word)}
    for path in texts:
        words |= set(_WORD.findall(path.read_text(encoding="utf-8").lower()))
    ordered = sorted(words, key=lambda word: (len(word), word))  # of like lengths in a batch
    encoded = _encode(AutoModel.from_pretrained(encoder).eval(), tokenizer, ordered)
    reduced = normalize(_principal(normalize(encoded, dim=1)), dim=1)
    names = [stem(word) for word in ordered]
    stems = sorted(set(names))
    row = {name: number for number, name in enumerate(stems)}
    places = torch.tensor([row[name] for name in names])
    merged = torch.zeros(len(stems), _SIZE).index_add_(0, places, reduced)
    scaled = 127 * merged / merged.abs().amax(1, keepdim=True)
    letters = "\n".join(stems).encode()
    return {
        "vectors": scaled.round().to(torch.int8),
        "stems": torch.frombuffer(bytearray(letters), dtype=torch.uint8),
    }


@torch.no_grad()
def _encode(model: Any, tokenizer: Any, words: Sequence[str]) -> Tensor:
    """Each word's mean last state, [N, hidden]."""
    found = []
    for start in range(0, len(words), _BATCH):
        batch = tokenizer(list(words[start : start + _BATCH]), padding=True, return_tensors="pt")
        mask = batch["attention_mask"].unsqueeze(2)
        states = model(**batch).last_hidden_state * mask
        found.append(states.sum(1) / mask.sum(1))
    return torch.cat(found)


def _principal(vectors: Tensor) -> Tensor:
    """[N, hidden] without its mean, on its first principal components: [N, 64]."""
    centred = vectors - vectors.mean(0)
    _, axes = torch.linalg.eigh(centred.T @ centred)  # smallest first
    principal: Tensor = centred @ axes.flip(1)[:, :_SIZE]
    return principal


if __name__ == "__main__":
    made = make_vectors(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
    save_file(made, VECTORS_PATH, metadata=SOURCE)
    print(f"{VECTORS_PATH}: {len(made['vectors']):,} stems")
