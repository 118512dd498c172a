"""What is distilled, how, and where: the settings of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from books.losses import LossMix
from books.training import Schedule

_TEACHER = Schedule(steps=600, learning_rate=6e-4)
_FIRST = Schedule(steps=700, learning_rate=3e-3)
_STUDENT = Schedule(steps=200, learning_rate=1.5e-3)
_ON_POLICY = Schedule(steps=0, learning_rate=2e-4)
Report = Callable[[str, int, int, float], None]  # stage, step, of steps, loss


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything that decides what comes out.

    Attributes:
        base: model folder the teacher starts from, or the teacher itself with `teacher.steps` 0.
        tokenizer: folder of the students' tokenizer where it isn't the base's; then they learn
            from the teacher's written replies (Kim and Rush 2016), as no logits can be compared.
        params: parameters of a student, at most.
        mix: the students' losses.
        teacher: how the base is fine-tuned on all books.
        first: how the common first student is distilled.
        student: how each book's own is.
        on_policy: a last phase on replies the student itself wrote (GKD, Agarwal et al. 2024).
        context_tokens: longest row; longer ones are left out.
    """

    base: Path
    tokenizer: Path | None = None
    params: int = 1_000_000
    mix: LossMix = field(default_factory=LossMix)
    teacher: Schedule = _TEACHER
    first: Schedule = _FIRST
    student: Schedule = _STUDENT
    on_policy: Schedule = _ON_POLICY
    context_tokens: int = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Workshop:
    """Where things lie, and how much of the machine they may take.

    Attributes:
        students: one folder per book is written here.
        work: checkpoints, teachers and kept logits; may be deleted at any time.
        int8: write students' weights in one byte each, as the kernels take them; else in bf16.
        jobs: students trained at the same time, each in a process of its own.
        threads: CPU threads of the teacher; students share them.
    """

    students: Path
    work: Path
    int8: bool = True
    jobs: int = 2
    threads: int = 2


def digest_of(*parts: Any) -> str:
    """SHA-256 of anything JSON can write (paths as text), in hexadecimal."""
    return sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
