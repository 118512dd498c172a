"""The shelf: students of one shape, so that many books answer in one forward pass.

The engine's own scheduler, sampler and caches run it; what differs is that every product takes
its weights from the slot of the token's book. A book that is asked and not in a slot is read
from disk (its digest verified again), written into the slot least recently used, and runs.
"""

from __future__ import annotations

from pathlib import Path

import torch

from books.card import file_digest, tokenizer_folder
from books.compiled import CompiledStudents
from books.errors import StudentError
from books.slots import Student, StudentBank, check_shape, read_student
from books.stacked import StackedBank, build_decoder
from engine.architecture import rotary_tables
from engine.config import EngineConfig
from engine.engine import Engine
from engine.errors import AdapterError, RequestError
from engine.kv_cache import KVCache
from engine.loader import LoadedBase, find_kernels, resolve
from engine.model import DecoderLike
from engine.requests import AdapterInfo, EngineStats, Event, GenerationRequest
from engine.template import ChatTemplate


class Shelf:
    """A core for `engine.service`: the engine over stacked students, made for the first one.

    A world may have no student yet. The first one put on the shelf decides the tokenizer and
    the shape of the stacks; until then every question is refused by name.

    Attributes:
        engine: over the students; None while there are none.
    """

    def __init__(self, config: EngineConfig) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        self._config = config
        self.engine: Engine | None = None
        self._bank: StudentBank | None = None
        self._tokenizer_digest: str | None = None

    def add_request(self, request: GenerationRequest) -> None:
        """Queue a question to a book. Raises: AdapterError, RequestError."""
        if request.adapter is None:
            raise RequestError("the request names no book; on a shelf every request needs one")
        if self.engine is None:
            raise AdapterError(f"no book named {request.adapter!r} is on the shelf; it is empty")
        self.engine.add_request(request)

    def cancel(self, request_id: str) -> bool:
        """Stop a request at the next step."""
        return self.engine is not None and self.engine.cancel(request_id)

    def has_work(self) -> bool:
        """Whether any book is answering."""
        return self.engine is not None and self.engine.has_work()

    def step(self) -> list[Event]:
        """Advance every book that is answering."""
        return self.engine.step() if self.engine is not None else []

    def read_adapter(self, path: str) -> Student:
        """Read a student. Raises: AdapterError."""
        student = read_student(Path(path), self._tokenizer_digest)
        if self.engine is not None:
            check_shape(student, self.engine.base.architecture)
        return student

    def install_adapter(self, name: str, adapter: Student, pinned: bool) -> AdapterInfo:
        """Put a student on the shelf under its book's name. Raises: AdapterError."""
        if self.engine is None:
            self.engine = self._build_engine(adapter)
        check_shape(adapter, self.engine.base.architecture)
        return self.engine.install_adapter(name, adapter, pinned)

    def unload_adapter(self, name: str) -> None:
        """Take a book off the shelf. Raises: AdapterError if it isn't there."""
        if self.engine is None:
            raise AdapterError(f"no book named {name!r} is on the shelf; it is empty")
        self.engine.unload_adapter(name)

    def adapters(self) -> list[AdapterInfo]:
        """Every book on the shelf."""
        return self.engine.adapters() if self.engine is not None else []

    def stats(self) -> EngineStats:
        """Counters and gauges."""
        if self.engine is not None:
            return self.engine.stats()
        return EngineStats(**dict.fromkeys(EngineStats.__dataclass_fields__, 0))

    @property
    def size_bytes(self) -> int:
        """Memory of the students' slots."""
        return self._bank.size_bytes if self._bank is not None else 0

    def _build_engine(self, student: Student) -> Engine:
        config, shape = self._config, student.shape
        try:
            folder = tokenizer_folder(student.path)
        except StudentError as error:
            raise AdapterError(str(error)) from error
        template = ChatTemplate(folder)
        self._tokenizer_digest = file_digest(folder / "tokenizer.json")
        device, quantization = resolve(config)
        library = find_kernels(config, shape, device, quantization)
        half = {"int8": library is not None, "bf16": True}.get(quantization, False)
        dtype = torch.bfloat16 if half else torch.float32
        length = min(config.context_tokens or shape.context_tokens, shape.context_tokens)
        cache = KVCache(shape, config.max_rows, length, dtype, device)
        slots, digest = config.adapter_slots, self._tokenizer_digest
        if library is not None:
            tables = rotary_tables(student.config, shape, length)
            students = CompiledStudents(shape, slots, digest, library, tables, cache)
            bank: StudentBank = students
            decoder: DecoderLike = students
        else:
            bank = stacked = StackedBank(shape, slots, digest, dtype)
            decoder = build_decoder(stacked, student.config, cache)
        self._bank = bank
        base = LoadedBase(
            folder=folder,
            digest=digest,
            architecture=shape,
            quantization=quantization,
            decoder=decoder,
            bank=bank,
            cache=cache,
            eos_ids=frozenset() if template.end_id is None else frozenset([template.end_id]),
            device=device,
        )
        return Engine(config, base, template)


def build_shelf(config: EngineConfig) -> Shelf:
    """A shelf with `adapter_slots` students ready to run and `host_bytes` of others read.

    Students bring their tokenizer and shape, so `config.base` only names where they lie.
    """
    return Shelf(config)
