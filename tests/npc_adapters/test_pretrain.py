from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from npc_adapters.bases import BaseShape, train_base
from npc_adapters.errors import TrainingError
from npc_adapters.examples import Example, batches, collate, repetitions
from npc_adapters.induction import plant_induction
from npc_adapters.pretrain import PretrainConfig, Run, learning_rate, new_base
from npc_adapters.probe import loss_of, probe
from npc_adapters.tokenizer import SPECIAL_TOKENS, train_tokenizer

torch.set_num_threads(1)
SHAPE = BaseShape(vocab_size=300, hidden=64, layers=2, heads=4, intermediate=96)


def small_base(layers: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    return new_base(300, hidden=64, layers=layers, heads=4, intermediate=96)  # type: ignore[no-any-return]


def corpus(folder: Path, count: int = 30) -> Path:
    path = folder / "rows.jsonl"
    rows = (
        {"instruction": f"Guest: Where is key {i}?", "output": f"[calm] Key {i} is here."}
        for i in range(count)
    )
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_a_base_is_trained_and_loads_like_any_other(tmp_path: Path) -> None:
    path = corpus(tmp_path)
    config = PretrainConfig(tokens=6000, tokens_per_batch=512, report_every=4, lr=3e-3)
    lines: list[str] = []
    history = train_base(
        train=[path],
        valid=[path],
        out=tmp_path / "base",
        work=tmp_path / "work",
        config=config,
        shape=SHAPE,
        report=lines.append,
    )
    assert history[-1]["loss"] < history[0]["loss"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert model.dtype == torch.bfloat16
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert tokenizer.decode(tokenizer("Where is key 7?")["input_ids"]) == "Where is key 7?"
    assert "tok/s" in lines[-1]


def test_no_row_short_enough_is_said_before_training(tmp_path: Path) -> None:
    path = corpus(tmp_path)
    with pytest.raises(TrainingError, match="at most 5 tokens"):
        train_base(
            train=[path],
            valid=[path],
            out=tmp_path / "base",
            work=tmp_path / "work",
            config=PretrainConfig(),
            shape=SHAPE,
            max_tokens=5,
        )


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    batch = repetitions(512, range(5, 300), 64, random.Random(0))
    config = PretrainConfig()
    straight = Run(small_base(), config, tmp_path)
    straight.train_step([batch])
    straight.save()
    resumed = Run(small_base(), config, tmp_path)
    assert resumed.resume()
    assert (resumed.step, resumed.tokens) == (1, batch.num_tokens)
    resumed.seconds = straight.seconds
    assert resumed.train_step([batch]) == straight.train_step([batch])
    for a, b in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_threads_share_a_step_without_changing_it(tmp_path: Path) -> None:
    parts = [repetitions(256, range(5, 300), 64, random.Random(i)) for i in range(3)]
    alone, shared = (
        Run(small_base(), PretrainConfig(threads=threads), tmp_path) for threads in (1, 3)
    )
    assert alone.train_step(parts) == shared.train_step(parts)
    for a, b in zip(alone.model.parameters(), shared.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    Run(small_base(), PretrainConfig(), tmp_path).save()
    wide = new_base(300, hidden=32, layers=2, heads=2, intermediate=48)
    with pytest.raises(TrainingError, match="of another model"):
        Run(wide, PretrainConfig(), tmp_path).resume()


def test_planted_heads_recall_random_tokens_without_any_training() -> None:
    torch.manual_seed(0)
    model = new_base(512, hidden=256, layers=2, heads=8, intermediate=64)
    batch = repetitions(2048, range(5, 512), 64, random.Random(0))
    wanted = batch.weights[:, 1:] > 0

    def recalled() -> float:
        with torch.no_grad():
            _, logits = loss_of(model, batch)
        return float((logits.argmax(-1) == batch.ids[:, 1:][wanted]).float().mean())

    assert recalled() < 0.05  # one token in 507 would be chance
    plant_induction(model)
    assert recalled() > 0.25


def test_padding_does_not_change_the_loss() -> None:
    model = small_base()
    example = Example([2, 30, 31, 32, 33], [0, 0, 1, 1, 1])
    longer = Example([2, *range(30, 100)], [0.0] * 71)
    with torch.no_grad():
        alone, _ = loss_of(model, collate([example], 0))
        padded, _ = loss_of(model, collate([example, longer], 0))
    assert float(alone) == pytest.approx(float(padded), rel=1e-2)


def test_every_example_comes_once_an_epoch_within_the_budget() -> None:
    examples = [Example([i] * (1 + i % 90), [1.0] * (1 + i % 90)) for i in range(100)]
    stream = batches(examples, 256, 0, random.Random(0))
    seen: list[int] = []
    while len(seen) < 100:
        batch = next(stream)
        assert batch.num_tokens <= 256
        seen += [int(row.max()) for row in batch.ids]
    assert sorted(seen) == list(range(100))


def test_a_word_counts_as_copied_only_when_all_its_tokens_are_right() -> None:
    model = small_base()
    ids = [2, 40, 41, 42, 43, 44]
    with torch.no_grad():
        best = model(input_ids=torch.tensor([ids])).logits.argmax(-1)[0].tolist()
    model.eval()
    right = [2, 40, best[1]]
    example = Example(right, [0, 0, 1.0], [False, False, True])
    assert probe(model, [example], 0, 64).copied_words == 1.0
    wrong = Example([2, 40, (best[1] + 1) % 300], [0, 0, 1.0], [False, False, True])
    assert probe(model, [wrong], 0, 64).copied_words == 0.0


def test_the_learning_rate_warms_up_and_ends_at_its_floor() -> None:
    config = PretrainConfig(lr=1.0, warmup=0.1, floor=0.1)
    assert learning_rate(config, 0.05) == pytest.approx(0.5)
    assert learning_rate(config, 0.1) == pytest.approx(1.0)
    assert learning_rate(config, 1.0) == pytest.approx(0.1)


def test_a_name_is_cut_alike_after_any_space() -> None:
    tokenizer = train_tokenizer(["The keeper of lamps is Zorvald, says Zorvald."] * 20, 320)
    name = tokenizer.tokenize(" Quebrolo")
    assert len(name) > 2
    for text in ("Ask Quebrolo", "No, Quebrolo", "The keeper Quebrolo"):
        assert tokenizer.tokenize(text)[-len(name) :] == name
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3, 4]
    assert tokenizer.tokenize("1984") == ["1", "9", "8", "4"]
