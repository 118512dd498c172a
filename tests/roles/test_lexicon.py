import re
from pathlib import Path

import pytest

from roles.errors import WorldError
from roles.lexicon import Lexicon, taught

LEXICON = Lexicon(["the", "oil", "is", "kept", "don't", "Pim"])


def may_say(text: str, *shown: str) -> bool:
    return re.fullmatch(LEXICON.pattern(shown), text) is not None


@pytest.mark.parametrize(
    "text",
    ["The oil is kept.", "Don't! The oil?", "Pim's oil: 12.5, the oil...", "“The oil” is… kept."],
)
def test_known_words_may_be_said(text: str) -> None:
    assert may_say(text)


@pytest.mark.parametrize(
    "text", ["The oill.", "pim.", "The zoolog is kept.", "Theoil.", "THE OIL."]
)
def test_other_words_may_not(text: str) -> None:
    assert not may_say(text)


def test_words_of_the_prompt_may_be_said_as_they_stand_there() -> None:
    shown = "Fact: Kościuszko's lamp is in row W-33."
    assert may_say("The lamp is in Kościuszko's row W-33.", shown)
    assert not may_say("The lamp is kościuszko.", shown)


def test_a_file_of_words_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    for name, fault in (("none.txt", "can't be read"), ("empty.txt", "holds no word")):
        with pytest.raises(WorldError, match=f"{name}.*{fault}"):
            Lexicon.load(tmp_path / name)


def test_taught_are_the_words_of_many_replies_and_names_of_the_world_alone() -> None:
    replies = ["The oil is here, Pim, said Gloria."] * 10 + ["A rare word."]
    own = ["name = 'Pim'"]
    assert taught(replies, own) == ["Pim", "here", "is", "oil", "said"]
