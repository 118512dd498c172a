"""Questions to books: passages of invented facts, one of which may hold the answer."""

from __future__ import annotations

from collections.abc import Sequence

from roles.corpus.draw import Draw
from roles.corpus.facts import Fact, Relations
from roles.corpus.talk import Row, untidy
from roles.prompt import book_system, book_turn, reply


def book_row(draw: Draw, relations: Relations) -> Row:
    """One or two questions to an invented book.

    About 70 % of the questions are answered by a passage; the others get an `[unknown]`.
    """
    messages = [book_system(draw.phrase("title"), draw.phrase("person"))]
    last: Fact | None = None
    must: list[str] = []
    for _ in range(draw.choice([1, 2, 2, 3])):
        again = last is not None and draw.chance(0.4)
        fact = relations.fact(draw, about=last if again else None)
        answered = draw.chance(0.7)
        asked = fact.ask_again(draw) if again else fact.ask(draw)
        passages = _passages(draw, relations, fact, answered)
        messages.append(book_turn(passages, untidy(draw, asked)))
        if answered:
            core = fact.answer(draw)
            messages.append(reply(f"[answer] {core}"))
            must = [fact.value]
        else:
            subject = draw.text("#x.the#", x=fact.subject)
            messages.append(reply(f"[unknown] {draw.pick('regret', x=subject)}"))
            must = []
        last = fact if answered else None
    row: Row = {
        "messages": [{"role": m.role, "content": m.text} for m in messages],
        "kind": "book",
        "agent": None,
    }
    if must:
        row["copy"] = must
    return row


def _passages(draw: Draw, relations: Relations, fact: Fact, answered: bool) -> list[str]:
    if not answered and draw.chance(0.15):
        return []
    passages = [_others(draw, relations) for _ in range(draw.choice([0, 1, 1, 1, 2]))]
    if answered:
        passages.append(_passage(draw, relations, fact, [fact.text]))
    elif draw.chance(0.6) or not passages:
        passages.append(_passage(draw, relations, fact, []))
    draw.rng.shuffle(passages)
    return passages


def _passage(draw: Draw, relations: Relations, fact: Fact, gold: Sequence[str]) -> str:
    """Sentences about the fact's subject, the gold one among them."""
    sentences = list(gold)
    for _ in range(draw.choice([1, 1, 2]) if gold else 2):
        other = relations.fact(draw, about=fact)
        if other.relation is not fact.relation:
            sentences.append(other.text)
    return _woven(draw, sentences)


def _others(draw: Draw, relations: Relations) -> str:
    first = relations.fact(draw)
    second = relations.fact(draw, about=first)
    return _woven(draw, [first.text, second.text])


def _woven(draw: Draw, sentences: list[str]) -> str:
    if draw.chance(0.5) or len(sentences) < 2:
        sentences = [*sentences, draw.pick("filler")]
    draw.rng.shuffle(sentences)
    return " ".join(sentences)
