"""A writer's annotations of a book: facts with ways to ask for them, and what it can't answer.

They lie beside the book as NAME.facts.yaml and serve training and search:

    facts:
      - id: oil                      # held-out questions point to it
        answer: The oil is pressed from blind olives.
        key: blind olives            # words that must stand in the book and in the answer
        ask: |                       # one question per line
          What is the lamp oil made of?
          Which fruit gives the oil?
        after: lamp                  # optional: another fact's id ...
        then: And what burns in it?  # ... whose answer these questions follow
    unknown: [What colour are the author's boots?]
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from books.book import Book, Passage, sentences
from books.errors import FactsError

_MAX_OWN_FACTS = 120
_Model = TypeVar("_Model", bound=BaseModel)
_Line = Annotated[str, StringConstraints(min_length=2, strip_whitespace=True)]


def _lines(value: object) -> object:
    return [line for line in value.split("\n") if line.strip()] if isinstance(value, str) else value


_Lines = Annotated[tuple[_Line, ...], BeforeValidator(_lines)]


class Fact(BaseModel):
    """One thing the book says, and questions it answers; see the head of this file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: _Line
    answer: _Line
    key: _Line
    ask: _Lines = Field(min_length=1)
    after: str | None = None
    then: _Lines = ()


class Facts(BaseModel):
    """All annotations of one book."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    facts: tuple[Fact, ...]
    unknown: tuple[_Line, ...] = ()

    def by_id(self) -> dict[str, Fact]:
        """The facts by their id."""
        return {fact.id: fact for fact in self.facts}


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A hand-written question held out from training; `fact` is None where the book is silent."""

    text: str
    fact: Fact | None


def facts_path(book_path: Path) -> Path:
    """Where a book's annotations lie."""
    return book_path.with_name(f"{book_path.stem}.facts.yaml")


def read_facts(book_path: Path, book: Book) -> Facts:
    """The book's annotations, or ones made from its own sentences where there is no such file.

    Raises:
        FactsError: the file is malformed, an id is used twice or points nowhere, or a key
            stands in neither book nor answer.
    """
    path = facts_path(book_path)
    if not path.exists():
        return own_facts(book)
    facts = _validated(path, Facts)
    _check(facts, book, path)
    return facts


def source_passages(book: Book, facts: Facts) -> dict[str, Passage]:
    """By fact id, the passage it rests on: it holds the key and most of the answer's words."""
    folded = [(passage, fold(passage.text)) for passage in book.passages]
    sources = {}
    for fact in facts.facts:
        key, words = fold(fact.key), set(fold(fact.answer).split())
        holding = [pair for pair in folded if key in pair[1]] or folded
        best = max(holding, key=lambda pair: len(words & set(pair[1].split())))
        sources[fact.id] = best[0]
    return sources


def questions_to_train(facts: Facts) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """By fact id its questions, and those without an answer, that models learn from.

    Of each fourth fact that has four questions or more the last is kept apart, and each fourth
    `unknown` one: what rules are chosen by, so that held-out questions needn't be.
    """
    trained = {
        fact.id: fact.ask[:-1] if number % 4 == 3 and len(fact.ask) >= 4 else fact.ask
        for number, fact in enumerate(facts.facts)
    }
    return trained, tuple(q for n, q in enumerate(facts.unknown) if n % 4 != 3)


def own_facts(book: Book) -> Facts:
    """Facts a book without annotations still has: sentences asked for by their rarest words.

    Raises:
        FactsError: not one sentence is fit to be asked for.
    """
    counts: dict[str, int] = {}
    for passage in book.passages:
        for word in re.findall(r"\w{4,}", passage.text.lower()):
            counts[word] = counts.get(word, 0) + 1
    facts: list[Fact] = []
    for passage in book.passages:
        for sentence in sentences(passage.text):
            words = list(dict.fromkeys(re.findall(r"\w{4,}", sentence)))
            if not 5 <= len(sentence.split()) <= 24 or len(words) < 3:
                continue
            rare = sorted(words, key=lambda word: counts[word.lower()])[:3]
            topic = " ".join(sorted(rare, key=words.index))
            asked = (f"What do you say of {topic}?", f"Tell me about {topic}.", f"{topic}?")
            name = f"sentence-{len(facts) + 1}"
            facts.append(Fact(id=name, answer=sentence, key=rare[0], ask=asked))
    if not facts:
        raise FactsError(
            f"{book.name}: no sentence of 5 to 24 words to ask about; write {book.name}.facts.yaml"
        )
    stride = -(-len(facts) // _MAX_OWN_FACTS)
    return Facts(facts=tuple(facts[::stride]))


class _HeldOutQuestion(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    q: _Line
    fact: str


class _HeldOut(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    answerable: tuple[_HeldOutQuestion, ...]
    unknown: tuple[_Line, ...]


def read_questions(path: Path, facts: Facts) -> tuple[Question, ...]:
    """Hand-written questions for judging: `answerable` with fact ids, and `unknown`.

    Raises:
        FactsError: the file is missing or malformed, names a fact that isn't there, or asks
            what training already asked.
    """
    held_out = _validated(path, _HeldOut)
    known = facts.by_id()
    asked = {fold(text) for fact in facts.facts for text in (*fact.ask, *fact.then)}
    asked |= {fold(text) for text in facts.unknown}
    questions: list[Question] = []
    for item in held_out.answerable:
        if item.fact not in known:
            raise FactsError(f"{path}: question {item.q!r} names no fact: {item.fact!r}")
        questions.append(Question(text=item.q, fact=known[item.fact]))
    questions += [Question(text=text, fact=None) for text in held_out.unknown]
    for question in questions:
        if fold(question.text) in asked:
            raise FactsError(f"{path}: {question.text!r} is also a training question")
    return tuple(questions)


def fold(text: str) -> str:
    """Lower-case words and numbers only, one space apart: how texts are compared."""
    return " ".join(re.findall(r"[^\W_]+", text.lower().replace("\u2019", "'")))


def _validated(path: Path, model: type[_Model]) -> _Model:
    try:
        return model.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise FactsError(f"{path}: can't be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FactsError(f"{path}: isn't YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise FactsError(f"{path}: {where}: {first['msg']}") from error


def _check(facts: Facts, book: Book, path: Path) -> None:
    known = facts.by_id()
    if len(known) < len(facts.facts):
        raise FactsError(f"{path}: two facts share an id")
    text = fold(" ".join(passage.text for passage in book.passages))
    for fact in facts.facts:
        if fold(fact.key) not in text or fold(fact.key) not in fold(fact.answer):
            raise FactsError(
                f"{path}: fact {fact.id}: its key {fact.key!r} must stand in the book's text "
                "and in the answer"
            )
        if fact.after is not None and fact.after not in known:
            raise FactsError(
                f"{path}: fact {fact.id} comes after {fact.after!r}, which isn't there"
            )
