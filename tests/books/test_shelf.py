from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from books.compiled import CompiledStudents
from books.shelf import Shelf, build_shelf
from engine.config import EngineConfig, Quantization
from engine.errors import AdapterError, RequestError
from engine.kernels import load_library
from engine.model import Step
from engine.requests import Delta, Finished, GenerationRequest, SamplingParams, Started
from engine.slots import Run
from tests.books.conftest import tiny_student


def make_shelf(
    base: Path,
    students: dict[str, Path],
    slots: int = 8,
    rows: int = 8,
    quantization: Quantization = "none",
    compiled: bool = True,
) -> Shelf:
    config = EngineConfig(
        base=str(base),
        quantization=quantization,
        compiled=compiled,
        adapter_slots=slots,
        max_rows=rows,
        host_bytes=0,
    )
    shelf = build_shelf(config)
    for name, path in students.items():
        shelf.install_adapter(name, shelf.read_adapter(str(path)), False)
    return shelf


def ask(name: str, prompt: str, request_id: str | None = None) -> GenerationRequest:
    sampling = SamplingParams(temperature=0.0, max_tokens=12)
    return GenerationRequest(
        request_id=request_id or name, prompt=prompt, adapter=name, sampling=sampling
    )


def run(shelf: Shelf, requests: Iterable[GenerationRequest]) -> dict[str, list[int]]:
    """Token ids by request, all submitted at once."""
    words: dict[str, list[int]] = {}
    for request in requests:
        shelf.add_request(request)
        words[request.request_id] = []
    while shelf.has_work():
        for event in shelf.step():
            if isinstance(event, Delta):
                words[event.request_id] += event.token_ids
            if isinstance(event, Finished):
                assert event.reason in ("stop", "length"), event.error
    return words


def reference(path: Path, base: Path, prompt: str) -> list[int]:
    """What transformers generates greedily with the same weights, in fp32."""
    from engine.template import ChatTemplate

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    ids = torch.tensor([ChatTemplate(base).encode_text(prompt)])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=1,
        pad_token_id=0,
    )
    return [token for token in out[0, ids.shape[1] :].tolist() if token != 1]


@pytest.mark.parametrize("compiled", [True, False])
def test_five_books_in_one_batch_say_what_transformers_says(
    base: Path, students: dict[str, Path], compiled: bool
) -> None:
    prompts = {name: f"Which page of {name}? " * (n + 1) for n, name in enumerate(students)}
    shelf = make_shelf(base, students, compiled=compiled)
    spoken = run(shelf, [ask(name, text) for name, text in prompts.items()])
    for name, path in students.items():
        words = [token for token in spoken[name] if token != 1]
        assert words == reference(path, base, prompts[name]), name


def test_two_readers_of_one_book_do_not_disturb_each_other(
    base: Path, students: dict[str, Path]
) -> None:
    asked = [ask("tides", "When?", "a"), ask("lamps", "Who?", "b"), ask("tides", "Where to?", "c")]
    together = run(make_shelf(base, students), asked)
    for request in asked:
        assert (
            run(make_shelf(base, students), [request])[request.request_id]
            == together[request.request_id]
        )


needs_kernels = pytest.mark.skipif(load_library() is None, reason="needs a C compiler")


@needs_kernels
def test_in_int8_a_book_says_the_same_alone_and_beside_others(
    base: Path, students: dict[str, Path]
) -> None:
    shelf = make_shelf(base, students, quantization="int8")
    asked = [ask(name, f"Which page of {name}? " * (n + 1)) for n, name in enumerate(students)]
    asked += [ask(name, "Who?", f"{name} again") for name in list(students)[::2]]
    together = run(shelf, asked)
    assert shelf.engine is not None
    assert isinstance(shelf.engine.base.decoder, CompiledStudents)
    for request in reversed(asked):
        alone = make_shelf(base, students, quantization="int8")
        assert run(alone, [request])[request.request_id] == together[request.request_id]


@needs_kernels
def test_int8_products_are_near_the_exact_ones(base: Path, students: dict[str, Path]) -> None:
    exact, rounded = (
        first_logits(make_shelf(base, students, quantization=kind), students)
        for kind in ("none", "int8")
    )
    assert exact.shape == rounded.shape
    error = (exact - rounded).norm() / exact.norm()
    assert 0 < error < 0.05


def first_logits(shelf: Shelf, names: Iterable[str]) -> torch.Tensor:
    """After the same word in each of these books."""
    run(shelf, [ask(name, "x") for name in names])  # each is in a slot then
    assert shelf.engine is not None
    runs = [Run(row=n, slot=n + 1, position=0, start=n, length=1) for n in range(5)]
    numbers = range(5)
    step = Step.of(runs, [7] * 5, [*reversed(numbers)], torch.device("cpu"), skip_zero=False)
    return shelf.engine.base.decoder.forward(step).clone()


def test_more_books_than_slots_all_answer_and_the_oldest_leaves(
    base: Path, students: dict[str, Path]
) -> None:
    shelf = make_shelf(base, students, slots=2)
    spoken = run(shelf, [ask(name, "Who wrote you?") for name in students])
    for name, path in students.items():
        words = [token for token in spoken[name] if token != 1]
        assert words == reference(path, base, "Who wrote you?"), name
    resident = [info.name for info in shelf.adapters() if info.resident]
    assert len(resident) == 2
    assert shelf.stats().adapter_evictions == 3


def test_an_answer_names_the_weights_it_came_from(base: Path, students: dict[str, Path]) -> None:
    shelf = make_shelf(base, students)
    shelf.add_request(ask("tides", "Who?"))
    events = [event for _ in range(100) for event in shelf.step()]
    started = next(event for event in events if isinstance(event, Started))
    card = json.loads((students["tides"] / "student.json").read_text())
    assert started.adapter_digest == card["weights_digest"]


def test_an_empty_shelf_says_so(base: Path) -> None:
    shelf = make_shelf(base, {})
    assert not shelf.has_work()
    assert shelf.adapters() == []
    assert shelf.stats().num_running == 0
    with pytest.raises(AdapterError, match="'tides' is on the shelf; it is empty"):
        shelf.add_request(ask("tides", "Who?"))


def test_a_question_to_no_book_is_refused(base: Path, students: dict[str, Path]) -> None:
    request = GenerationRequest(request_id="x", prompt="Who?")
    with pytest.raises(RequestError, match="names no book"):
        make_shelf(base, students).add_request(request)


def test_a_student_of_another_architecture_is_refused_and_the_others_go_on(
    tmp_path: Path, base: Path, students: dict[str, Path]
) -> None:
    shelf = make_shelf(base, students)
    wide = tiny_student(tmp_path / "wide", base, intermediate_size=128)
    with pytest.raises(AdapterError, match=r"intermediate_size 128, .* have 96"):
        shelf.read_adapter(str(wide))
    assert run(shelf, [ask("tides", "Who?")])["tides"]


def test_a_damaged_student_is_refused_by_digest(
    tmp_path: Path, base: Path, students: dict[str, Path]
) -> None:
    shelf = make_shelf(base, students)
    broken = tiny_student(tmp_path / "broken", base)
    path = broken / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(AdapterError, match="damaged or changed"):
        shelf.read_adapter(str(broken))


def test_a_student_with_another_tokenizer_is_refused(
    tmp_path: Path, base: Path, students: dict[str, Path]
) -> None:
    other = tiny_student(tmp_path / "other", base)
    card = json.loads((other / "student.json").read_text())
    (other / "student.json").write_text(json.dumps(card | {"tokenizer_digest": "f" * 64}))
    with pytest.raises(AdapterError, match="reads with the tokenizer ffff"):
        make_shelf(base, students).read_adapter(str(other))


def test_a_folder_that_is_no_student_is_refused(tmp_path: Path, base: Path) -> None:
    with pytest.raises(AdapterError, match=r"is no student: student\.json"):
        make_shelf(base, {}).read_adapter(str(tmp_path))


def test_a_quantised_student_says_what_its_rounded_weights_say(
    tmp_path: Path, base: Path, students: dict[str, Path]
) -> None:
    from books.int8 import quantize_student, round_model

    small = tiny_student(tmp_path / "small", base, seed=9)
    before = (small / "model.safetensors").stat().st_size
    model = round_model(AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32))
    quantize_student(small)
    assert (small / "model.safetensors").stat().st_size < 0.6 * before
    spoken = run(make_shelf(base, students | {"small": small}), [ask("small", "Who wrote you?")])
    model.save_pretrained(tmp_path / "rounded")
    words = [token for token in spoken["small"] if token != 1]
    assert words == reference(tmp_path / "rounded", base, "Who wrote you?")
