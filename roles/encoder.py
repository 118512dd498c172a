"""The process of a sentence encoder: `python -m roles.encoder FOLDER`, JSON lines over its pipes.

It loads a model of the BERT family (all-MiniLM-L6-v2, say) from a folder, tells the model's
digest, and answers each list of texts with vectors: the mean of the last layer over a text's
tokens, at length 1 (Reimers and Gurevych 2019). It ends when its input closes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

_MAX_TOKENS = 128


class Encoder:
    """A sentence encoder in this process.

    Args:
        folder: config.json, model.safetensors and tokenizer.json.

    Raises:
        OSError: a file is missing or is not what it should be.
    """

    def __init__(self, folder: Path) -> None:
        import torch
        from tokenizers import Tokenizer
        from transformers import AutoModel

        torch.set_num_threads(1)  # a handful of short texts; the cores are the game's
        self._torch = torch
        self._model: Any = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        ).eval()
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._pad = self._model.config.pad_token_id or 0
        self._tokenizer.enable_padding(pad_id=self._pad)
        files = (folder / name for name in ("config.json", "model.safetensors"))
        self.digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

    def encode(self, texts: list[str]) -> Any:
        """Vectors of length 1 (0 for a text without tokens), float32 [len(texts), hidden]."""
        torch = self._torch
        encoded = self._tokenizer.encode_batch(texts)
        ids = torch.tensor([one.ids or [self._pad] for one in encoded])
        mask = torch.tensor([one.attention_mask or [0] for one in encoded])
        with torch.inference_mode():
            hidden = self._model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[:, :, None].float()
        mean = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1.0)
        return torch.nn.functional.normalize(mean, dim=1)


def serve(folder: Path, questions: TextIO, answers: TextIO) -> None:
    """Tell the model's digest, then answer each line of texts with a line of vectors."""
    try:
        encoder = Encoder(folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        print(json.dumps({"error": str(error).splitlines()[0]}), file=answers, flush=True)
        return
    print(json.dumps({"digest": encoder.digest}), file=answers, flush=True)
    for line in questions:
        asked = json.loads(line)
        rows = [row.numpy().astype("<f4").tobytes() for row in encoder.encode(asked["texts"])]
        vectors = [base64.b64encode(row).decode() for row in rows]
        print(json.dumps({"id": asked["id"], "vectors": vectors}), file=answers, flush=True)


def main() -> None:
    """Serve until the parent closes our input."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # no library's print among the answers
    serve(Path(sys.argv[1]), sys.stdin, answers)


if __name__ == "__main__":
    main()
