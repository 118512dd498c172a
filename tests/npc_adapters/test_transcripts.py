from __future__ import annotations

from pathlib import Path

import pytest

from npc_adapters.data import read_rows
from npc_adapters.transcripts import read_transcript

TALK = """\
Place: the Ferry Steps.
Traveller: how much to cross
[calm] Two coppers.

Fact: The ferry rests on Sundays.
Traveller: And when is there no ferry?
[amused] On Sundays.
> show {"item": "timetable"}
---
System: You are Oda.
Visitor: Hello.
[warm] Hello.
"""


def test_talks_are_rows_as_a_prompt_shows_them(tmp_path: Path) -> None:
    path = tmp_path / "tom.txt"
    path.write_text(TALK, encoding="utf-8")
    first, second = read_rows([path]).require_sound()
    assert [(m.role, m.text) for m in first.messages] == [
        ("user", "Place: the Ferry Steps.\nTraveller: how much to cross"),
        ("assistant", "[calm] Two coppers."),
        ("user", "Fact: The ferry rests on Sundays.\nTraveller: And when is there no ferry?"),
        ("assistant", '[amused] On Sundays.\n> show {"item": "timetable"}'),
    ]
    assert [m.text for m in second.messages] == ["You are Oda.", "Visitor: Hello.", "[warm] Hello."]
    assert (first.line, second.line) == (1, 10)


def test_a_player_may_write_a_colon() -> None:
    ((_, talk),) = read_transcript("Traveller: one thing: why?\n[calm] Because: so.\n")
    assert isinstance(talk, list)
    assert [m["content"] for m in talk] == ["Traveller: one thing: why?", "[calm] Because: so."]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("Traveller: Hi.\n[calm] Hi.\nhow are you\n[calm] Well.", 3, "neither a note nor speech"),
        ("Traveller: Hi.\nHello yourself.", 2, "must be a reply like `[calm] Good evening.`"),
        ("Traveller: Hi.\n[calm Hello.", 2, "must be a reply"),
        ("[calm] Hello.", 1, "answers nobody"),
        ("Mood: sad.\n[sad] Hello.", 2, "answers nobody"),
        ("Traveller: Hi.\n---\n", 1, "ends without a reply"),
        ("Traveller: Hi.\n[calm] Hi.\nSystem: You are Oda.", 3, "must be the first line"),
        ('> give {"item": "key"}', 1, "neither a note nor speech"),
    ],
)
def test_a_faulty_line_is_named_and_other_talks_are_kept(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    path = tmp_path / "tom.txt"
    path.write_text(f"{text}\n---\nTraveller: Bye.\n[sad] Bye.\n", encoding="utf-8")
    corpus = read_rows([path])
    (problem,) = corpus.problems
    assert (problem.line, problem.severity) == (line, "error")
    assert words in problem.text
    assert [row.messages[0].text for row in corpus.rows] == ["Traveller: Bye."]
