from __future__ import annotations

import json
from pathlib import Path

import pytest

from npc_adapters.data import data_digest, read_rows, split_rows, with_system
from npc_adapters.errors import DataError
from roles.prompt import npc_system

GOOD = {"instruction": "Traveller: Hello.", "input": "Mood: calm.", "output": "[calm] Good night."}


def write(folder: Path, *rows: object) -> Path:
    path = folder / "rows.jsonl"
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_simple_row_becomes_notes_then_line_then_reply(tmp_path: Path) -> None:
    (row,) = read_rows([write(tmp_path, GOOD)]).require_sound()
    assert [(m.role, m.text) for m in row.messages] == [
        ("user", "Mood: calm.\nTraveller: Hello."),
        ("assistant", "[calm] Good night."),
    ]


def test_only_a_characters_replies_are_its_own_words(tmp_path: Path) -> None:
    """What was its own is not said again (`no_repeat_ngram_size`): notes have to be sayable."""
    (row,) = with_system(
        read_rows([write(tmp_path, GOOD)]).rows, npc_system("Pim", "a boy", "Shy.")
    )
    assert [[s.kind for s in m.segments] for m in row.messages] == [
        ["persona"],
        ["player"],
        ["history"],
    ]


def chat(*roles_and_texts: tuple[str, object]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": text} for role, text in roles_and_texts]}


@pytest.mark.parametrize(
    ("row", "field", "words"),
    [
        ("{not json", "row", "is not JSON"),
        ([1, 2], "row", "not an object"),
        ({"instruction": "Hi."}, "output", "is missing"),
        ({"instruction": " ", "output": "x"}, "instruction", "is empty"),
        ({"instruction": "Hi.", "output": 7}, "output", "not text"),
        ({"messages": []}, "messages", "must be a list"),
        (chat(("user", "a")), "messages[0].role", "last message"),
        (chat(("player", "a"), ("assistant", "b")), "messages[0].role", "'player'"),
        (chat(("user", "a"), ("user", "b"), ("assistant", "c")), "messages[1].role", "'assistant'"),
        (chat(("user", "a"), ("assistant", "")), "messages[1].content", "is empty"),
        (chat(("user", "a<|end|>"), ("assistant", "b")), "messages[0].content", "<|end|>"),
    ],
)
def test_a_faulty_row_is_told_with_file_line_and_field(
    tmp_path: Path, row: object, field: str, words: str
) -> None:
    path = write(tmp_path, GOOD, row)
    corpus = read_rows([path], control_tokens=["<|end|>"])
    problem = corpus.problems[0]
    assert (problem.path, problem.line, problem.field) == (str(path), 2, field)
    assert words in problem.text
    with pytest.raises(DataError, match=r"rows\.jsonl:2"):
        corpus.require_sound()


def test_repeated_and_over_long_rows_are_dropped_with_a_warning(tmp_path: Path) -> None:
    long = GOOD | {"output": "word " * 100}
    corpus = read_rows([write(tmp_path, GOOD, GOOD, long)], max_chars=200)
    assert len(corpus.require_sound()) == 1
    assert [(p.line, p.severity) for p in corpus.problems] == [(2, "warning"), (3, "warning")]


def test_a_missing_file_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_rows([tmp_path / "none.jsonl"])
    with pytest.raises(DataError, match="not one usable row"):
        read_rows([write(tmp_path, "")]).require_sound()


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        read_rows([path])


def test_a_row_is_held_out_or_not_whatever_the_order(tmp_path: Path) -> None:
    rows = read_rows([write(tmp_path, *(GOOD | {"output": f"[calm] {i}."} for i in range(50)))])
    train, valid = split_rows(rows.rows)
    again, valid_again = split_rows(rows.rows[::-1])
    assert {row.text for row in valid} == {row.text for row in valid_again}
    assert len(valid) == 5
    assert not {row.text for row in train} & {row.text for row in valid}
    assert data_digest(train) == data_digest(again)


def test_a_system_message_is_put_before_rows_that_have_none(tmp_path: Path) -> None:
    rows = read_rows([write(tmp_path, GOOD)]).rows
    system = npc_system("Pim", "a child", "You ask a lot.")
    (row,) = with_system(rows, system)
    assert row.messages[0] == system
    assert with_system([row], npc_system("X", "y", "z")) == [row]
