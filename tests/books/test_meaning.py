from __future__ import annotations

import numpy as np
import pytest
from safetensors import safe_open

from books.meaning import VECTORS_PATH, Senses, Vectors, read_vectors
from books.signs import stem

RARITY = {"lamp": 2.0, "oil": 1.0}


def test_words_of_like_meaning_lie_near() -> None:
    words = [stem(word) for word in ("dog", "puppy", "vinegar", "qwxyq")]
    dog, puppy, vinegar, strange = read_vectors().of(words)
    assert dog @ dog == pytest.approx(1, abs=1e-5)
    assert dog @ puppy > 0.5 > dog @ vinegar
    assert not strange.any()


def test_a_text_means_what_its_rare_words_do() -> None:
    vectors = Vectors(["lamp", "oil"], np.array([[9, 0], [0, 5]], dtype=np.int8))
    assert vectors.mean(RARITY).tolist() == pytest.approx([2 / 5**0.5, 1 / 5**0.5])
    assert not vectors.mean({"strange": 1.0}).any()


def test_a_fact_knows_its_own_words_whole_and_others_by_their_cosine() -> None:
    senses = Senses([{"dog", "qwxyq"}, {"vinegar"}], [{"dog": 1.0}] * 2, [{"dog": 1.0}] * 2)
    asked = {"puppi": 3.0, "qwxyq": 1.0}
    dog, puppy = read_vectors().of(["dog", "puppi"])
    near, far = senses.judge(asked, {}).tolist()
    assert near[0] == pytest.approx((3 * float(dog @ puppy) + 1) / 4, abs=1e-5)
    assert far[0] < 0.5
    assert near[1] == near[2] == pytest.approx(float(dog @ puppy), abs=1e-5)


def test_a_fact_that_does_without_a_question_knows_less() -> None:
    senses = Senses([{"dog", "lamp"}], [RARITY], [RARITY])
    asked = {"dog": 1.0}
    assert senses.judge(asked, {})[0, 0] == 1
    assert senses.judge(asked, {0: {"lamp"}})[0, 0] < 0.5
    assert senses.judge(asked, {0: set()})[0, 0] == 0


def test_the_file_tells_whose_work_it_is() -> None:
    with safe_open(VECTORS_PATH, framework="np") as stored:
        assert stored.metadata()["license"] == "Apache-2.0"
        assert "MiniLM" in stored.metadata()["source"]
    assert VECTORS_PATH.stat().st_size < 1_500_000
