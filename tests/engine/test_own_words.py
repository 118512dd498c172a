from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from engine.engine import Engine
from engine.errors import RequestError
from engine.own_words import OwnWords, word_parts
from engine.requests import SamplingParams, Span
from tests.engine.conftest import request, run

HEARD, SAID = "player", "history"


def spans(*parts: tuple[str, str]) -> tuple[list[int], list[Span]]:
    """Letters as tokens, and whose they are."""
    tokens: list[int] = []
    found = []
    for kind, text in parts:
        found.append(Span(kind=kind, start=len(tokens), end=len(tokens) + len(text)))
        tokens += map(ord, text)
    return tokens, found


def again(own: OwnWords, text: str) -> str:
    for letter in text:
        own.add(ord(letter))
    return "".join(sorted(map(chr, own.again())))


def test_what_was_said_before_is_not_said_again() -> None:
    own = OwnWords(3, *spans((HEARD, "hi"), (SAID, "abcd"), (HEARD, "yo"), (SAID, "abe")))
    assert own.again() == set()
    assert again(own, "a") == ""
    assert again(own, "b") == "ce"  # after "ab" came "c" once and "e" once
    assert again(own, "xab") == "cex"  # and "x", a moment ago


def test_others_words_may_be_repeated_even_if_said_before() -> None:
    own = OwnWords(3, *spans((SAID, "abcd"), (HEARD, "zabc"), (SAID, "q"), (HEARD, "def")))
    assert again(own, "ab") == ""  # "abc" stands in a note
    assert again(own, "c") == "d"  # "bcd" doesn't, for notes end with "abc"
    joined = OwnWords(3, *spans((SAID, "abcd"), (HEARD, "ab"), (HEARD, "cd")))
    assert again(joined, "ab") == again(joined, "c") == ""  # one message of two notes


def test_runs_do_not_reach_over_two_lines() -> None:
    own = OwnWords(3, *spans((SAID, "ab"), (SAID, "cd")))
    assert again(own, "bc") == ""


def test_no_word_is_broken_off() -> None:
    own = OwnWords(3, *spans((SAID, "abcd")), parts={ord("c")})
    assert again(own, "ab") == ""
    assert again(own, "c") == "d"


def test_parts_of_words_begin_with_no_space() -> None:
    vocabulary = {"\u0120Travel": 0, "ler": 1, "'t": 2, "\u010a": 3, ",": 4, "\u2581don": 5, "7": 6}
    assert word_parts(Tokenizer(WordLevel(vocabulary, unk_token="ler"))) == {1, 2, 6}


def test_a_line_never_repeats_itself_unless_it_may(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no token is a part of a word: those of the tiny base are single letters, mostly."""
    monkeypatch.setattr("engine.picker.word_parts", lambda _: frozenset())
    engine = make_engine()

    def pairs(size: int) -> list[tuple[int, int]]:
        asked = request("one", max_tokens=100, no_repeat_ngram_size=size, ignore_eos=True)
        return list(pairwise(run(engine, [asked])["one"]))

    free, held = pairs(0), pairs(2)
    assert len(set(held)) == len(held) == 99
    assert len(set(free)) < 99


def test_a_size_that_forbids_every_word_is_refused() -> None:
    with pytest.raises(RequestError, match="no_repeat_ngram_size is 1; it must be 0"):
        SamplingParams(no_repeat_ngram_size=1)
