"""Commands of this folder; heavy imports wait inside the functions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from books.recipe import Report

_STARTER = Path(__file__).parents[1] / "roles" / "worlds" / "biblioteca_eterna"
_World = Annotated[Path, typer.Option(help="folder of the world")]
_Json = Annotated[bool, typer.Option("--json", help="print one JSON document")]
_All = Annotated[bool, typer.Option("--all", help="every book of the world")]
_Work = Annotated[Path, typer.Option(help="folder for checkpoints, teachers, kept logits")]
_WORK = Path("runs/distill")
_PLAIN = "plain"  # in the work folder: students without distillation, the bar to clear


def register(app: typer.Typer) -> None:
    """Add this folder's commands to the command line."""
    app.command("distill")(_distill)
    _group(app, "evaluate", "judge models on held-out questions").command("book")(_evaluate)
    books = _group(app, "books", "look at books, hand them on")
    books.command("list")(_list)
    books.command("show")(_show)
    books.command("pack")(_pack)
    books.command("verify")(_verify)
    books.command("unpack")(_unpack)
    books.command("special")(_special)
    books.command("fit")(_fit)


def _group(app: typer.Typer, name: str, help_text: str) -> typer.Typer:
    """The command group of this name; `evaluate` is shared, whoever comes first makes it."""
    for group in app.registered_groups:
        if group.name == name and group.typer_instance is not None:
            return group.typer_instance
    made = typer.Typer(no_args_is_help=True, help=help_text)
    app.add_typer(made, name=name)
    return made


def _distill(
    book: Annotated[str, typer.Argument(help="a book's name, or a .md or .txt file")] = "",
    every: _All = False,
    world: _World = _STARTER,
    base: Annotated[
        Path | None,
        typer.Option(
            help="model folder the teacher starts from; default: the world's, or the one that ships"
        ),
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="students' tokenizer, if another")] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the students")] = None,
    work: _Work = _WORK,
    params: Annotated[str, typer.Option(help="parameters of a student, at most")] = "1M",
    loss: Annotated[
        str,
        typer.Option(
            help="weights of cross_entropy, forward_kl, reverse_kl, jensen_shannon, "
            "hidden, attention; and beta, temperature"
        ),
    ] = "cross_entropy=0.2,forward_kl=1,temperature=1.5",
    without_teacher: Annotated[
        bool, typer.Option(help="the baseline: same rows and steps, written labels only")
    ] = False,
    teacher_steps: Annotated[int, typer.Option(help="0: the base is the teacher already")] = 600,
    first_steps: Annotated[int, typer.Option(help="steps of the common first student")] = 700,
    steps: Annotated[int, typer.Option(help="steps of each book's own student")] = 200,
    on_policy_steps: Annotated[int, typer.Option(help="steps on the student's own words")] = 0,
    int8: Annotated[bool, typer.Option(help="write weights in one byte each")] = True,
    jobs: Annotated[int, typer.Option(help="students trained at the same time")] = 4,
    threads: Annotated[int, typer.Option(help="CPU threads in all")] = 4,
    as_json: _Json = False,
) -> None:
    """Distil books into tiny students; a killed run goes on where it was."""
    from dataclasses import replace

    from books.distill import distill
    from books.losses import HARD_LABELS
    from books.plots import plot_losses
    from books.recipe import Recipe, Workshop
    from books.students import parse_params

    volumes, names = _choose(book, every, world)
    recipe = Recipe(
        base=base or _book_base(world),
        tokenizer=tokenizer,
        params=parse_params(params),
        mix=HARD_LABELS if without_teacher else _parse_mix(loss),
    )
    recipe = replace(
        recipe,
        teacher=replace(recipe.teacher, steps=teacher_steps),
        first=replace(recipe.first, steps=first_steps),
        student=replace(recipe.student, steps=steps),
        on_policy=replace(recipe.on_policy, steps=on_policy_steps),
    )
    students = work / _PLAIN if without_teacher else out or world / "models" / "students"
    workshop = Workshop(students=students, work=work, int8=int8, jobs=jobs, threads=threads)
    with _progress(quiet=as_json) as tell:
        reports = distill(volumes, names, recipe, workshop, tell)
    plot = plot_losses(reports, work / "losses.png")
    if as_json:
        typer.echo(json.dumps(reports))
        return
    for name, report in reports.items():
        kept_mb = report["kept_logits_bytes"] / 1e6
        typer.echo(
            f"{name}: {report['num_params']:,} parameters, {report['rows']} rows, "
            f"{kept_mb:.1f} MB of kept logits, last loss {report['losses'][-1]:.3f}"
        )
    typer.echo(f"students in {students}, losses over steps in {plot}")


def _evaluate(
    book: Annotated[str, typer.Argument(help="a book's name")] = "",
    every: _All = False,
    world: _World = _STARTER,
    students: Annotated[Path | None, typer.Option(help="folder of the students")] = None,
    teacher: Annotated[Path | None, typer.Option(help="the teacher's folder")] = None,
    work: _Work = _WORK,
    plot: Annotated[Path, typer.Option(help="picture of size against retention")] = (
        _WORK / "retention.png"
    ),
    as_json: _Json = False,
) -> None:
    """Judge students on held-out questions, beside their teacher and baselines without one."""
    from books.evaluate import average, judge_world
    from books.plots import plot_retention

    volumes, names = _choose(book, every, world)
    students = students or world / "models" / "students"
    questions = world / "judging" / "books"
    results = judge_world(volumes, names, questions, students, work / _PLAIN, teacher or work)
    mean = average(list(results.values()))
    picture = plot_retention(results, plot)
    if as_json:
        typer.echo(json.dumps({"books": results, "mean": mean, "plot": str(picture)}))
        return
    for name, result in {**results, "all books, mean": mean}.items():
        _print_table(name, result)
    typer.echo(f"size against retention: {picture}")


def _list(world: _World = _STARTER, as_json: _Json = False) -> None:
    """The books of a world and whether each has a student."""
    from books.book import find_books, read_book
    from books.card import CARD_NAME

    students = world / "models" / "students"
    shelf = []
    for name, path in find_books(world / "books").items():
        book = read_book(path)
        shelf.append(
            {
                "name": name,
                "title": book.title,
                "author": book.author,
                "pages": len(book.pages),
                "student": (students / name / CARD_NAME).exists(),
            }
        )
    if as_json:
        typer.echo(json.dumps(shelf))
        return
    for item in shelf:
        state = "has a student" if item["student"] else "no student yet"
        typer.echo(f"{item['name']:22} {item['title']}, {item['author']} ({state})")


def _show(
    book: Annotated[str, typer.Argument(help="a book's name")],
    page: Annotated[int, typer.Option(help="print this page; 0 shows the cover")] = 0,
    world: _World = _STARTER,
    as_json: _Json = False,
) -> None:
    """A book's cover and student, or one of its pages."""
    from dataclasses import asdict

    from books.book import read_book
    from books.card import CARD_NAME, read_card

    found = read_book(_book_path(book, world))
    if page:
        _show_page(found, page, as_json)
        return
    student = world / "models" / "students" / found.name
    cover: dict[str, Any] = {
        "name": found.name,
        "title": found.title,
        "author": found.author,
        "spine": found.spine,
        "pages": len(found.pages),
        "passages": len(found.passages),
        "words": sum(len(p.text.split()) for p in found.pages),
        "digest": found.digest,
        "student": asdict(read_card(student)) if (student / CARD_NAME).exists() else None,
    }
    if as_json:
        typer.echo(json.dumps(cover))
        return
    for key, value in cover.items():
        typer.echo(f"{key:9} {value if value is not None else 'none: biblioteca distill ' + book}")


def _show_page(found: Any, number: int, as_json: bool) -> None:
    if not 1 <= number <= len(found.pages):
        raise typer.BadParameter(f"{found.name} has pages 1 to {len(found.pages)}, not {number}")
    page = found.pages[number - 1]
    if as_json:
        typer.echo(json.dumps({"number": number, "chapter": page.chapter, "text": page.text}))
    else:
        typer.echo(f"{page.chapter}\n\n{page.text}\n\n{number} of {len(found.pages)}")


def _pack(
    book: Annotated[str, typer.Argument(help="a book's name")],
    out: Annotated[Path | None, typer.Option(help="the file to write; default NAME.book")] = None,
    world: _World = _STARTER,
) -> None:
    """Write a book, its student and its report into one .book file."""
    from books.bundle import pack

    path = _book_path(book, world)
    target = out or Path(f"{path.stem}.book")
    pack(path, world / "models" / "students" / path.stem, target)
    typer.echo(f"{target}: {target.stat().st_size:,} bytes")


def _verify(
    bundle: Annotated[Path, typer.Argument(help="a .book file")], as_json: _Json = False
) -> None:
    """Check a .book file: digests, text, student."""
    from tempfile import TemporaryDirectory

    from books.bundle import check_text, open_bundle

    opened = open_bundle(bundle)
    with TemporaryDirectory() as folder:
        check_text(opened, Path(folder))
    if as_json:
        typer.echo(json.dumps({"name": opened.name, "files": sorted(opened.members)}))
    else:
        typer.echo(f"{bundle}: {opened.name} is whole, {opened.card.num_params:,} parameters")


def _unpack(
    bundle: Annotated[Path, typer.Argument(help="a .book file")], world: _World = _STARTER
) -> None:
    """Put a .book file's text and student into a world."""
    from books.bundle import unpack

    models = world / "models"
    opened = unpack(bundle, world / "books", models / "students", models / "book-base")
    typer.echo(f"{opened.name} now stands in {world}")


def _special(
    book: Annotated[str, typer.Argument(help="a book's name")],
    world: _World = _STARTER,
    base: Annotated[Path | None, typer.Option(help="model folder, default: the npc base")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the adapter")] = None,
    epochs: Annotated[float, typer.Option(help="passes over its rows")] = 3,
) -> None:
    """Train a LoRA on the npc base for a special book, instead of a student."""
    from dataclasses import replace

    from books.special import SPECIAL, train_special
    from engine.bases import find_folder

    volumes, names = _choose(book, False, world)
    target = out or world / "models" / "adapters" / names[0]
    outcome = train_special(
        volumes[names[0]],
        list(volumes.values()),
        find_folder(str(base or world / "models" / "npc-base")),
        target,
        replace(SPECIAL, epochs=epochs),
    )
    typer.echo(
        f"{target}: held-out perplexity {outcome.report['valid_perplexity']:.2f}; to use it, write "
        f"adapter: models/adapters/{names[0]} into the front matter of {names[0]}.md"
    )


def _fit(
    world: _World = _STARTER,
    out: Annotated[Path | None, typer.Option(help="file; default: this package's own")] = None,
) -> None:
    """Fit again how words tell whether a fact answers a question (books/signs.json).

    Students see the outcome in their prompts: distil them again afterwards.
    """
    from books.fitting import cases_of, fit, write_weights
    from books.signs import WEIGHTS_PATH

    volumes, _ = _choose("", True, world)
    cases = [case for volume in volumes.values() for case in cases_of(volume.book, volume.facts)]
    target = out or WEIGHTS_PATH
    write_weights(fit(cases), target)
    typer.echo(f"{target}: fitted on {len(cases):,} questions")


def _choose(book: str, every: bool, world: Path) -> tuple[dict[str, Any], list[str]]:
    """The books that teach, and those that are meant: all, one of a world, or one file."""
    from books.distill import read_volumes

    if every == bool(book):
        raise typer.BadParameter("name one book, or say --all")
    path = None if every else _book_path(book, world)
    volumes = read_volumes(path.parent if path else world / "books")
    if not volumes:
        raise typer.BadParameter(f"{world / 'books'} holds no .md or .txt file")
    return volumes, [path.stem] if path else list(volumes)


def _book_path(book: str, world: Path) -> Path:
    from books.book import find_books

    if Path(book).suffix in (".md", ".txt"):
        return Path(book)
    found = find_books(world / "books")
    if book not in found:
        known = ", ".join(found) or "none"
        raise typer.BadParameter(f"{world} has no book {book!r}; it has: {known}")
    return found[book]


def _book_base(world: Path) -> Path:
    """The base that a world's books are distilled from: its own, or else the one that ships."""
    own = world / "models" / "book-base"
    return own if own.is_dir() else _STARTER / "models" / "book-base"


def _parse_mix(text: str) -> Any:
    """A LossMix from "forward_kl=1,temperature=1.5"; what isn't named has weight 0."""
    from books.losses import LossMix

    known = list(LossMix.__dataclass_fields__)
    values = {"cross_entropy": 0.0, "forward_kl": 0.0}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name.strip() not in known:
            raise typer.BadParameter(f"--loss has no {name.strip()!r}; it has {', '.join(known)}")
        try:
            values[name.strip()] = float(value)
        except ValueError as error:
            raise typer.BadParameter(f"--loss: {part!r} is no number") from error
    return LossMix(**values)


@contextmanager
def _progress(quiet: bool) -> Iterator[Report]:
    """A progress bar per stage on the error stream; nothing with --json."""
    if quiet:
        yield lambda stage, step, steps, loss: None
        return
    from rich.console import Console
    from rich.progress import Progress, TaskID

    with Progress(console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(stage: str, step: int, steps: int, value: float) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=steps)
            bars.update(tasks[stage], completed=step, description=f"{stage} {value:.3f}")

        yield tell


def _print_table(name: str, result: dict[str, Any]) -> None:
    """One book's verdicts, a row per answerer."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=name)
    heads = ("answerer", "exact", "F1", "key", "abstain F1", "retention", "perplexity",
             "KL", "top-1", "reply ms", "MB")  # fmt: skip
    for head in heads:
        table.add_column(head, justify="left" if head == "answerer" else "right")
    for answerer, verdict in result.items():
        scores = verdict["scores"]
        numbers = [
            scores["exact"], scores["f1"], scores["key"], scores["abstain_f1"],
            verdict["retention"], verdict["perplexity"], verdict["teacher_kl"],
            verdict["teacher_top1"], verdict["reply_ms"], verdict["size_bytes"] / 1e6,
        ]  # fmt: skip
        cells = ["-" if number is None else f"{number:.3g}" for number in numbers]
        table.add_row(answerer.replace("_", " "), *cells)
    Console().print(table)
