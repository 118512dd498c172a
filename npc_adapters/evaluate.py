"""Judging adapters: do they fit their character, and only theirs; do they still speak sense?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from engine.adapters import LoadedAdapter, read_adapter
from engine.requests import Constraint, LogitBias, Message, SamplingParams
from engine.template import ChatTemplate
from npc_adapters.bases import make_examples
from npc_adapters.data import Row
from npc_adapters.errors import TrainingError
from npc_adapters.examples import Example, collate
from npc_adapters.judge import CharacterJudge, spoken
from npc_adapters.probe import loss_of
from npc_adapters.replies import Question, write_replies

BARE = "base"  # the name of the bare base among the adapters
GENERAL = "general"  # the name of the forgetting test among the characters
_TOKENS_PER_BATCH = 4096


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a character is judged on: held-out rows, and the rows that its judge learns from."""

    held_out: Sequence[Row]
    train: Sequence[Row]


@torch.no_grad()
def perplexity(model: Any, examples: Sequence[Example], pad_id: int) -> float:
    """Perplexity per token of the replies: exp of the mean negative log-likelihood."""
    total = count = 0.0
    ordered = sorted(examples, key=lambda example: len(example.ids))
    size = max(1, _TOKENS_PER_BATCH // len(ordered[-1].ids))
    for start in range(0, len(ordered), size):
        batch = collate(ordered[start : start + size], pad_id)
        loss, logits = loss_of(model, batch)
        total += float(loss) * logits.shape[0]
        count += logits.shape[0]
    return math.exp(total / max(count, 1))


def swap_matrix(
    base: Path,
    adapters: Mapping[str, Path],
    rows: Mapping[str, Sequence[Row]],
    *,
    max_tokens: int = 768,
) -> dict[str, dict[str, float]]:
    """Perplexity of every adapter, and of the bare base, on every character's held-out rows.

    Args:
        base: folder of the base model.
        adapters: adapter folders by character.
        rows: held-out rows by character; `GENERAL` may hold rows of nobody in particular.
        max_tokens: longer rows are left out.

    Returns:
        `matrix[adapter][character]`; the bare base is the adapter `BARE`.
    """
    template = ChatTemplate(base)
    examples = {
        name: make_examples(template, own, prompt_weight=0.0, max_tokens=max_tokens)
        for name, own in rows.items()
    }
    if short := [name for name, found in examples.items() if not found]:
        raise TrainingError(f"no held-out row of {short[0]} has at most {max_tokens} tokens")
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    pad_id = model.config.pad_token_id or 0
    matrix = {BARE: {name: perplexity(model, e, pad_id) for name, e in examples.items()}}
    for adapter, folder in adapters.items():
        with adapted(model, read_adapter(folder)) as inner:
            matrix[adapter] = {name: perplexity(inner, e, pad_id) for name, e in examples.items()}
    return matrix


@contextmanager
@torch.no_grad()
def adapted(model: Any, adapter: LoadedAdapter) -> Iterator[Any]:
    """A model with an adapter in its weights and before its words, for as long as it lasts."""
    layers = model.model.layers
    kept = {path: layers.get_submodule(path).weight.clone() for path in adapter.factors}
    for path, (a, b) in adapter.factors.items():
        layers.get_submodule(path).weight.add_(b @ a)
    try:
        yield _Prompted(model, adapter) if adapter.num_virtual else model
    finally:
        for path, weight in kept.items():
            layers.get_submodule(path).weight.copy_(weight)


class _Prompted:
    """A model that reads a soft prompt or a prefix before any row."""

    def __init__(self, model: Any, adapter: LoadedAdapter) -> None:
        self.lm_head, self._inner, self._adapter = model.lm_head, model.model, adapter

    def model(self, input_ids: Tensor) -> Any:
        """What the decoder returns for ids [B, T]; the soft prompt's own positions are left out."""
        num_rows, prompt = len(input_ids), self._adapter.prompt
        if prompt is None:
            return self._inner(input_ids=input_ids, past_key_values=self._prefix(num_rows))
        words = self._inner.embed_tokens(input_ids)
        vectors = torch.cat([prompt.expand(num_rows, -1, -1), words], dim=1)
        out = self._inner(inputs_embeds=vectors)
        out.last_hidden_state = out.last_hidden_state[:, len(prompt) :]
        return out

    def _prefix(self, num_rows: int) -> DynamicCache:
        cache, prefix = DynamicCache(), self._adapter.prefix
        assert prefix is not None
        for layer, (keys, values) in enumerate(prefix.unbind(1)):
            both = (x.expand(num_rows, -1, -1, -1) for x in (keys, values))
            cache.update(*both, layer)
        return cache


def distinct(texts: Sequence[str], n: int = 2) -> float:
    """Share of different word n-grams among all (Li et al. 2016), over texts together."""
    grams = [
        tuple(words[i : i + n])
        for words in (text.lower().split() for text in texts)
        for i in range(len(words) - n + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0


def loops(text: str) -> bool:
    """Whether a text says three words in a row three times, or ends without a full stop."""
    words = text.lower().split()
    grams = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    repeated = any(grams.count(gram) >= 3 for gram in set(grams))
    return repeated or not text or text[-1] not in ".!?…\"')”—"


def questions_of(rows: Sequence[Row], adapter: str | None) -> list[Question]:
    """Every line that the rows' character answers, with all that was written before it."""
    return [
        Question(adapter, row.messages[:index])
        for row in rows
        for index, message in enumerate(row.messages)
        if message.role == "assistant"
    ]


def judge_replies(
    agent: str, rows: Sequence[Row], replies: Sequence[str], judge: CharacterJudge | None
) -> dict[str, float]:
    """Figures of a character's generated replies.

    Args:
        agent: the character.
        rows: the talks.
        replies: one to each of `questions_of(rows, agent)`.
        judge: tells the characters apart.

    Returns:
        recognised, recognised_lines: share of talks, and of single replies, that the judge, if
        there is one, gives to it; distinct_2; words: mean length; broken: share of loops and
        fragments; lore: share of talks, of those that want facts and names, whose last reply said
        all of them (absent if none wants any).
    """
    texts = [spoken(reply) for reply in replies]
    figures = {
        "distinct_2": distinct(texts),
        "words": sum(len(text.split()) for text in texts) / len(texts),
        "broken": sum(map(loops, texts)) / len(texts),
    }
    talks = list(_by_row(rows, iter(replies)))
    if judge is not None:
        figures["recognised"] = judge.accuracy(talks, [agent] * len(talks))
        figures["recognised_lines"] = judge.accuracy([[t] for t in texts], [agent] * len(texts))
    wanted = [(talk[-1], row.facts) for talk, row in zip(talks, rows, strict=True) if row.facts]
    if wanted:
        said = [all(f.lower() in reply.lower() for f in facts) for reply, facts in wanted]
        figures["lore"] = sum(said) / len(said)
    return figures


def _by_row(rows: Sequence[Row], replies: Iterator[str]) -> Iterator[list[str]]:
    """The next replies, to all questions of some rows, row by row."""
    return (list(islice(replies, len(row.replies))) for row in rows)


def evaluate_adapters(
    base: Path,
    adapters: Mapping[str, Path],
    trials: Mapping[str, Trial],
    general: Sequence[Row],
    *,
    sampling: SamplingParams,
    held_to: Constraint | None = None,
    leaning: Callable[[Sequence[Message]], LogitBias] = lambda _: (),
    num_rows: int = 40,
    threads: int = 0,
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Judge every adapter.

    Args:
        base: folder of the base model.
        adapters: adapter folders by character.
        trials: rows by character, for the same characters.
        general: held-out rows of nobody in particular, for forgetting.
        sampling, held_to, leaning: how replies are generated, see `write_replies`.
        num_rows: held-out rows per character, at most.
        threads: CPU threads of the engine that generates.

    Returns:
        Figures by character, and the whole: `matrix`, and how many held-out talks and lines the
        judge gives to the right character (`judge_accuracy`, `judge_accuracy_lines`).
    """
    held_out = {name: list(trial.held_out)[:num_rows] for name, trial in trials.items()}
    rows = {**held_out, GENERAL: list(general)[:num_rows]}
    matrix = swap_matrix(base, adapters, rows)
    said = [(r, name) for name, trial in trials.items() for row in trial.train for r in row.replies]
    judge = CharacterJudge.train([text for text, _ in said], [name for _, name in said])
    figures = {name: perplexities(matrix, name) for name in adapters}
    questions = [q for name in adapters for q in questions_of(held_out[name], name)]
    written = write_replies(
        base,
        adapters,
        questions,
        sampling=sampling,
        held_to=held_to,
        leaning=leaning,
        threads=threads,
    )
    replies = iter(written)
    for name in adapters:
        own = [reply for talk in _by_row(held_out[name], replies) for reply in talk]
        figures[name] |= judge_replies(name, held_out[name], own, judge)
    return figures, {"matrix": matrix, "judge": judge, **_accuracies(judge, held_out)}


def _accuracies(judge: CharacterJudge, held_out: Mapping[str, Sequence[Row]]) -> dict[str, float]:
    """How many held-out talks, and single lines of them, the judge gives to who said them."""
    talks = [(row.replies, name) for name, rows in held_out.items() for row in rows]
    lines = [([reply], name) for replies, name in talks for reply in replies]
    return {
        "judge_accuracy": judge.accuracy(*zip(*talks, strict=True)),
        "judge_accuracy_lines": judge.accuracy(*zip(*lines, strict=True)),
    }


def perplexities(matrix: Mapping[str, Mapping[str, float]], name: str) -> dict[str, float]:
    """A character's figures out of the swap matrix.

    Returns:
        perplexity: of its own adapter on its own rows; base_perplexity; gain: how far below the
        base's it is, as a share; margin: how far below the best other adapter's; forgetting:
        how far above the base's it is on general rows.
    """
    own, bare = matrix[name][name], matrix[BARE][name]
    others = [row[name] for adapter, row in matrix.items() if adapter not in (name, BARE)]
    figures = {"perplexity": own, "base_perplexity": bare, "gain": 1 - own / bare}
    if others:
        figures["margin"] = 1 - own / min(others)
    if GENERAL in matrix[name]:
        figures["forgetting"] = matrix[name][GENERAL] / matrix[BARE][GENERAL] - 1
    return figures


def draw_matrix(matrix: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Draw the swap matrix as a heat map (PNG): perplexity relative to the base's."""
    from matplotlib.figure import Figure

    adapters, characters = list(matrix), list(matrix[BARE])
    table = [[math.log(matrix[a][c] / matrix[BARE][c]) for c in characters] for a in adapters]
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(table, cmap="RdYlGn_r", vmin=-1, vmax=1)
    axes.set_xticks(range(len(characters)), characters, rotation=45, ha="right")
    axes.set_yticks(range(len(adapters)), adapters)
    axes.set_xlabel("held-out lines of")
    axes.set_ylabel("adapter")
    for y, adapter in enumerate(adapters):
        for x, character in enumerate(characters):
            text = f"{matrix[adapter][character]:.1f}"
            axes.text(x, y, text, ha="center", va="center", fontsize=8)
    figure.colorbar(image, label="log of perplexity over the base's")
    figure.savefig(path, dpi=100)
