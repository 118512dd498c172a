"""Training one student: what a process is given, what it does with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from books.generation import write_replies
from books.losses import (
    LossMix,
    TopK,
    attention_loss,
    hidden_loss,
    keep_top_k,
    mixed_loss,
)
from books.recipe import Recipe
from books.students import load_model, new_student, student_config
from books.teacher import (
    Batch,
    Example,
    collate,
    picked_logits,
    read_logits,
    reply_logits,
)
from books.training import Progress, Schedule, train
from npc_adapters.induction import Planted
from npc_adapters.precision import autocast


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One student's training.

    Attributes:
        name: the book's, or "first".
        folder: its checkpoints.
        identity: digest of everything below.
        logits: files of kept logits that together cover `examples` in order; empty without.
        teacher: the teacher's folder.
        start: checkpoint of the first student, or None for the first student itself.
    """

    name: str
    folder: Path
    identity: str
    examples: list[Example]
    logits: list[Path]
    schedule: Schedule
    recipe: Recipe
    vocab_size: int
    end_id: int
    teacher: Path
    start: Path | None
    threads: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A finished job: the student, its losses over the steps, this run's seconds."""

    student: Any
    losses: list[float]
    seconds: float


def run_job(job: Job, report: Callable[[Progress], None] = lambda progress: None) -> Trained:
    """Train one student, going on from its checkpoint."""
    torch.set_num_threads(job.threads)
    begun = time.monotonic()
    recipe = job.recipe
    on_policy = recipe.on_policy.steps > 0 and job.start is not None
    teacher = load_model(job.teacher).eval() if recipe.mix.wants_teacher or on_policy else None
    student, planted = _make_student(job, teacher)
    learner = Learner(student, teacher, recipe.mix)
    logits = read_logits(job.logits, job.examples) if job.logits else None
    lengths = [len(example.token_ids) for example in job.examples]

    def loss(rows: list[int]) -> Tensor:
        chosen = [job.examples[row] for row in rows]
        return learner.loss(collate(chosen), logits.of(rows) if logits else None)

    state = job.folder / "state.safetensors"
    progress = train(learner, lengths, loss, job.schedule, state, job.identity, report, planted)
    losses = list(progress.losses)
    if on_policy:
        prompted = [example for example in job.examples if example.start > 1]

        def own_loss(rows: list[int]) -> Tensor:
            return learner.on_policy_loss([prompted[row] for row in rows], job.end_id)

        lengths = [len(example.token_ids) for example in prompted]
        state = job.folder / "on_policy.safetensors"
        own = train(learner, lengths, own_loss, recipe.on_policy, state, job.identity, report)
        losses += own.losses
    return Trained(student=student, losses=losses, seconds=round(time.monotonic() - begun, 1))


def _make_student(job: Job, teacher: nn.Module | None) -> tuple[Any, Planted | None]:
    """A fresh student, or the first one, with what is to be held in it."""
    recipe = job.recipe
    config = student_config(recipe.params, job.vocab_size, recipe.context_tokens, job.end_id)
    if recipe.mix.attention:
        config._attn_implementation = "eager"  # the others don't give their attention away
    student, planted = new_student(config, teacher, job.schedule.seed)
    if job.start is not None:
        with safe_open(job.start, framework="pt") as state, torch.no_grad():
            for name, parameter in student.named_parameters():
                parameter.copy_(state.get_tensor(f"model.student.{name}"))
        if planted is not None:
            held = [(weight, mask, weight.detach()[mask]) for weight, mask, _ in planted.held]
            planted = Planted(held=held)  # as the first student has polished it
    return student, planted


class Learner(nn.Module):
    """A student with what it needs to be compared to its teacher."""

    def __init__(self, student: Any, teacher: Any, mix: LossMix) -> None:
        super().__init__()
        self.student = student
        self._mix = mix
        # In a list, so that the teacher is no part of what is trained and saved.
        self._teacher = [teacher]
        if mix.hidden:
            sizes = student.config.hidden_size, teacher.config.hidden_size
            self.projection = nn.Linear(*sizes, bias=False)
        if mix.attention and teacher.config._attn_implementation != "eager":
            teacher.set_attn_implementation("eager")

    def loss(self, batch: Batch, kept: TopK | None) -> Tensor:
        """The mixed loss of rows whose teacher's logits were kept."""
        if not self._mix.wants_teacher:
            return mixed_loss(reply_logits(self.student, batch), batch.labels, kept, self._mix)
        mine, logits = _run(self.student, batch, attentions=self._mix.attention > 0)
        with torch.no_grad():
            theirs, _ = _run(self._teacher[0], batch, attentions=self._mix.attention > 0)
        loss = mixed_loss(logits, batch.labels, kept, self._mix)
        if self._mix.hidden:
            states = [out.last_hidden_state.flatten(0, 1)[batch.picked] for out in (mine, theirs)]
            loss = loss + self._mix.hidden * hidden_loss(states[0], states[1], self.projection)
        if self._mix.attention:
            last = mine.attentions[-1], theirs.attentions[-1]
            loss = loss + self._mix.attention * attention_loss(*last)
        return loss

    def on_policy_loss(self, examples: Sequence[Example], end_id: int) -> Tensor:
        """The mixed divergence on replies the student draws now, judged by the teacher."""
        prompts = [example.token_ids[: example.start] for example in examples]
        torch.manual_seed(sum(sum(prompt) for prompt in prompts))
        written = write_replies(self.student, prompts, end_id, sampled=True)
        drawn = [
            Example(token_ids=(*prompt, *reply, end_id), start=len(prompt))
            for prompt, reply in zip(prompts, written, strict=True)
        ]
        batch = collate(drawn)
        with torch.no_grad():
            logits = reply_logits(self._teacher[0], batch)
        kept = keep_top_k(logits, logits.shape[-1], self._mix.temperature)
        mine = reply_logits(self.student, batch)
        hard = mixed_loss(mine, batch.labels, None, self._mix)
        return mixed_loss(mine, batch.labels, kept, self._mix) - hard


def _run(model: Any, batch: Batch, attentions: bool) -> tuple[Any, Tensor]:
    with autocast():
        out = model.model(input_ids=batch.token_ids, output_attentions=attentions)
        return out, picked_logits(model, out.last_hidden_state, batch)
