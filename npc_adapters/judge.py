"""Who said that? A small classifier that tells a world's characters apart by their words.

Character and word n-grams, hashed (Weinberger et al. 2009), and logistic regression: it knows
diction, not facts, and is kept as plain tensors beside the adapters.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_union

from npc_adapters.errors import StoreError

_CHARACTERS, _WORDS = 2**14, 2**13  # features of either kind
_WORD = r"[\w']+|[.,!?;]"
_FILE = "judge.safetensors"


def spoken(reply: str) -> str:
    """A reply's words, without its mood and its actions."""
    words = "\n".join(line for line in reply.splitlines() if not line.startswith("> "))
    if words.startswith("[") and "]" in words:
        words = words.split("]", 1)[1]
    return words.strip()


def _features(texts: Sequence[str]) -> Any:
    said = [spoken(text) for text in texts]
    characters = HashingVectorizer(
        analyzer="char_wb", ngram_range=(2, 5), n_features=_CHARACTERS, alternate_sign=False
    )
    words = HashingVectorizer(
        token_pattern=_WORD, ngram_range=(1, 2), n_features=_WORDS, alternate_sign=False
    )
    return make_union(characters, words).transform(said)


@dataclass(frozen=True, slots=True)
class CharacterJudge:
    """A trained classifier.

    Attributes:
        agents: the characters, in the order of the columns.
        weights: float32 [features, agents].
        bias: float32 [agents].
    """

    agents: tuple[str, ...]
    weights: np.ndarray
    bias: np.ndarray

    @classmethod
    def train(cls, texts: Sequence[str], agents: Sequence[str]) -> CharacterJudge:
        """Learn from replies and the names of who said them (at least two characters)."""
        model = LogisticRegression(C=30, max_iter=300)
        model.fit(_features(texts), list(agents))
        weights, bias, names = model.coef_, model.intercept_, [str(c) for c in model.classes_]
        if len(names) == 2:  # scikit-learn keeps one row for two classes
            weights, bias = np.vstack([-weights, weights]) / 2, np.hstack([-bias, bias]) / 2
        return cls(tuple(names), weights.T.astype(np.float32), bias.astype(np.float32))

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Float32 [texts, agents]; rows sum to 1."""
        logits = _features(texts) @ self.weights + self.bias
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))

    def score(self, text: str) -> dict[str, float]:
        """How likely each character is to have said this."""
        row = self.probabilities([text])[0]
        return {agent: float(p) for agent, p in zip(self.agents, row, strict=True)}

    def accuracy(self, talks: Sequence[Sequence[str]], agents: Sequence[str]) -> float:
        """Share of talks whose lines together are likeliest the right character's."""
        sums = [np.log(self.probabilities(lines) + 1e-9).sum(axis=0) for lines in talks]
        right = [self.agents[s.argmax()] == agent for s, agent in zip(sums, agents, strict=True)]
        return float(np.mean(right))

    def save(self, folder: Path) -> None:
        """Write the judge into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = np.ascontiguousarray(
            self.weights, dtype=np.float16
        )  # safetensors takes raw bytes
        tensors = {"weights": weights, "bias": self.bias}
        save_file(tensors, folder / _FILE, metadata={"agents": json.dumps(self.agents)})

    @classmethod
    def load(cls, folder: Path) -> CharacterJudge:
        """Read a judge.

        Raises:
            StoreError: there is none, or it is damaged.
        """
        from safetensors import SafetensorError, safe_open

        path = folder / _FILE
        try:
            with safe_open(path, framework="np") as file:
                agents = tuple(json.loads(file.metadata()["agents"]))
            tensors = load_file(path)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{path} cannot be read as a judge of characters: {error}") from error
        if len(tensors["weights"]) != _CHARACTERS + _WORDS:
            raise StoreError(
                f"{path} was made by another version; run `biblioteca evaluate npc --all` anew"
            )
        return cls(agents, tensors["weights"].astype(np.float32), tensors["bias"])
