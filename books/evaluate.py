"""Judging students on questions that a person wrote and no training saw, beside baselines."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from books.baselines import Answerer, best_sentence, first_note
from books.card import CARD_NAME, read_card, tokenizer_folder
from books.corpus import split_passages
from books.distill import Volume
from books.errors import StudentError
from books.facts import Question, read_questions
from books.generation import write_replies
from books.int8 import int8_bytes, is_quantized, round_model
from books.losses import kl
from books.prompt import answer_reply, book_messages, unknown_reply
from books.reference import Reference
from books.scores import Scores, score
from books.students import load_model, load_student
from books.teacher import Example, collate, reply_logits
from engine.constraints import ConstraintCompiler
from engine.requests import Constraint
from engine.template import ChatTemplate


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One answerer's results on one book.

    Attributes:
        retention: its f1 over the teacher's; None for the teacher and where there is none.
        perplexity: per token, on passages held out from training.
        teacher_kl: mean KL(teacher || it) per reply token, in nats.
        teacher_top1: share of reply tokens where both find the same token likeliest.
        reply_ms: median time of one reply alone, this process, its current threads.
        size_bytes: weights on disk; 0 for retrieval.
    """

    scores: Scores
    retention: float | None = None
    perplexity: float | None = None
    teacher_kl: float | None = None
    teacher_top1: float | None = None
    reply_ms: float | None = None
    size_bytes: int = 0
    num_params: int = 0


class Court:
    """Held-out questions of one book, and the one template they are asked with."""

    def __init__(
        self, volume: Volume, questions: Sequence[Question], template: ChatTemplate
    ) -> None:
        self.volume, self.questions = volume, questions
        self._template = template
        self._end = template.end_id or 0
        book, reference = volume.book, Reference(volume.book, volume.facts)
        self._compiler: ConstraintCompiler | None = None
        self._choices: list[Constraint | None] = []
        self._prompts = []
        self._examples = []
        self._hopeless: list[bool] = []
        for question in questions:
            found = reference.find(question.text)
            self._hopeless.append(found.hopeless)
            self._choices.append(found.evidence.choices())
            messages = book_messages(book.title, book.author, found.evidence, question.text)
            prompt = template.encode(messages)[0]
            fact = question.fact
            number = found.facts.index(fact) + 1 if fact in found.facts else 0
            reply = unknown_reply(book.abstentions[0])
            if fact:
                reply = answer_reply(fact.answer, number)
            ids = (*prompt, *template.encode_words(reply), self._end)
            self._prompts.append(prompt)
            self._examples.append(Example(token_ids=ids, start=len(prompt)))

    def replies(self, model: Any) -> list[str]:
        """What a model answers, greedily; where there is no hope it isn't asked."""
        asked = [row for row, hopeless in enumerate(self._hopeless) if not hopeless]
        written = self._write(model, asked)
        replies = [unknown_reply(self.volume.book.abstentions[0]) for _ in self._prompts]
        for row, ids in zip(asked, written, strict=True):
            replies[row] = self._template.decode(ids)
        return replies

    def _write(self, model: Any, rows: Sequence[int]) -> list[list[int]]:
        """Replies to these questions, kept to what a served book may say."""
        if self._compiler is None:
            vocabulary = model.config.vocab_size
            self._compiler = ConstraintCompiler(self._template.tokenizer, [self._end], vocabulary)
        return write_replies(
            model,
            [self._prompts[row] for row in rows],
            self._end,
            choices=[self._choices[row] for row in rows],
            compiler=self._compiler,
        )

    def judge_model(self, model: Any, folder: Path, teacher: Any | None) -> Verdict:
        """Everything about a model; `teacher` is None when judging the teacher itself."""
        divergence = self._agreement(model, teacher) if teacher is not None else (None, None)
        return Verdict(
            scores=score(self.questions, self.replies(model)),
            perplexity=self._perplexity(model),
            teacher_kl=divergence[0],
            teacher_top1=divergence[1],
            reply_ms=self._latency_ms(model),
            size_bytes=sum(path.stat().st_size for path in folder.glob("model*.safetensors")),
            num_params=sum(parameter.numel() for parameter in model.parameters()),
        )

    def judge_words(self, answerer: Answerer) -> Verdict:
        """An answerer without a model."""
        begun = time.perf_counter()
        replies = [answerer(question.text) for question in self.questions]
        each_ms = (time.perf_counter() - begun) * 1000 / max(1, len(replies))
        return Verdict(scores=score(self.questions, replies), reply_ms=round(each_ms, 2))

    @torch.no_grad()
    def _perplexity(self, model: Any) -> float:
        _, held_out = split_passages(self.volume.book)
        texts = [self._template.encode_words(passage.text) for passage in held_out]
        examples = [Example(token_ids=tuple(ids), start=1) for ids in texts if len(ids) > 1]
        if not examples:
            return math.nan
        batch = collate(examples)
        logits = reply_logits(model, batch)
        return math.exp(torch.nn.functional.cross_entropy(logits, batch.labels).item())

    @torch.no_grad()
    def _agreement(self, model: Any, teacher: Any) -> tuple[float, float]:
        batch = collate(self._examples)
        mine = reply_logits(model, batch).log_softmax(-1)
        theirs = reply_logits(teacher, batch).log_softmax(-1)
        same = (mine.argmax(-1) == theirs.argmax(-1)).float().mean()
        return kl(theirs, mine).mean().item(), same.item()

    def _latency_ms(self, model: Any) -> float:
        times = []
        for row in range(min(5, len(self._prompts))):
            begun = time.perf_counter()
            self._write(model, [row])
            times.append((time.perf_counter() - begun) * 1000)
        return statistics.median(times)


def judge_book(
    court: Court, student: Path, teacher: Path, plain: Path | None
) -> dict[str, dict[str, Any]]:
    """Verdicts on teacher, student, the student without distillation, and without a model.

    Args:
        court: the book and its questions.
        student: its folder.
        teacher: its folder.
        plain: folder of the student trained on hard labels from nothing, or None.

    Raises:
        StudentError: a student's folder is missing or malformed.
    """
    book, facts = court.volume.book, court.volume.facts
    mentor = load_model(teacher).eval()
    verdicts = {"teacher": court.judge_model(mentor, teacher, None)}
    for name, folder in (("student", student), ("no_distillation", plain)):
        if folder is not None:
            if read_card(folder).book != book.name:
                raise StudentError(f"{folder} is a student of {read_card(folder).book!r}")
            verdicts[name] = court.judge_model(load_student(folder).eval(), folder, mentor)
    if not is_quantized(student):  # else "student" says it
        rounded = round_model(load_student(student).eval())
        verdicts["student_int8"] = replace(
            court.judge_model(rounded, student, mentor), size_bytes=int8_bytes(rounded)
        )
    verdicts["first_note"] = court.judge_words(first_note(book, facts))
    verdicts["best_sentence"] = court.judge_words(best_sentence(book, facts))
    best = verdicts["teacher"].scores.f1
    results = {name: asdict(verdict) for name, verdict in verdicts.items()}
    for name, result in results.items():
        if name != "teacher" and best:
            result["retention"] = result["scores"]["f1"] / best
    return results


def judge_world(
    volumes: dict[str, Volume],
    names: Sequence[str],
    questions: Path,
    students: Path,
    plain: Path,
    teacher: Path,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Judge these books' students.

    Args:
        volumes: the books.
        names: the ones to judge.
        questions: folder of NAME.yaml files with held-out questions.
        students: folder of the students.
        plain: folder of the students without distillation; a book without one goes without.
        teacher: the teacher's folder, or the work folder in which the reports' teachers lie.

    Raises:
        FactsError: a file of questions is missing or malformed.
        StudentError: a student is.
    """
    results = {}
    for name in names:
        volume, student = volumes[name], students / name
        held_out = read_questions(questions / f"{name}.yaml", volume.facts)
        mentor = teacher if (teacher / "config.json").exists() else teacher / _teacher_of(student)
        template = ChatTemplate(tokenizer_folder(student))
        bar = plain / name if (plain / name / CARD_NAME).exists() else None
        results[name] = judge_book(Court(volume, held_out, template), student, mentor, bar)
    return results


def _teacher_of(student: Path) -> str:
    try:
        return str(json.loads((student / "report.json").read_text())["teacher"])
    except (OSError, ValueError, KeyError) as error:
        raise StudentError(
            f"{student}: no report.json names its teacher; distil it again"
        ) from error


def average(results: Sequence[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The mean of every number over books, for answerers that all books have."""
    names = [name for name in results[0] if all(name in result for result in results)]
    return {name: _mean([result[name] for result in results]) for name in names}


def _mean(verdicts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in verdicts[0].items():
        values = [verdict[key] for verdict in verdicts]
        if isinstance(value, dict):
            out[key] = _mean(values)
        else:
            out[key] = None if None in values else statistics.fmean(values)
    return out
