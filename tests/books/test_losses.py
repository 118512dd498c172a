from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from books.errors import DistillError
from books.losses import (
    HARD_LABELS,
    LossMix,
    attention_loss,
    hidden_loss,
    jensen_shannon,
    keep_top_k,
    kl,
    mixed_loss,
)

VOCABULARY = 50


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(7, VOCABULARY, generator=generator)
    teacher = 2 * torch.randn(7, VOCABULARY, generator=generator)
    return student, teacher


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jensen_shannon_is_what_trl_computes(
    logits: tuple[Tensor, Tensor], beta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.gkd import GKDTrainer

    student, teacher = logits
    expected = GKDTrainer.generalized_jsd_loss(
        student[None], teacher[None], beta=beta, temperature=1.0, reduction="sum"
    )
    p, q = teacher.log_softmax(-1), student.log_softmax(-1)
    torch.testing.assert_close(jensen_shannon(p, q, beta).sum(), expected)


def test_both_kls_are_what_torch_computes(logits: tuple[Tensor, Tensor]) -> None:
    q, p = (part.log_softmax(-1) for part in logits)
    forward = F.kl_div(q, p, log_target=True, reduction="batchmean")
    torch.testing.assert_close(kl(p, q).mean(), forward)
    reverse = F.kl_div(p, q, log_target=True, reduction="batchmean")
    torch.testing.assert_close(kl(q, p).mean(), reverse)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_a_whole_vocabulary_kept_gives_the_exact_divergence(
    logits: tuple[Tensor, Tensor], name: str
) -> None:
    student, teacher = logits
    off = {"cross_entropy": 0.0, "forward_kl": 0.0}
    mix = LossMix(**{**off, name: 1.0}, temperature=2.0)
    p, q = (teacher / 2).log_softmax(-1), (student / 2).log_softmax(-1)
    exact = {
        "forward_kl": kl(p, q),
        "reverse_kl": kl(q, p),
        "jensen_shannon": jensen_shannon(p, q, 0.5),
    }[name]
    labels = torch.zeros(7, dtype=torch.long)
    loss = mixed_loss(student, labels, keep_top_k(teacher, VOCABULARY, 2.0), mix)
    torch.testing.assert_close(loss, 4 * exact.mean(), rtol=1e-3, atol=1e-4)


def test_fewer_tokens_kept_never_raise_the_divergence(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits
    mix = LossMix(cross_entropy=0.0, forward_kl=1.0, temperature=1.0)
    labels = torch.zeros(7, dtype=torch.long)
    losses = [
        mixed_loss(student, labels, keep_top_k(teacher, k, 1.0), mix).item()
        for k in (1, 4, 16, VOCABULARY)
    ]
    assert losses == sorted(losses)
    assert losses[0] > 0


def test_a_student_like_its_teacher_has_no_loss(logits: tuple[Tensor, Tensor]) -> None:
    _, teacher = logits
    mix = LossMix(cross_entropy=0.0, forward_kl=1.0, reverse_kl=1.0, jensen_shannon=1.0)
    kept = keep_top_k(teacher, 8, mix.temperature)
    loss = mixed_loss(teacher, torch.zeros(7, dtype=torch.long), kept, mix)
    assert loss.item() == pytest.approx(0.0, abs=1e-5)


def test_gradients_pull_the_student_to_the_teacher(logits: tuple[Tensor, Tensor]) -> None:
    student, teacher = logits[0].clone().requires_grad_(), logits[1]
    mix = LossMix(cross_entropy=0.0, jensen_shannon=1.0, forward_kl=1.0, reverse_kl=0.5)
    kept = keep_top_k(teacher, 16, mix.temperature)
    labels = torch.zeros(7, dtype=torch.long)
    before = mixed_loss(student, labels, kept, mix)
    before.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    after = mixed_loss((student - 0.5 * student.grad).detach(), labels, kept, mix)
    assert after < before


def test_hard_labels_are_plain_cross_entropy(logits: tuple[Tensor, Tensor]) -> None:
    labels = torch.arange(7)
    loss = mixed_loss(logits[0], labels, None, HARD_LABELS)
    torch.testing.assert_close(loss, F.cross_entropy(logits[0], labels))


def test_hidden_states_match_through_a_projection() -> None:
    projection = nn.Linear(4, 8, bias=False)
    student = torch.randn(5, 4)
    assert hidden_loss(student, projection(student).detach(), projection).item() < 1e-10
    assert hidden_loss(student, torch.randn(5, 8), projection).item() > 0.1


def test_attention_is_compared_with_heads_averaged() -> None:
    teacher = torch.randn(2, 8, 6, 6).softmax(-1)
    assert attention_loss(teacher[:, :4], teacher[:, :4]).item() == pytest.approx(0, abs=1e-6)
    averaged = teacher.mean(1, keepdim=True)
    assert attention_loss(averaged, teacher).item() == pytest.approx(0, abs=1e-6)
    assert attention_loss(torch.eye(6).expand(2, 1, 6, 6), teacher).item() > 1


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [({"beta": 1.0}, "beta is 1.0"), ({"temperature": 0.0}, "temperature is 0.0"),
     ({"forward_kl": -1.0}, "forward_kl is -1.0")],
)  # fmt: skip
def test_a_mix_that_is_no_loss_is_refused(settings: dict[str, float], complaint: str) -> None:
    with pytest.raises(DistillError, match=complaint):
        LossMix(**settings)
