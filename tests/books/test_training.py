from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from books.errors import DistillError
from books.training import Progress, Schedule, batches, train

SCHEDULE = Schedule(steps=12, batch_rows=4, learning_rate=0.05, checkpoint_every=3)


class Killed(Exception):
    pass


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))


def run(model: nn.Module, checkpoint: Path, kill_at: int = 0, identity: str = "x") -> Progress:
    data = torch.randn(30, 5, generator=torch.Generator().manual_seed(1))

    def loss(rows: list[int]) -> Tensor:
        out: Tensor = (model(data[rows]) - data[rows].sum(1, keepdim=True)).square().mean()
        return out

    def report(progress: Progress) -> None:
        if progress.step == kill_at:
            raise Killed

    return train(model, [5] * 30, loss, SCHEDULE, checkpoint, identity, report)


@pytest.mark.parametrize("kill_at", [2, 3, 7, 11])
def test_a_killed_training_resumes_to_the_same_weights_and_losses(
    tmp_path: Path, kill_at: int
) -> None:
    whole = fresh()
    expected = run(whole, tmp_path / "whole.safetensors")
    with pytest.raises(Killed):
        run(fresh(), tmp_path / "cut.safetensors", kill_at)
    resumed = fresh()
    progress = run(resumed, tmp_path / "cut.safetensors")
    assert progress.losses == expected.losses
    for mine, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    run(fresh(), tmp_path / "state.safetensors")
    again = fresh()
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    progress = run(again, tmp_path / "state.safetensors", kill_at=SCHEDULE.steps)
    assert progress.step == SCHEDULE.steps
    assert any(parameter.abs().sum() > 0 for parameter in again.parameters())


def test_a_checkpoint_of_other_data_is_left_behind(tmp_path: Path) -> None:
    run(fresh(), tmp_path / "state.safetensors", identity="old")
    with pytest.raises(Killed):
        run(fresh(), tmp_path / "state.safetensors", kill_at=1, identity="new")


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path) -> None:
    model = fresh()
    with pytest.raises(DistillError, match="step 0 is nan; lower the rate"):
        train(
            model,
            [1] * 4,
            lambda rows: next(model.parameters()).sum() * float("nan"),
            SCHEDULE,
            tmp_path / "state.safetensors",
            "x",
        )


def test_an_epoch_holds_every_row_once_and_batches_like_lengths() -> None:
    lengths = [n % 50 for n in range(64)]
    epoch = batches(lengths, SCHEDULE)
    groups = [next(epoch) for _ in range(16)]
    assert sorted(row for group in groups for row in group) == list(range(64))
    spread = [max(lengths[r] for r in g) - min(lengths[r] for r in g) for g in groups]
    assert sum(spread) / len(spread) < 10


def test_the_rate_warms_up_and_falls_to_a_tenth() -> None:
    schedule = Schedule(steps=100, learning_rate=1.0)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
