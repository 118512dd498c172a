"""What checks measure with: the world's lore, a judge of voices, word vectors."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from roles.dialogues.expectations import Instruments
from roles.dialogues.wording import words
from roles.reply import ReplyReader
from roles.world import World

if TYPE_CHECKING:
    import torch

_RARE = 1e-3  # the a of a/(a + p(w)), as in the paper below
_EMBEDDING = "model.embed_tokens.weight"


def read_instruments(world: World) -> Instruments:
    """Everything this world offers to measure with; models are read when first needed."""
    spoken = {npc: list(spoken_lines(world.root / "npcs" / f"{npc}.jsonl")) for npc in world.npcs}
    taught = {npc: lines for npc, lines in spoken.items() if lines}
    vectors = Path(world.model_path(world.spec.tiers.npc.base))
    return Instruments(
        facts=world.facts,
        judge=VoiceJudge(taught) if len(taught) > 1 else None,
        likeness=VectorLikeness(vectors) if (vectors / "model.safetensors").is_file() else None,
    )


def spoken_lines(file: Path) -> Iterator[str]:
    """The words a character speaks in its training dialogues, mood and actions left out."""
    if not file.is_file():
        return
    for row in file.read_text(encoding="utf-8").splitlines():
        if row.strip():
            table = json.loads(row)
            messages = table.get("messages", [])
            yield from map(_words_of, [table["output"]] if "output" in table else [])
            yield from (_words_of(m["content"]) for m in messages if m["role"] == "assistant")


def _words_of(reply: str) -> str:
    reader = ReplyReader()
    reader.feed(reply)
    reader.finish()
    return reader.spoken


class VoiceJudge:
    """Which character speaks, by its words alone: multinomial naive Bayes with add-one smoothing.

    Features are words and pairs of neighbouring words (Manning, Raghavan & Schuetze 2008, 13.2);
    every character is as likely before it speaks.

    Args:
        lines: what each character says in its training dialogues.
    """

    def __init__(self, lines: Mapping[str, Iterable[str]]) -> None:
        self._counts = {
            agent: Counter(feature for line in said for feature in _features(line))
            for agent, said in lines.items()
        }
        self._vocabulary = set().union(*self._counts.values())
        self._totals = {agent: counts.total() for agent, counts in self._counts.items()}

    def score(self, text: str) -> dict[str, float]:
        """Probability per character."""
        found = [feature for feature in _features(text) if feature in self._vocabulary]
        size = len(self._vocabulary)
        logs = {
            agent: sum(math.log((counts[f] + 1) / (self._totals[agent] + size)) for f in found)
            for agent, counts in self._counts.items()
        }
        best = max(logs.values())
        weights = {agent: math.exp(log - best) for agent, log in logs.items()}
        return {agent: weight / sum(weights.values()) for agent, weight in weights.items()}


def _features(text: str) -> list[str]:
    spoken = words(text)
    return [*spoken, *(f"{a} {b}" for a, b in pairwise(spoken))]


class VectorLikeness:
    """Cosine of two texts' averaged token vectors, rare tokens weighing more.

    The weight of a token w is a / (a + p(w)) (Arora, Liang & Ma 2017); p falls with a token's
    number, since a byte-level BPE numbers tokens in the order it merged them (Zipf).

    Args:
        base: a transformers folder whose input embeddings serve as vectors.
    """

    def __init__(self, base: Path) -> None:
        self._base = base

    def __call__(self, a: str, b: str) -> float:
        """Likeness, -1 to 1."""
        import torch

        cosine = torch.nn.functional.cosine_similarity(self._vector(a), self._vector(b), dim=0)
        return float(cosine)

    def _vector(self, text: str) -> torch.Tensor:
        table, encode = self._table, self._tokenizer.encode
        ids = encode(" ".join(words(text)), add_special_tokens=False).ids
        if not ids:
            return table.new_zeros(table.shape[1])
        weights = table.new_tensor(
            [_RARE / (_RARE + 1 / ((i + 2) * _harmonic(len(table)))) for i in ids]
        )
        return (table[ids] * weights[:, None]).mean(dim=0)

    @cached_property
    def _table(self) -> torch.Tensor:
        """Vectors as [vocabulary, hidden] float32, their common direction taken out."""
        from safetensors import safe_open

        with safe_open(self._base / "model.safetensors", framework="pt") as file:
            table: torch.Tensor = file.get_tensor(_EMBEDDING).float()
        return table - table.mean(dim=0)

    @cached_property
    def _tokenizer(self):  # type: ignore[no-untyped-def]  # tokenizers publishes no such type
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(self._base / "tokenizer.json"))


def _harmonic(n: int) -> float:
    return math.log(n) + 0.5772
