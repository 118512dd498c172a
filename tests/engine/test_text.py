from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from engine.text import TextStream
from tests.tiny_models import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def pieces(tokenizer: Tokenizer, text: str, stop: tuple[str, ...] = ()) -> list[str]:
    """The text byte by byte through a stream, as it would be sent."""
    stream = TextStream(tokenizer, stop)
    sent = []
    for token_id in tokenizer.encode(text, add_special_tokens=False).ids:
        sent.append(stream.push(token_id))
        if stream.stopped:
            return sent
    return [*sent, stream.flush()]


@pytest.mark.parametrize("text", ["plain", "Où est l'été ?", "灯りの油 🪔 here", "a\n\n b  c "])
def test_only_whole_characters_are_sent_and_none_is_lost(tokenizer: Tokenizer, text: str) -> None:
    sent = pieces(tokenizer, text)
    assert "".join(sent) == text
    assert not any("\ufffd" in piece for piece in sent)


def test_half_a_character_at_the_end_is_dropped(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer, ())
    ids = tokenizer.encode("aé", add_special_tokens=False).ids
    assert "".join(stream.push(token) for token in ids[:-1]) + stream.flush() == "a"


@pytest.mark.parametrize(
    ("stop", "expected"),
    [(("END",), "before "), (("NEVER",), "before END after"), (("ter", "END a"), "before ")],
)
def test_nothing_of_a_stop_string_is_sent(
    tokenizer: Tokenizer, stop: tuple[str, ...], expected: str
) -> None:
    assert "".join(pieces(tokenizer, "before END after", stop)) == expected
