from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
from io import StringIO
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from roles.encoder import Encoder, serve
from roles.errors import EncoderError
from roles.manager import Manager
from roles.meaning import EncoderProcess, meaning_of
from roles.memory import Meaning, MemoryBook
from roles.store import Store
from roles.world import World
from tests.roles.test_manager import prompt_text, say
from tests.roles.test_world import change

WORDS = ("my", "dog", "is", "called", "bo", "the", "sea", "rises")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random sentence encoder of the BERT family."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    made = tmp_path_factory.mktemp("encoder")
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(made / "tokenizer.json"))
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    BertModel(config).save_pretrained(made)
    return made


def vector(*numbers: float) -> bytes:
    length = sum(number * number for number in numbers) ** 0.5
    return struct.pack(f"<{len(numbers)}f", *(number / length for number in numbers))


def recalled(book: MemoryBook, said: str, meaning: Meaning | None) -> list[str]:
    return [memory.text for memory in book.recall("anna", said, now=0, limit=3, meaning=meaning)]


def test_a_memory_that_shares_no_word_is_found_by_its_meaning() -> None:
    store = Store()
    book = MemoryBook(store)
    texts = {"My dog is called Bo.": (1, 0.1, 0), "The sea rises.": (0, 1, 0)}
    memories = {book.add("anna", text, kind="heard", now=0).id: text for text in texts}
    book.keep_vectors("m", memories, [vector(*texts[text]) for text in memories.values()])
    meaning = Meaning("m", vector(1, 0, 0))
    assert recalled(book, "And your pet?", None) == []
    assert recalled(book, "And your pet?", meaning) == ["My dog is called Bo."]
    assert recalled(book, "And your pet?", Meaning("other", vector(1, 0, 0))) == []
    assert set(recalled(book, "Does the sea rise?", meaning)) == set(texts)
    # What matches by words and by meaning comes before what matches by one of them.
    both = Meaning("m", vector(1, 0.9, 0))
    assert recalled(book, "Does the sea rise?", both) == ["The sea rises.", "My dog is called Bo."]
    store.close()


def test_an_edited_memory_loses_its_vector_and_a_forgotten_one_is_not_found() -> None:
    store = Store()
    book = MemoryBook(store)
    first, second = (book.add("anna", text, kind="heard", now=0).id for text in ("One.", "Two."))
    assert book.without_vector("anna", "m", 9) == {second: "Two.", first: "One."}
    vectors = [vector(1, 0), vector(1, 0)]
    book.keep_vectors("m", {first: "One.", second: "It was another before a restore."}, vectors)
    assert book.without_vector("anna", "m", 9) == {second: "Two."}
    book.keep_vectors("m", {first: "One.", second: "Two."}, vectors)
    assert book.without_vector("anna", "m", 9) == {}
    assert book.without_vector("anna", "other", 9) == {second: "Two.", first: "One."}
    book.edit("anna", first, "Uno.")
    book.forget("anna", second)
    assert book.without_vector("anna", "m", 9) == {first: "Uno."}
    assert recalled(book, "Three?", Meaning("m", vector(1, 0))) == []
    store.close()


def test_vectors_have_length_one_and_do_not_depend_on_their_neighbours(folder: Path) -> None:
    texts = ["My dog is called Bo", "the sea", "my dog is called bo the sea rises"]
    encoder = Encoder(folder)
    together, alone = encoder.encode(texts).numpy(), encoder.encode(texts[1:2]).numpy()
    np.testing.assert_allclose((together**2).sum(1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(together[1], alone[0], atol=1e-6)
    assert not encoder.encode([""]).any()


def test_a_folder_that_is_no_encoder_is_told_and_the_process_ends(tmp_path: Path) -> None:
    answers = StringIO()
    serve(tmp_path, StringIO('{"id": 1, "texts": ["a"]}\n'), answers)
    (told,) = answers.getvalue().splitlines()
    assert list(json.loads(told)) == ["error"]


async def test_a_process_answers_each_its_own_and_says_when_it_is_dead(folder: Path) -> None:
    encoder = EncoderProcess(folder)
    store = Store()
    book = MemoryBook(store)
    book.add("anna", "my dog is called Bo", kind="heard", now=0)
    await encoder.start()
    try:
        given_up = asyncio.create_task(encoder.encode(["my dog"] * 500))
        await asyncio.sleep(0)
        with pytest.raises(EncoderError, match="not loaded"):
            await meaning_of(encoder, book, "anna", "the sea", 1)
        given_up.cancel()
        assert await encoder.encode(["the sea"]) == await encoder.encode(["the sea"])
        meaning = await meaning_of(encoder, book, "anna", "my dog is called bo", 600)
        assert book.without_vector("anna", encoder.digest, 9) == {}
        assert recalled(book, "x", meaning) == ["my dog is called Bo"]  # the very same vector
        assert encoder._process is not None
        os.kill(encoder._process.pid, signal.SIGKILL)
        with pytest.raises(EncoderError, match="died"):
            await encoder.encode(["the sea"])
        assert encoder.digest == ""
    finally:
        await encoder.close()
        store.close()


class HereEncoder:
    """An encoder in this process, which can be told to fail."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._encoder, self.broken = folder, Encoder(folder), False
        self.digest = self._encoder.digest

    async def encode(self, texts: list[str]) -> list[bytes]:
        if self.broken:
            raise EncoderError("it is broken")
        return [row.numpy().tobytes() for row in self._encoder.encode(texts)]


async def test_a_line_finds_memories_by_meaning_and_by_words_alone_without_the_encoder(
    manager: Manager, folder: Path
) -> None:
    house, encoder = manager.house, HereEncoder(folder)
    house.engines.encoder = cast(Any, encoder)
    await say(manager, "my dog is called Bo", max_tokens=8)
    found = await say(manager, "My Dog is Called bo!", conversation="new", max_tokens=8)
    assert "Memory: Guest said: my dog is called Bo" in prompt_text(manager, found.line)
    count = "SELECT count(*) FROM vectors"
    assert house.store.database.execute(count).fetchone()[0] == 1  # the last line's comes later
    encoder.broken = True
    alone = await say(manager, "the sea", max_tokens=8)
    routing = house.transcript.find(alone.line, None).routing
    assert "memories by their words alone: it is broken" in routing
    house.engines.encoder = None


def test_a_world_names_its_encoder_and_is_told_when_it_is_not_there(world_folder: Path) -> None:
    change(world_folder / "world.toml", "[places]", '[memory]\nencoder = "models/sbert"\n[places]')
    world = World.load(world_folder)
    assert world.encoder == (world_folder / "models" / "sbert").resolve()
    assert "memory.encoder" in [problem.key for problem in world.model_problems()]
