from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.reply import Action, ReplyReader

WHOLE = '[calm] The oil stands there. \n> give {"item": "brass key"}\n> follow {}'


def read(text: str, size: int) -> tuple[ReplyReader, str]:
    reader, spoken = ReplyReader(), ""
    for start in range(0, len(text), size):
        spoken += reader.feed(text[start : start + size])
    return reader, spoken + reader.finish()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_reply_reads_the_same_in_pieces_of_any_size(size: int) -> None:
    reader, spoken = read(WHOLE, size)
    assert spoken == reader.spoken == "The oil stands there."
    assert reader.mood == "calm"
    assert reader.actions == [Action("give", {"item": "brass key"}), Action("follow", {})]


def test_speech_streams_before_the_reply_is_over() -> None:
    reader = ReplyReader()
    assert reader.feed("[warm] Come") == "Come"
    assert reader.feed(" in") == " in"
    assert reader.feed(" ") == ""


def test_a_reply_without_mood_or_with_a_broken_action_is_still_spoken() -> None:
    reader, spoken = read('Hello there.\n> give {"item": \n> nonsense', 4)
    assert spoken == "Hello there."
    assert reader.mood == ""
    assert reader.actions == []


@pytest.mark.parametrize("size", [1, 3, 200])
def test_what_a_base_thinks_aloud_is_neither_spoken_nor_done(size: int) -> None:
    thought = '<think>Shall I?\n> give {"item": "key"}</think>\n'
    reader, spoken = read(f"\n{thought}{thought}[warm] Come in.", size)
    assert (reader.mood, spoken, reader.actions) == ("warm", "Come in.", [])
    assert read("<think>and so on", size)[1] == ""
    assert read("<thin ice>", size)[1] == "<thin ice>"


@given(st.text(st.sampled_from("<think></think>[ab]\n "), max_size=60), st.integers(1, 9))
def test_thoughts_end_alike_in_any_pieces(text: str, size: int) -> None:
    assert read(text, size)[1] == read(text, max(len(text), 1))[1]


@given(st.text(max_size=200), st.integers(1, 9))
def test_any_text_reads_without_failing_and_alike_in_any_pieces(text: str, size: int) -> None:
    reader, spoken = read(text, size)
    once, at_once = read(text, max(len(text), 1))
    assert spoken == at_once
    assert reader.actions == once.actions
    assert "\n" not in spoken
    assert spoken == spoken.strip()
