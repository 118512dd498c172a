"""Distillation losses, over the whole vocabulary or a teacher's kept top-k tokens.

P is the teacher's distribution, Q the student's, both softened by the temperature T. Where only
the k likeliest tokens of P were kept, both are coarsened to k + 1 outcomes: those tokens, and
"any other". A divergence of coarsened distributions is a lower bound of the full one (data
processing inequality) and zero where P and Q agree.

    cross-entropy      -log Q(label) at T = 1
    forward KL         KL(P || Q) = sum_v P(v) (log P(v) - log Q(v))
    reverse KL         KL(Q || P)
    Jensen-Shannon     b KL(P || M) + (1 - b) KL(Q || M),  M = b P + (1 - b) Q   (GKD)
    hidden states      mean |W h - g|^2 / mean |g|^2, W learnt, h student's, g teacher's
    attention          mean over queries of KL(A || B), A teacher's, B student's, heads averaged

Divergences are multiplied by T^2, so that gradients keep their size (Hinton et al. 2015; GKD:
Agarwal et al. 2024; hidden and attention matching: Jiao et al. 2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from books.errors import DistillError

_LEAST = 1e-8  # a tail this light has no gradient worth having


@dataclass(frozen=True, kw_only=True, slots=True)
class LossMix:
    """How much of each loss; see the head of this file."""

    cross_entropy: float = 0.2
    forward_kl: float = 1.0
    reverse_kl: float = 0.0
    jensen_shannon: float = 0.0
    beta: float = 0.5
    temperature: float = 1.5
    hidden: float = 0.0
    attention: float = 0.0

    def __post_init__(self) -> None:
        """Refuse mixes that aren't losses."""
        for name in ("cross_entropy", "forward_kl", "reverse_kl", "jensen_shannon"):
            if getattr(self, name) < 0:
                raise DistillError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if not 0 < self.beta < 1:
            raise DistillError(f"beta is {self.beta}; it must lie between 0 and 1")
        if self.temperature <= 0:
            raise DistillError(f"temperature is {self.temperature}; it must be above 0")

    @property
    def wants_logits(self) -> bool:
        """Whether a teacher's distributions are needed."""
        return self.forward_kl + self.reverse_kl + self.jensen_shannon > 0

    @property
    def wants_teacher(self) -> bool:
        """Whether the teacher itself must run beside the student."""
        return self.hidden + self.attention > 0


HARD_LABELS = LossMix(cross_entropy=1.0, forward_kl=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class TopK:
    """A teacher's kept distribution at some temperature.

    Attributes:
        token_ids: int64 [N, k].
        log_probs: fp32 [N, k], of those tokens; the rest of the mass is "any other".
    """

    token_ids: Tensor
    log_probs: Tensor


def keep_top_k(logits: Tensor, k: int, temperature: float) -> TopK:
    """The k likeliest tokens of logits [N, V] softened by the temperature."""
    log_probs = (logits.float() / temperature).log_softmax(-1)
    best = log_probs.topk(min(k, logits.shape[-1]))
    return TopK(token_ids=best.indices, log_probs=best.values)


def coarsen(log_probs: Tensor) -> Tensor:
    """Append log of the mass that [N, k] log-probabilities leave over: [N, k + 1]."""
    rest = (1.0 - log_probs.exp().sum(-1, keepdim=True)).clamp_min(_LEAST)
    return torch.cat((log_probs, rest.log()), dim=-1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(P || Q) per row, from log-probabilities [N, C]: [N]."""
    return (p.exp() * (p - q)).sum(-1)


def jensen_shannon(p: Tensor, q: Tensor, beta: float) -> Tensor:
    """The generalised Jensen-Shannon divergence per row, from log-probabilities [N, C]: [N]."""
    both = torch.stack((p + _log(beta, p), q + _log(1 - beta, q)))
    mixture = both.logsumexp(0)
    return beta * kl(p, mixture) + (1 - beta) * kl(q, mixture)


def mixed_loss(logits: Tensor, labels: Tensor, teacher: TopK | None, mix: LossMix) -> Tensor:
    """The weighted sum of cross-entropy and divergences, averaged over N tokens.

    Args:
        logits: the student's, [N, V].
        labels: int64 [N].
        teacher: its kept distributions at `mix.temperature`; None with divergences off.
        mix: how much of each.
    """
    loss = mix.cross_entropy * F.cross_entropy(logits.float(), labels)
    if teacher is None or not mix.wants_logits:
        return loss
    softened = (logits.float() / mix.temperature).log_softmax(-1)
    p, q = coarsen(teacher.log_probs), coarsen(softened.gather(-1, teacher.token_ids))
    divergence = mix.forward_kl * kl(p, q) + mix.reverse_kl * kl(q, p)
    if mix.jensen_shannon:
        divergence = divergence + mix.jensen_shannon * jensen_shannon(p, q, mix.beta)
    return loss + mix.temperature**2 * divergence.mean()


def hidden_loss(student: Tensor, teacher: Tensor, projection: nn.Linear) -> Tensor:
    """Mean squared distance of projected hidden states, relative to the teacher's size.

    Args:
        student: [N, H_student].
        teacher: [N, H_teacher].
        projection: H_student to H_teacher, trained with the student.
    """
    target = teacher.float()
    distance: Tensor = (projection(student).float() - target).square().mean()
    return distance / target.square().mean()


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """KL of attention, heads averaged: [B, heads_student, T, T] and [B, heads_teacher, T, T]."""
    p = teacher.float().mean(1).clamp_min(_LEAST).log()
    q = student.float().mean(1).clamp_min(_LEAST).log()
    return kl(p, q).mean()


def _log(weight: float, like: Tensor) -> Tensor:
    return torch.tensor(weight, dtype=like.dtype, device=like.device).log()
