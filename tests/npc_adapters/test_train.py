from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from engine.adapters import adapter_digest, read_adapter
from engine.template import ChatTemplate
from npc_adapters import train
from npc_adapters.card import read_card
from npc_adapters.data import Row, split_rows
from npc_adapters.errors import TrainingError, UsageError
from npc_adapters.evaluate import swap_matrix
from npc_adapters.methods import METHODS, VIRTUAL_TOKENS
from npc_adapters.precision import autocast
from npc_adapters.progress import quietly
from npc_adapters.train import (
    Outcome,
    TrainConfig,
    check_feasible,
    cost_of,
    load_for_training,
    to_dataset,
    train_adapter,
)
from npc_adapters.trainer import IGNORED, make_trainer, without_mask
from tests.npc_adapters.conftest import row
from tests.tiny_models import tiny_adapter

QUICK = {"rank": 4, "alpha": 8, "epochs": 1, "batch_size": 8, "max_tokens": 128}


def config(**settings: object) -> TrainConfig:
    return TrainConfig(**QUICK | settings)  # type: ignore[arg-type]


def test_an_adapter_is_trained_with_card_report_and_plot(
    tmp_path: Path, base: Path, rows: list[Row]
) -> None:
    out = tmp_path / "pim"
    settings = config(epochs=4, lr=1e-2)
    outcome = train_adapter(name="pim", base=base, rows=rows, out=out, config=settings, show=False)
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "card.json",
        "loss.png",
        "report.json",
    ]
    report = json.loads((out / "report.json").read_text())
    losses = [entry["eval_loss"] for entry in report["history"] if "eval_loss" in entry]
    assert losses[-1] < losses[0]
    assert read_card(out) == outcome.card
    assert read_adapter(out).rank == 4
    stored = load_file(out / "adapter_model.safetensors").values()
    assert {tensor.dtype for tensor in stored} == {torch.bfloat16}
    assert str(tmp_path) not in (out / "adapter_config.json").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["pim"]


def test_less_strength_serves_a_part_of_the_same_change(
    tmp_path: Path, base: Path, rows: list[Row]
) -> None:
    changes = []
    for strength in (1.0, 0.5):
        out = tmp_path / str(strength)
        settings = config(epochs=1, lr=1e-2, strength=strength)
        outcome = train_adapter(
            name="pim", base=base, rows=rows, out=out, config=settings, show=False
        )
        factors = read_adapter(out).factors
        changes.append({path: b @ a for path, (a, b) in factors.items()})
        assert outcome.card.alpha == settings.alpha * strength
    whole, half = changes
    assert any(change.abs().max() > 0 for change in whole.values())
    for path, change in whole.items():
        torch.testing.assert_close(half[path], change / 2)


def test_layers_below_the_first_are_left_alone(tmp_path: Path, base: Path, rows: list[Row]) -> None:
    settings, out = config(first_layer=1), tmp_path / "pim"
    train_adapter(name="pim", base=base, rows=rows[:8], out=out, config=settings, show=False)
    assert {path.split(".")[0] for path in read_adapter(out).factors} == {"1"}
    assert cost_of(base, settings).trainable == cost_of(base, config()).trainable / 2
    with pytest.raises(UsageError, match="first layer 2 is none of this base's, 0 to 1"):
        check_feasible(base, config(first_layer=2))
    with pytest.raises(UsageError, match="ia3 has no first-layer"):
        check_feasible(base, config(method="ia3", first_layer=1))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_saves(
    tmp_path: Path, base: Path, rows: list[Row], method: str
) -> None:
    out = tmp_path / method
    outcome = train_adapter(
        name="pim", base=base, rows=rows[:8], out=out, config=config(method=method), show=False
    )
    assert outcome.report["trainable_parameters"] > 0
    name = "model" if method == "full" else "adapter_model"
    assert load_file(out / f"{name}.safetensors")


def test_training_goes_on_from_a_parent(tmp_path: Path, base: Path, rows: list[Row]) -> None:
    settings = config(lr=1e-9)
    first = train_adapter(
        name="a", base=base, rows=rows, out=tmp_path / "a", config=config(lr=1e-2), show=False
    )
    second = train_adapter(
        name="b",
        base=base,
        rows=rows,
        out=tmp_path / "b",
        config=settings,
        parent=tmp_path / "a",
        show=False,
    )
    assert second.card.parents == (first.card.digest,)
    weights = [load_file(tmp_path / name / "adapter_model.safetensors") for name in "ab"]
    for name, tensor in weights[0].items():
        assert tensor.allclose(weights[1][name], atol=1e-5)


def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, base: Path, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "pim"
    out.mkdir()
    (out / "old").write_text("kept")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(train, "draw_losses", full)
    with pytest.raises(TrainingError, match="No space left on device"):
        train_adapter(name="pim", base=base, rows=rows, out=out, config=config(), show=False)
    assert (out / "old").read_text() == "kept"
    assert not (tmp_path / "pim.partial").exists()


def test_what_cannot_run_is_said_before_it_starts(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="no method 'magic'"):
        check_feasible(base, config(method="magic"))
    with pytest.raises(UsageError, match="prompt has no strength, only lora, qlora, dora have"):
        check_feasible(base, config(method="prompt", strength=0.5))
    with pytest.raises(TrainingError, match="no base model"):
        check_feasible(tmp_path, config())
    monkeypatch.setattr(train, "free_memory", lambda: 1000)
    with pytest.raises(TrainingError, match=r"use --checkpointing"):
        check_feasible(base, config())


def test_a_dry_run_counts_parameters_without_reading_weights(base: Path) -> None:
    cost = cost_of(base, config(targets=("q_proj",)))
    # two layers, hidden 64, 4 heads of 16: A is 4 x 64 and B is 64 x 4 per layer
    assert cost.trainable == 2 * (4 * 64 + 64 * 4)
    assert cost_of(base, config(method="full")).share == 1.0
    four_bit, whole = (
        cost_of(base, config(method=name)).memory_bytes for name in ("qlora", "lora")
    )
    assert four_bit < whole if torch.cuda.is_available() else four_bit == whole


def test_rows_too_long_for_training_are_named(tmp_path: Path, base: Path, rows: list[Row]) -> None:
    with pytest.raises(TrainingError, match="no training row of at most 4 tokens"):
        train_adapter(
            name="pim",
            base=base,
            rows=rows,
            out=tmp_path / "x",
            config=config(max_tokens=4),
            show=False,
        )


KILLED = """
import os, signal, sys
from pathlib import Path

import torch
from npc_adapters import trainer
from tests.npc_adapters.test_train import killable

class Kill(trainer.Speed):
    def on_save(self, *_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
trainer.Speed = Kill
killable(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def killable(base: Path, out: Path, resume: bool = False) -> Outcome:
    settings = config(epochs=2, lr=1e-2, dropout=0.1)
    lines = [row(f"Guest: Number {i}?", f"[calm] Arr, {i} it be.") for i in range(16)]
    return train_adapter(
        name="pim", base=base, rows=lines, out=out, config=settings, resume=resume, show=False
    )


def test_a_killed_run_goes_on_to_the_very_same_weights(tmp_path: Path, base: Path) -> None:
    whole = killable(base, tmp_path / "whole")
    out = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(base), str(out)]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, cwd=root, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert not out.exists()
    resumed = killable(base, out, resume=True)
    assert resumed.card.digest == whole.card.digest
    assert resumed.report["history"][-1]["step"] == whole.report["history"][-1]["step"]
    assert resumed.report["tokens_per_s"] > 0


def test_padding_is_not_masked_and_changes_no_loss(base: Path) -> None:
    from transformers import AutoModelForCausalLM

    lines = [row("Guest: Hi?", "[calm] Arr."), row("Guest: Who are you then?", "[calm] Me.")]
    dataset = to_dataset(ChatTemplate(base), lines, 128)
    masked = DataCollatorForLanguageModeling(pad_token_id=0)
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    batches = [collate(list(dataset)) for collate in (masked, without_mask(masked))]
    assert not batches[0]["attention_mask"].all()
    assert batches[1]["attention_mask"].all()
    losses = [float(model(**batch).loss.detach()) for batch in batches]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_logits_of_replies_alone_give_the_same_loss(base: Path, tmp_path: Path) -> None:
    rows = [row(f"Where is lamp {n}?" + " Tell me." * n, f"Lamp {n} is lit.") for n in range(4)]
    dataset = to_dataset(ChatTemplate(base), rows, 128)
    settings = config(batch_size=4)
    with quietly():
        model = load_for_training(base, settings)
        trainer, _ = make_trainer(model, base, (dataset, dataset), tmp_path, settings, show=False)
    batch = trainer.data_collator([dict(example) for example in dataset])
    seen = []
    model.lm_head.register_forward_hook(lambda *call: seen.append(len(call[2])))
    loss = trainer.compute_loss(model, dict(batch))
    assert seen[0] == (batch["labels"] != IGNORED).sum() < batch["labels"].numel() / 2
    with autocast():
        whole = model(input_ids=batch["input_ids"], labels=batch["labels"]).loss
    assert loss.item() == pytest.approx(whole.item(), rel=1e-2)
    assert loss.item() == pytest.approx(trainer.evaluate()["eval_loss"], rel=1e-2)


@pytest.mark.parametrize("method", ["prompt", "prefix"])
def test_a_soft_prompt_is_trained_on_top_of_a_lora(
    tmp_path: Path, base: Path, rows: list[Row], method: str
) -> None:
    lora = tiny_adapter(tmp_path / "lora", base, rank=4)
    settings = config(method=method, epochs=2)
    outcome = train_adapter(
        name="pim",
        base=base,
        rows=rows,
        out=tmp_path / "pim",
        config=settings,
        parent=lora,
        show=False,
    )
    served = read_adapter(tmp_path / "pim")
    assert (served.rank, served.num_virtual) == (4, VIRTUAL_TOKENS)
    assert outcome.card.parents == (adapter_digest(lora),)
    _, valid = split_rows(rows)
    matrix = swap_matrix(base, {"pim": tmp_path / "pim"}, {"pim": valid})
    assert matrix["pim"]["pim"] == pytest.approx(outcome.report["valid_perplexity"], rel=0.02)
    with pytest.raises(UsageError, match="is a blend"):
        load_for_training(base, settings, tmp_path / "pim")
