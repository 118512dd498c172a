"""What checks measure with: the world's lore, a judge of voices, word vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from roles.dialogues.expectations import Instruments, Judge
from roles.dialogues.wording import words
from roles.world import World

if TYPE_CHECKING:
    import torch

_RARE = 1e-3  # the a of a/(a + p(w)), as in the paper below
_EMBEDDING = "model.embed_tokens.weight"


def read_instruments(world: World) -> Instruments:
    """Everything this world offers to measure with; models are read when first needed."""
    judge, deaf = _read_judge(world.root / "models" / "judge")
    vectors = Path(world.model_path(world.spec.tiers.npc.base))
    return Instruments(
        facts=world.facts,
        judge=judge,
        deaf=deaf,
        likeness=VectorLikeness(vectors, [fact.text for fact in world.facts.values()])
        if (vectors / "model.safetensors").is_file()
        else None,
    )


def _read_judge(folder: Path) -> tuple[Judge | None, str]:
    """A world's judge, or None and why it can't be used here."""
    if not folder.is_dir():
        return None, ""
    try:
        from npc_adapters.judge import CharacterJudge
    except ImportError:
        return None, 'is not checked: the judge needs scikit-learn; install "biblioteca[train]"'
    return CharacterJudge.load(folder), ""


class VectorLikeness:
    """Cosine of two texts' averaged token vectors, rare tokens weighing more.

    The weight of a token w is a / (a + p(w)) (Arora, Liang & Ma 2017); p falls with a token's
    number, since a byte-level BPE numbers tokens in the order it merged them (Zipf). What all
    texts have in common, the mean of `usual`, is taken out: unlike texts come to about 0.

    Args:
        base: a transformers folder whose input embeddings serve as vectors.
        usual: texts of the world, as many as there are.
    """

    def __init__(self, base: Path, usual: Sequence[str]) -> None:
        self._base, self._usual = base, usual

    def __call__(self, a: str, b: str) -> float:
        """Likeness, -1 to 1."""
        import torch

        one, two = self._mean(a) - self._common, self._mean(b) - self._common
        return float(torch.nn.functional.cosine_similarity(one, two, dim=0))

    def _mean(self, text: str) -> torch.Tensor:
        table, encode = self._table, self._tokenizer.encode
        ids = encode(" ".join(words(text)), add_special_tokens=False).ids
        if not ids:
            return table.new_zeros(table.shape[1])
        weights = table.new_tensor(
            [_RARE / (_RARE + 1 / ((i + 2) * _harmonic(len(table)))) for i in ids]
        )
        return (table[ids] * weights[:, None]).mean(dim=0)

    @cached_property
    def _common(self) -> torch.Tensor:
        """What the usual texts have in common: [hidden]."""
        zero = self._table.new_zeros(self._table.shape[1])
        return sum(map(self._mean, self._usual), zero) / max(len(self._usual), 1)

    @cached_property
    def _table(self) -> torch.Tensor:
        """Vectors as [vocabulary, hidden] float32."""
        from safetensors import safe_open

        with safe_open(self._base / "model.safetensors", framework="pt") as file:
            table: torch.Tensor = file.get_tensor(_EMBEDDING).float()
        return table

    @cached_property
    def _tokenizer(self):  # type: ignore[no-untyped-def]  # tokenizers publishes no such type
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self._base / "tokenizer.json"))


def _harmonic(n: int) -> float:
    return math.log(n) + 0.5772
