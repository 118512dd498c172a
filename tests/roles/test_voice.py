from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import messages as wire
from roles.manager import Manager
from roles.schema import TextTable
from roles.voice import Echo, Voice, clean
from tests.roles.test_manager import ask, say


def speak(text: str, size: int, **table: str) -> list[str]:
    voice = Voice(TextTable.model_validate(table), "Anna")
    pieces = [voice.feed(text[i : i + size]) for i in range(0, len(text), size)]
    return [piece for piece in [*pieces, voice.finish()] if piece]


def test_an_ascii_font_gets_its_nearest_letters() -> None:
    assert (
        clean("\u201cWe\u2019ll see\u2026\u201d \u2014 caf\u00e9", "ascii")
        == '"We\'ll see..." - cafe'
    )
    assert clean("\u017e\u4e2d", "latin") == "\u017e"
    assert clean("\u4e2d\u6587", "any") == "\u4e2d\u6587"


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_the_speakers_own_label_is_taken_away(size: int) -> None:
    assert "".join(speak("Anna: Good evening.", size)) == "Good evening."
    assert "".join(speak("Anna is me.", size)) == "Anna is me."
    assert "".join(speak("An", size)) == "An"


def test_sentences_come_whole_where_speech_synthesis_wants_them() -> None:
    pieces = speak("One. Two, or 2.5? Three", 1, pieces="sentences")
    assert pieces == ["One. ", "Two, or 2.5? ", "Three"]


@given(st.text(max_size=60), st.integers(1, 7), st.sampled_from(["words", "sentences"]))
def test_no_word_is_lost_or_changed_for_a_font_that_shows_all(
    text: str, size: int, pieces: str
) -> None:
    assert "".join(speak(f"Well, {text}", size, pieces=pieces)) == f"Well, {text}"


def test_an_echo_is_held_back_until_it_differs() -> None:
    echo = Echo(["Good evening."])
    assert [echo.feed(piece) for piece in ("Good", " even", "ing", "s all")] == [
        "",
        "",
        "",
        "Good evenings all",
    ]
    repeated = Echo(["Good evening."])
    assert [repeated.feed("Good evening"), repeated.feed("."), repeated.finish()] == ["", "", ""]
    assert repeated.repeats


async def test_no_line_is_said_twice_word_for_word(manager: Manager) -> None:
    texts = []
    for number in range(6):
        reply = await say(manager, "Hello?", seed=1, conversation=f"c{number}", max_tokens=30)
        texts.append(reply.text)
    assert len(set(texts)) == 6


async def test_what_was_held_back_still_streams_as_the_lines_text(manager: Manager) -> None:
    body = wire.SayRequest(agent="anna", text="Hello?", seed=1, conversation="a")
    await ask(manager, "say", body)
    parts = await ask(manager, "say", body.model_copy(update={"conversation": "b"}))
    reply = parts[-1]
    assert isinstance(reply, wire.SayReply)
    assert "".join(part.text for part in parts if isinstance(part, wire.Delta)) == reply.text
