from __future__ import annotations

from pathlib import Path

from books.book import read_book
from books.facts import facts_path, read_facts
from books.reference import Reference, open_book


def reference_of(path: Path) -> Reference:
    return open_book(path)[1]


def test_a_question_is_shown_its_fact_and_the_passage_that_tells_it(book_path: Path) -> None:
    found = reference_of(book_path).find("Who was it that dug it?")
    assert found.facts[0].id == "digger"
    assert "dug by Vera Holm" in found.passages[0].text
    assert found.evidence.notes[0].answer == "The well was dug by Vera Holm."


def test_a_fact_is_found_by_another_wording_than_the_texts(book_path: Path) -> None:
    question = "How far down?"  # the text says "deep"
    assert reference_of(book_path).find(question).facts[0].id == "depth"


def test_a_question_left_out_is_neither_shown_nor_does_it_lend_its_words(book_path: Path) -> None:
    question = "What is the depth of the well?"
    reference = reference_of(book_path)
    plain, blind = reference.find(question), reference.find(question, without=question)
    assert plain.evidence.notes[0].question == question
    assert question not in [note.question for note in blind.evidence.notes]
    assert plain.evidence.doubt is not None
    assert blind.evidence.doubt is not None
    assert plain.evidence.doubt < blind.evidence.doubt


def test_an_annotated_question_finds_its_fact_and_no_doubt(book_path: Path) -> None:
    reference = reference_of(book_path)
    for fact in read_facts(book_path, read_book(book_path)).facts:
        for question in fact.ask:
            found = reference.find(question.lower())
            assert found.facts == (fact,)
            assert not found.hopeless
            assert found.evidence.hints().endswith("Doubt: 0\n")


def test_what_no_fact_tells_raises_doubt(book_path: Path) -> None:
    reference = reference_of(book_path)
    told = reference.find("Who dug the well?").evidence
    untold = reference.find("How old is the mother of Anselm Pike?").evidence
    assert told.doubt is not None
    assert untold.doubt is not None
    assert told.doubt < 0.3 < 0.7 < untold.doubt
    assert untold.hints().splitlines()[-1] in {"Doubt: 7", "Doubt: 8", "Doubt: 9"}


def test_a_fact_far_less_likely_than_the_first_is_no_note(book_path: Path) -> None:
    notes = reference_of(book_path).find("How many steps has the well?").evidence.notes
    assert [note.answer for note in notes] == ["The well is ninety steps deep."]


def test_what_a_question_refers_to_does_not_crowd_out_its_own_fact(book_path: Path) -> None:
    reference = reference_of(book_path)
    found = reference.find("And what is his dog called?", "Who sleeps under the wheel?")
    assert {"keeper", "dog"} <= {fact.id for fact in found.facts}


def test_no_shared_word_finds_nothing(book_path: Path) -> None:
    found = reference_of(book_path).find("Zebra?")
    assert (found.facts, found.passages) == ((), ())


def test_a_book_without_annotations_is_asked_by_its_own_sentences(book_path: Path) -> None:
    facts_path(book_path).unlink()
    found = reference_of(book_path).find("What did the first bucket bring up on the third night?")
    assert "third night" in found.evidence.notes[0].answer


def test_a_book_too_short_to_be_asked_can_still_be_read(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("It rained.")
    book, reference = open_book(path)
    found = reference.find("Who rained?")
    assert (book.pages[0].text, found.facts, found.evidence.passages) == (
        "It rained.",
        (),
        ("It rained.",),
    )


def test_an_answer_rests_on_the_passage_of_the_fact_it_tells(book_path: Path) -> None:
    found = reference_of(book_path).find("How deep is the well?", "Who keeps the well?")
    told = found.rests_on("The keeper is a boy named Anselm Pike.")
    assert ["Anselm Pike" in passage.text for passage in told] == [True]
    assert found.rests_on("Nothing of the kind.") == found.passages
