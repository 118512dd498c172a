"""What answers can be had without any model: the bars that a student must clear."""

from __future__ import annotations

from collections.abc import Callable

from books.book import Book, sentences
from books.facts import Facts
from books.prompt import answer_reply, unknown_reply
from books.reference import Reference
from books.retrieval import PassageIndex, content_words
from books.scores import word_f1

Answerer = Callable[[str], str]


def best_sentence(book: Book, facts: Facts) -> Answerer:
    """The sentence of the best passages that shares most words with the question."""
    reference = Reference(book, facts)
    index = PassageIndex(book.passages)
    least = _threshold(book, facts)

    def answer(question: str) -> str:
        hits = index.search(question)
        if not hits or hits[0].score < least:
            return unknown_reply(book.abstentions[0])
        passages = reference.find(question).passages
        found = [sentence for passage in passages for sentence in sentences(passage.text)]
        asked = " ".join(content_words(question))
        return answer_reply(max(found, key=lambda sentence: word_f1(sentence, asked)))

    return answer


def first_note(book: Book, facts: Facts) -> Answerer:
    """The first note a model would be shown, or declining where no model would be asked: all that
    `books.signs` knows."""
    reference = Reference(book, facts)

    def answer(question: str) -> str:
        found = reference.find(question)
        if found.hopeless or not found.facts:
            return unknown_reply(book.abstentions[0])
        return answer_reply(found.facts[0].answer)

    return answer


def _threshold(book: Book, facts: Facts) -> float:
    """The BM25 score under which abstaining is right most often on the training questions."""
    index = PassageIndex(book.passages)

    def best(question: str) -> float:
        hits = index.search(question, 1)
        return hits[0].score if hits else 0.0

    inside = [best(text) for fact in facts.facts for text in fact.ask]
    outside = [best(text) for text in facts.unknown]

    def right(least: float) -> float:
        kept = sum(value >= least for value in inside) / max(1, len(inside))
        return kept + sum(value < least for value in outside) / max(1, len(outside))

    return max(sorted({0.0, *inside, *outside}), key=right)
