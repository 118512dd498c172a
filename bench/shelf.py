"""How much faster is a shelf of stacked students than one student after another?

    python bench/shelf.py [--books 2000] [--slots 64] [--threads 2]

First part: `slots` different books are asked one question each: all at the same time; one after
another on the same shelf; and one after another as models of their own, each in memory already,
by transformers' generate(). Second part: `books` students are registered, `slots` fit in memory,
and questions go to books by Zipf's law; time to first token of a book that had to be read from disk
(its file dropped from the page cache) against one that was in memory. Weights are random:
speed does not depend on what they say. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import LlamaForCausalLM

from books.int8 import quantize_student
from books.prompt import Evidence, book_messages
from books.shelf import Shelf, build_shelf
from books.students import load_student, save_student, student_config
from engine.config import EngineConfig
from engine.requests import Finished, GenerationRequest, Message, SamplingParams, Usage
from engine.template import ChatTemplate

WORLD = Path(__file__).parents[1] / "roles" / "worlds" / "biblioteca_eterna"
PASSAGES = (
    "The tide bell hangs over the landing on a beam of whale bone. It is called Old Patience, it "
    "has no clapper, and it rings by itself when the water reaches the sixtieth step.",
    "Three boats lie at the landing. The Comma is the smallest, a skiff for one keeper and one "
    "lamp; she leaks at the stern and forgives everything.",
)


def make_students(folder: Path, count: int, tokenizer: Path, params: int) -> list[Path]:
    """Random students of one shape, each of its own weights, int8 on disk."""
    config = student_config(params, 2048, 512, 1)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    paths = []
    for number in range(count):
        with torch.no_grad():
            model.model.norm.weight.copy_(torch.rand(config.hidden_size) + 0.5)
        save_student(model, folder / f"book{number}", f"book{number}", str(number), tokenizer)
        quantize_student(folder / f"book{number}")
        paths.append(folder / f"book{number}")
    return paths


def prompt_of(book: Path, number: int) -> tuple[Message, ...]:
    """A book's prompt, about as long as it is at run time."""
    asked = f"When does bell {number} ring?"
    return book_messages(book.name, "nobody", Evidence(passages=PASSAGES), asked)


def question(book: Path, number: int, max_tokens: int) -> GenerationRequest:
    """A question whose reply always has `max_tokens`."""
    messages = prompt_of(book, number)
    sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    return GenerationRequest(
        request_id=f"{book.name}:{number}", prompt=messages, adapter=book.name, sampling=sampling
    )


def drain(shelf: Shelf) -> dict[str, Usage]:
    """Run until every reply is done; what each cost."""
    usages = {}
    while shelf.has_work():
        for event in shelf.step():
            if isinstance(event, Finished):
                assert event.reason == "length", event.error
                usages[event.request_id] = event.usage
    return usages


def fill(shelf: Shelf, books: list[Path]) -> None:
    """Register books under their names."""
    for path in books:
        shelf.install_adapter(path.name, shelf.read_adapter(str(path)), False)


def measure_stacking(shelf: Shelf, books: list[Path], max_tokens: int) -> dict[str, float]:
    """Seconds for one question to each book, all at once and one after another."""
    for number in range(2):  # the second round is measured: every book is in its slot
        began = time.perf_counter()
        for path in books:
            shelf.add_request(question(path, 2 * number, max_tokens))
        usages = drain(shelf)
        together_s = time.perf_counter() - began
        began = time.perf_counter()
        for path in books:
            shelf.add_request(question(path, 2 * number + 1, max_tokens))
            drain(shelf)
        alone_s = time.perf_counter() - began
    tokens = len(books) * max_tokens
    return {
        "prompt_tokens": next(iter(usages.values())).num_prompt_tokens,
        "together_s": round(together_s, 3),
        "alone_s": round(alone_s, 3),
        "together_tokens_per_s": round(tokens / together_s),
        "alone_tokens_per_s": round(tokens / alone_s),
        "speed_up": round(alone_s / together_s, 2),
    }


def measure_separate(books: list[Path], tokenizer: Path, max_tokens: int) -> float:
    """Seconds for one question to each book, every student a transformers model of its own."""
    template = ChatTemplate(tokenizer)
    models = [load_student(path).eval() for path in books]
    prompts = [template.encode(prompt_of(path, 0))[0] for path in books]
    for _ in range(2):  # the second round is measured, as on the shelf
        began = time.perf_counter()
        for model, prompt in zip(models, prompts, strict=True):
            ids = torch.tensor([prompt])
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_tokens,
                min_new_tokens=max_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        separate_s = time.perf_counter() - began
    return separate_s


def measure_residency(shelf: Shelf, books: list[Path], slots: int, asked: int) -> dict[str, float]:
    """Time to first token of warm and cold books, in milliseconds, under Zipf's law."""
    draw = random.Random(0)
    shelves = books[:]
    draw.shuffle(shelves)
    weights = [1 / rank for rank in range(1, len(books) + 1)]
    times: dict[bool, list[float]] = {True: [], False: []}
    peak = 0
    for number, path in enumerate(draw.choices(shelves, weights, k=asked)):
        resident = {info.name for info in shelf.adapters() if info.resident}
        if path.name not in resident:
            drop_from_page_cache(path / "model.safetensors")
        shelf.add_request(question(path, number, 1))
        usage = drain(shelf)[f"{path.name}:{number}"]
        if number > 2 * slots:  # the slots have filled
            times[path.name in resident].append(usage.time_to_first_token_s * 1000)
        peak = max(peak, shelf.stats().memory_bytes)
    warm, cold = (statistics.quantiles(times[kind], n=20)[18] for kind in (True, False))
    return {
        "hit_rate": round(len(times[True]) / (len(times[True]) + len(times[False])), 3),
        "warm_p50_ms": round(statistics.median(times[True]), 2),
        "cold_p50_ms": round(statistics.median(times[False]), 2),
        "warm_p95_ms": round(warm, 2),
        "cold_p95_ms": round(cold, 2),
        "cold_over_warm": round(cold / warm, 2),
        "peak_bytes": peak,
    }


def drop_from_page_cache(path: Path) -> None:
    """Make the next read of a file come from the disk."""
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)


def main() -> None:
    """Measure both parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--books", type=int, default=2000, help="students registered")
    parser.add_argument("--slots", type=int, default=64, help="students in memory")
    parser.add_argument("--params", type=int, default=1_000_000, help="parameters of a student")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--tokens", type=int, default=24, help="tokens of a reply")
    parser.add_argument("--prefill", type=int, default=2048, help="prompt tokens of one step")
    parser.add_argument("--asked", type=int, default=1500, help="questions of the second part")
    parser.add_argument("--quantization", default="auto", help="auto (int8), none (fp32) or bf16")
    parser.add_argument("--tokenizer", type=Path, default=WORLD / "models" / "book-base")
    options = parser.parse_args()
    result: dict[str, Any] = {"threads": options.threads, "slots": options.slots}
    with TemporaryDirectory() as folder:
        books = make_students(Path(folder), options.books, options.tokenizer, options.params)
        config = EngineConfig(
            base=folder,
            quantization=options.quantization,
            threads=options.threads,
            adapter_slots=options.slots,
            max_rows=options.slots,
            context_tokens=512,
            prefill_tokens=options.prefill,
            cache_bytes=0,
            host_bytes=0,
        )
        shelf = build_shelf(config)
        fill(shelf, books[: options.slots])
        first = books[: options.slots]
        result["stacking"] = stacking = measure_stacking(shelf, first, options.tokens)
        separate_s = measure_separate(first, options.tokenizer, options.tokens)
        stacking["separate_s"] = round(separate_s, 3)
        stacking["speed_up_over_separate"] = round(separate_s / stacking["together_s"], 2)
        print(f"{options.slots} books at once: {result['stacking']}")
        before = shelf.stats().memory_bytes
        began = time.perf_counter()
        fill(shelf, books[options.slots :])
        result["register_s"] = round(time.perf_counter() - began, 2)
        result["residency"] = measure_residency(shelf, books, options.slots, options.asked)
        result["slots_bytes"] = shelf.size_bytes
        result["grown_bytes"] = result["residency"].pop("peak_bytes") - before
        print(f"{options.books} books registered: {result['residency']}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
