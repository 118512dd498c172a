from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backend import lost
from engine.requests import Delta, Event, GenerationRequest
from protocol import messages as wire
from roles.manager import Manager
from roles.schema import TextTable
from roles.talk import REPEATED
from roles.voice import LOOPED, Echo, Loop, Voice, clean
from tests.roles.test_manager import ask, say
from tests.roles.test_saves import hosted
from tests.roles.test_world import change


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


def unlooped(text: str, size: int) -> tuple[str, bool]:
    loop = Loop()
    shown = "".join(loop.feed(text[i : i + size]) for i in range(0, len(text), size))
    return shown + loop.finish(), loop.found


@pytest.mark.parametrize("size", [1, 3, 200])
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("The floor is a wet a wet a wet a wet a wet a w", "The floor is a wet"),
        ("Ooh, ooh, ooh, OOH, ooh, ooh, ooh", "Ooh,"),
        ("I'm the one, I'm the one, I'm the one, I'm the", "I'm the one,"),
        (
            "The oil is behind the globe. The oil is behind the globe. Yes",
            "The oil is behind the globe.",
        ),
    ],
)
def test_a_phrase_over_and_over_is_shown_once(text: str, shown: str, size: int) -> None:
    assert unlooped(text, size) == (shown, True)


@pytest.mark.parametrize("size", [1, 3, 200])
@pytest.mark.parametrize(
    ("text", "shown"),
    [("In the pipes is Vineineineineineineine", "In the pipes is Vine"), ("Br" + "r" * 20, "Br")],
)
def test_letters_over_and_over_are_shown_twice_at_most(text: str, shown: str, size: int) -> None:
    words, found = unlooped(text, size)
    assert found
    assert words.startswith(shown)
    assert len(words) < len(shown) + len("ine")


@pytest.mark.parametrize("size", [1, 3, 200])
@pytest.mark.parametrize(
    "text",
    [
        "No, no, no, no! Stop it.",
        "I don't know. I don't know. The lamp is out.",
        "the oil is behind the globe, the oil is behind two doors",
        "Knock knock. Who is there?",
        "Ha!",
        "Hahaha! Banana, Mississippi, brrrr, 1000000.",
    ],
)
def test_what_people_say_twice_passes_whole(text: str, size: int) -> None:
    assert unlooped(text, size) == (text, False)


@given(st.text(alphabet="ab ,.", max_size=60), st.integers(1, 7))
def test_what_is_shown_of_a_line_is_always_its_beginning(text: str, size: int) -> None:
    shown, found = unlooped(text, size)
    assert text.startswith(shown)
    assert found or shown == text


class LoopingBackend:
    """Says the same in every line, "so it" for ever by default, unless the seed is 2."""

    def __init__(self, real: Any, before: str, words: Sequence[str] = ("so it ",) * 400) -> None:
        self._real, self._before, self._words = real, before, words
        self.cancelled = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def cancel(self, request_id: str) -> bool:
        self.cancelled.set()
        return True

    async def submit(self, request: GenerationRequest) -> AsyncIterator[Event]:
        words = [f"[calm] {self._before}"]
        words += ["All is well."] if request.sampling.seed == 2 else self._words
        for index, text in enumerate(words):
            if self.cancelled.is_set():
                break
            await asyncio.sleep(0)
            yield Delta(request_id=request.request_id, text=text, token_ids=(index,))
        stopped = self.cancelled.is_set()
        self.cancelled.clear()
        ended = replace(lost(request.request_id, ""), error=None)
        yield replace(ended, reason="cancelled" if stopped else "stop")


@pytest.mark.parametrize("pieces", ["words", "sentences"])
async def test_a_looping_line_is_cut_or_if_nobody_heard_it_said_anew(
    world_folder: Path, manager: Manager, pieces: str
) -> None:
    table = TextTable.model_validate({"pieces": pieces})
    house = manager.house
    house.world = replace(house.world, spec=house.world.spec.model_copy(update={"text": table}))
    engine = house.engines["npc"]
    engine.backend, real = cast(Any, LoopingBackend(engine.backend, "Well, ")), engine.backend
    reply = await say(manager, "Hello?", seed=1)
    line = house.transcript.find(reply.line, None)
    if pieces == "words":
        assert (reply.text, reply.cause) == ("Well, so it...", LOOPED)
        assert house.play.dialogue("anna", "player", "").messages[-1].text.endswith(reply.text)
    else:
        assert (reply.text, reply.cause, reply.fallback) == ("Well, All is well.", "", False)
        assert any(LOOPED in why for why in line.routing)
    assert len(line.raw) < 200
    engine.backend = real


async def test_a_looping_book_is_cut_too(world_folder: Path, tmp_path: Path) -> None:
    book = world_folder / "books" / "salt_almanac.md"
    change(book, "spine:", "adapter: models/adapters/ben\nspine:")
    manager = await hosted(world_folder, tmp_path / "state")
    engine = manager.house.engines["npc"]
    engine.backend, real = cast(Any, LoopingBackend(engine.backend, "Nine pans, ")), engine.backend
    try:
        body = wire.AskRequest(agent="salt_almanac", text="Who boiled salt in iron pans?", seed=1)
        reply = (await ask(manager, "ask", body))[-1]
        assert isinstance(reply, wire.AskReply)
        assert (reply.text, reply.cause) == ("Nine pans, so it", LOOPED)
    finally:
        engine.backend = real
        await manager.close()


async def test_a_repetition_is_known_though_its_last_word_was_held_back(manager: Manager) -> None:
    engine = manager.house.engines["npc"]
    backend = LoopingBackend(engine.backend, "", ["The lamp,", " and the", " lamp"])
    engine.backend, real = cast(Any, backend), engine.backend
    assert (await say(manager, "Hello?", seed=5)).text == "The lamp, and the lamp"
    again = await say(manager, "Hello?", seed=5)
    assert (again.fallback, again.cause) == (True, REPEATED)
    engine.backend = real


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
