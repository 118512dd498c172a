from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol import messages as wire
from roles.manager import Manager
from roles.phrases import phrases
from tests.roles.test_manager import ask


def texts(text: str) -> list[str]:
    return [text[phrase.start : phrase.end] for phrase in phrases(text, [], 10)]


def test_a_line_falls_into_the_phrases_that_its_marks_make() -> None:
    assert texts('Well, it is 2.5 yards; "no more!" And then?') == [
        "Well,",
        "it is 2.5 yards;",
        '"no more!"',
        "And then?",
    ]
    assert texts("\u706f\u706d\u4e86\u3002\u5feb\uff0c\u8d70\uff01") == [
        "\u706f\u706d\u4e86\u3002",
        "\u5feb\uff0c",
        "\u8d70\uff01",
    ]
    assert texts("no mark at all") == ["no mark at all"]
    assert texts("  ") == []


def test_phrases_are_heard_one_after_the_other_with_longer_pauses_at_full_stops() -> None:
    first, second, third = phrases("Yes, well. Go", [(13, 70.0)], letters_per_s=10)
    assert (first.begin_ms, first.end_ms) == (0.0, 300.0)
    assert (second.begin_ms, second.end_ms) == (500.0, 900.0)
    assert (third.begin_ms, third.end_ms) == (1300.0, 1500.0)


def test_a_phrase_has_come_when_its_last_letter_has() -> None:
    found = phrases("One, two. Three", [(2, 10.0), (6, 20.0), (9, 30.0), (15, 40.0)], 10)
    assert [phrase.at_ms for phrase in found] == [20.0, 30.0, 40.0]


@given(st.text(max_size=80), st.floats(1, 50))
def test_phrases_hold_every_letter_in_order(text: str, speed: float) -> None:
    found = phrases(text, [], speed)
    joined = "".join(text[phrase.start : phrase.end] for phrase in found)
    assert "".join(joined.split()) == "".join(text.split())
    times = [time for phrase in found for time in (phrase.begin_ms, phrase.end_ms)]
    assert times == sorted(times)


async def test_a_lines_mood_comes_with_its_first_piece_and_its_timing_at_the_end(
    manager: Manager,
) -> None:
    body = wire.SayRequest(agent="anna", text="Hello?", max_tokens=40)
    _, *pieces, reply = await ask(manager, "say", body)
    assert isinstance(reply, wire.SayReply)
    moods = [piece.emotion for piece in pieces if isinstance(piece, wire.Delta)]
    assert moods == [reply.emotion, *[None] * (len(moods) - 1)]
    spoken = "".join(reply.text[phrase.start : phrase.end] for phrase in reply.phrases)
    assert "".join(spoken.split()) == "".join(reply.text.split())
    assert 0 < reply.phrases[0].at_ms <= reply.phrases[-1].at_ms
