"""From books to students: teacher, kept logits, a common first student, then one per book.

Every stage leaves its result in the work folder under a digest of what it was made from, so a
run that was killed goes on where it was, and a changed book redoes only what depends on it.
The first student is distilled on all books together: it learns to read and to decline once, and
each book's own student starts from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from books.book import Book, find_books, read_book
from books.card import file_digest
from books.corpus import Row, build_rows, questions_of
from books.errors import DistillError
from books.facts import Facts, read_facts
from books.generation import write_replies
from books.int8 import quantize_student
from books.learner import Job, run_job
from books.losses import HARD_LABELS
from books.recipe import Recipe, Report, Workshop, digest_of
from books.students import load_model, save_student
from books.teacher import (
    TOP_K,
    Example,
    data_digest,
    encode_rows,
    label_loss,
    record_logits,
)
from books.training import Progress, Schedule, train
from engine.template import ChatTemplate

MIN_QUESTIONS = 12  # fewer can't be learned apart from each other
_NUM_FOREIGN = 80  # other books' questions that each book learns to decline


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume:
    """A book with its annotations."""

    book: Book
    facts: Facts


def read_volumes(folder: Path) -> dict[str, Volume]:
    """Every book of a folder with its annotations, by name.

    Raises:
        BookTextError: a text is broken.
        FactsError: annotations are.
    """
    volumes = {}
    for name, path in find_books(folder).items():
        book = read_book(path)
        volumes[name] = Volume(book=book, facts=read_facts(path, book))
    return volumes


def rows_of(volume: Volume, volumes: Sequence[Volume]) -> list[Row]:
    """A book's training rows, with the other books' questions as ones it must decline.

    Raises:
        DistillError: too few to learn from.
    """
    num_questions = sum(len(fact.ask) for fact in volume.facts.facts)
    if num_questions < MIN_QUESTIONS:
        raise DistillError(
            f"{volume.book.name}: only {num_questions} questions can be made from it and "
            f"{MIN_QUESTIONS} are needed; lengthen it or write {volume.book.name}.facts.yaml"
        )
    others = [other for other in volumes if other.book.name != volume.book.name]
    foreign = [text for other in others for text in questions_of(other.facts)]
    return build_rows(volume.book, volume.facts, foreign[:: -(-len(foreign) // _NUM_FOREIGN) or 1])


def distill(
    volumes: dict[str, Volume],
    names: Sequence[str],
    recipe: Recipe,
    workshop: Workshop,
    report: Report = lambda stage, step, steps, loss: None,
) -> dict[str, dict[str, Any]]:
    """Distil these books; all volumes teach the teacher. Returns each student's report.

    Raises:
        DistillError: teacher, tokenizer, data or budget don't allow it; nothing was trained.
    """
    distillery = Distillery(volumes, recipe, workshop, report)
    jobs = distillery.jobs(names)
    reports = {}
    context = get_context("spawn")  # a forked torch deadlocks in its thread pool
    with ProcessPoolExecutor(min(workshop.jobs, len(jobs)), mp_context=context) as pool:
        waiting = {pool.submit(finish_job, job, volumes[job.name], workshop): job for job in jobs}
        for future in as_completed(waiting):
            job = waiting[future]
            reports[job.name] = future.result()
            losses = reports[job.name]["losses"]
            report(job.name, job.schedule.steps, job.schedule.steps, losses[-1])
    return reports


def finish_job(job: Job, volume: Volume, workshop: Workshop) -> dict[str, Any]:
    """Train a book's student, save it and its report."""
    trained = run_job(job)
    folder = workshop.students / job.name
    tokenizer = job.recipe.tokenizer or job.recipe.base
    card = save_student(trained.student, folder, job.name, volume.book.digest, tokenizer)
    if workshop.int8:
        card = quantize_student(folder)
    report = asdict(card) | {
        "rows": len(job.examples),
        "tokens": sum(len(example.token_ids) for example in job.examples),
        "teacher": job.teacher.name,
        "kept_logits_bytes": sum(path.stat().st_size for path in job.logits),
        "mix": asdict(job.recipe.mix),
        "schedule": asdict(job.schedule),
        "seconds": trained.seconds,
        "losses": _thinned(trained.losses),
    }
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def _thinned(losses: Sequence[float], wanted: int = 100) -> list[float]:
    stride = -(-len(losses) // wanted)
    return [round(sum(losses[i : i + stride]) / len(losses[i : i + stride]), 4)
            for i in range(0, len(losses), stride)]  # fmt: skip


class Distillery:
    """The stages before a book's own student, each done once per digest of its inputs."""

    def __init__(
        self, volumes: dict[str, Volume], recipe: Recipe, workshop: Workshop, report: Report
    ) -> None:
        self._recipe, self._workshop, self._report = recipe, workshop, report
        if not (recipe.base / "tokenizer.json").is_file():
            raise DistillError(f"{recipe.base} holds no model to teach: tokenizer.json is missing")
        self._template = ChatTemplate(recipe.base)
        if self._template.end_id is None:
            raise DistillError(f"{recipe.base}: the tokenizer has no token that ends a turn")
        every = list(volumes.values())
        self._rows = {name: rows_of(volume, every) for name, volume in volumes.items()}
        self._examples = self._encode(self._template, self._rows)

    def teacher(self) -> Path:
        """The teacher's folder: the base fine-tuned on all books."""
        recipe, rows = self._recipe, self._everything()
        if not recipe.teacher.steps:
            return recipe.base
        weights = _weights_digests(recipe.base)
        identity = digest_of("teacher", weights, data_digest(rows), asdict(recipe.teacher))
        folder = self._workshop.work / f"teacher-{identity[:12]}"
        if (folder / "config.json").exists():
            return folder
        torch.set_num_threads(self._workshop.threads)
        model = load_model(recipe.base)
        train(
            model,
            [len(row.token_ids) for row in rows],
            lambda chosen: label_loss(model, [rows[i] for i in chosen], HARD_LABELS),
            recipe.teacher,
            folder / "state.safetensors",
            identity,
            self._reporter("teacher", recipe.teacher),
        )
        for path in recipe.base.iterdir():
            if path.name.startswith("tokenizer") or path.suffix == ".jinja":
                (folder / path.name).write_bytes(path.read_bytes())
        model.save_pretrained(folder)
        return folder

    def logits(self, teacher: Path) -> dict[str, Path]:
        """Files of the teacher's kept logits, by book, at the mix's temperature."""
        temperature = self._recipe.mix.temperature
        weights, model = _weights_digests(teacher), None
        paths: dict[str, Path] = {}
        for number, (name, examples) in enumerate(self._examples.items(), start=1):
            key = digest_of(weights, data_digest(examples), temperature, TOP_K)
            paths[name] = self._workshop.work / "logits" / f"{name}-{key[:12]}.safetensors"
            if not paths[name].exists():
                model = model or load_model(teacher).eval()
                record_logits(model, examples, paths[name], temperature)
            size_mb = sum(path.stat().st_size for path in paths.values()) / 1e6
            self._report("kept logits (MB)", number, len(self._examples), size_mb)
        return paths

    def jobs(self, names: Sequence[str]) -> list[Job]:
        """Run the common stages; what is left to do for each of these books."""
        teacher = self.teacher() if self._wants_teacher() else self._recipe.base
        if self._other_tokenizer():
            self._adopt_replies(teacher)
        recipe = self._recipe
        logits = self.logits(teacher) if recipe.mix.wants_logits else {}
        first = self._job("first", self._everything(), list(logits.values()), teacher, None)
        run_job(first, self._reporter("first student", recipe.first))
        start = first.folder / "state.safetensors"
        return [
            self._job(name, self._examples[name], [logits[name]] if logits else [], teacher, start)
            for name in names
        ]

    def _job(
        self,
        name: str,
        examples: list[Example],
        logits: list[Path],
        teacher: Path,
        start: Path | None,
    ) -> Job:
        recipe, workshop = self._recipe, self._workshop
        schedule = recipe.first if start is None else recipe.student
        kept = [path.name for path in logits]
        settings = asdict(recipe.mix), asdict(schedule), asdict(recipe.on_policy), recipe.params
        begun = start.parent.name if start else teacher.name
        identity = digest_of(name, data_digest(examples), kept, settings, begun)
        jobs = 1 if start is None else workshop.jobs
        return Job(
            name=name,
            folder=workshop.work / f"{name}-{identity[:12]}",
            identity=identity,
            examples=examples,
            logits=logits,
            schedule=schedule,
            recipe=recipe,
            vocab_size=self._vocab_size(),
            end_id=self._template.end_id or 0,
            teacher=teacher,
            start=start,
            threads=max(1, workshop.threads // jobs),
        )

    def _vocab_size(self) -> int:
        """The teacher's, some of which no token has, so that its logits can be compared."""
        own = self._template.tokenizer.get_vocab_size()
        if self._other_tokenizer():
            return own
        config = json.loads((self._recipe.base / "config.json").read_text(encoding="utf-8"))
        return max(own, int(config["vocab_size"]))

    def _everything(self) -> list[Example]:
        return [example for examples in self._examples.values() for example in examples]

    def _encode(
        self, template: ChatTemplate, rows: dict[str, list[Row]]
    ) -> dict[str, list[Example]]:
        limit = self._recipe.context_tokens
        return {name: encode_rows(template, rows[name], limit) for name in rows}

    def _wants_teacher(self) -> bool:
        mix = self._recipe.mix
        on_policy = self._recipe.on_policy.steps > 0
        return mix.wants_logits or mix.wants_teacher or on_policy or self._other_tokenizer()

    def _other_tokenizer(self) -> bool:
        own, base = self._recipe.tokenizer, self._recipe.base
        return own is not None and file_digest(own / "tokenizer.json") != file_digest(
            base / "tokenizer.json"
        )

    def _adopt_replies(self, teacher: Path) -> None:
        """Sequence-level distillation: rows end in the teacher's own words, in new tokens."""
        assert self._recipe.tokenizer is not None, "only called for another tokenizer"
        model, end = load_model(teacher).eval(), self._template.end_id or 0
        for name, rows in self._rows.items():
            asked = [row for row in rows if row.messages]
            prompts = [self._template.encode(row.messages)[0] for row in asked]
            written = map(self._template.decode, write_replies(model, prompts, end))
            replied = [replace(row, reply=text) for row, text in zip(asked, written, strict=True)]
            self._rows[name] = replied + [row for row in rows if not row.messages]
        self._template = ChatTemplate(self._recipe.tokenizer)
        self._examples = self._encode(self._template, self._rows)
        if self._recipe.mix != HARD_LABELS or self._recipe.on_policy.steps:
            plain = replace(self._recipe.on_policy, steps=0)
            self._recipe = replace(self._recipe, mix=HARD_LABELS, on_policy=plain)

    def _reporter(self, stage: str, schedule: Schedule) -> Callable[[Progress], None]:
        def tell(progress: Progress) -> None:
            self._report(stage, progress.step, schedule.steps, progress.losses[-1])

        return tell


def _weights_digests(folder: Path) -> list[str]:
    return [file_digest(path) for path in sorted(folder.glob("model*.safetensors"))]
