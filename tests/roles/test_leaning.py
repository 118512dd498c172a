"""What replies lean towards: noted facts that are asked for, and actions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine.requests import Message, Segment
from roles.leaning import NOTE_BIAS, towards_acting, towards_notes
from roles.offers import offer
from roles.prompt import Notes, npc_system, reply, turn
from roles.world import World
from tests.roles.worlds_for_tests import write_world

INDICE = npc_system("Indice", "the catalogue automaton", "You are made of brass.")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.load(write_world(tmp_path))


def words(*messages: Message) -> list[str]:
    """What a reply leans towards; every word by the same bias."""
    bias = towards_notes([INDICE, *messages])
    assert all(value == NOTE_BIAS for _, value in bias)
    return [text for text, _ in bias]


def test_a_reply_leans_towards_the_note_that_is_asked_about() -> None:
    notes = Notes(
        facts=("Lorenzo works as the tailor of Eiglop.", "The airlock smells of salt."),
        memories=(
            "Lorenzo told Indice about the wolf-king's cat.",
            "Traveller said: Eiglop has a Lorenzo Lane.",
        ),
    )
    assert words(turn("Traveller", "Where is Lorenzo Lane?", notes)) == [" Eiglop"]
    said = turn("Traveller", "Who is Lorenzo?", replace(notes, memories=notes.memories[:1]))
    assert words(said) == [" works", " tailor", " Eiglop", " wolf-king", " cat"]


def test_a_note_of_an_earlier_turn_counts_and_an_earlier_goal_does_not() -> None:
    notes = Notes(facts=("The pump is in Eiglop.",), goal="mention Alba to the player")
    before = turn("Traveller", "Good evening.", notes)
    now = turn("Traveller", "Where is that pump?", Notes(goal="send the player to Hugo"))
    assert words(before, reply("[calm] Alba."), now) == [" Eiglop", " Hugo"]


def test_what_was_said_before_counts_as_noted() -> None:
    before = turn("Traveller", "My dog is called Biscuit.")
    now = turn("Traveller", "What was my dog's name?")
    assert words(before, reply("[calm] A good name."), now) == [" called", " Biscuit"]
    small_talk = turn("Traveller", "I'm glad I found you, and I don't smoke here today.")
    assert words(small_talk, turn("Traveller", "How are you today?")) == []
    assert words(small_talk, turn("Traveller", "Who may smoke?"))[:2] == [" glad", " found"]


def test_a_line_that_asks_for_no_note_leans_nowhere() -> None:
    notes = Notes(place="Eiglop", present=("Alba",), mood="calm", facts=("The pump is in Eiglop.",))
    assert words(turn("Traveller", "How are you?", notes)) == []
    assert words(turn("Fact", "The pump is in Eiglop.")) == []  # said, not noted
    assert words(Message(role="user", segments=())) == []


@pytest.mark.parametrize(
    ("goal", "line", "leans"),
    [
        ("", "Guest: May I have the brass key?", True),  # a value of the offer
        ("", "Guest: Please give it to me.", True),  # its name
        ("Goal: part with the lamp.\n", "Guest: Good evening.", True),  # the director wants it
        ("Mood: calm.\n", "Guest: What is behind that door?", False),
        ("", "Lamp: Who are you?", False),  # who speaks is not what is spoken of
    ],
)
def test_a_reply_leans_towards_an_action_that_is_spoken_of(
    world: World, goal: str, line: str, leans: bool
) -> None:
    said = Message(
        role="user",
        segments=(Segment(kind="direction", text=goal), Segment(kind="player", text=line)),
    )
    offers = [offer(world, "give", {"item": ["brass key", "lamp"]})]
    assert bool(towards_acting(world, offers, said)) is leans
    assert towards_acting(world, [], said) == ()
