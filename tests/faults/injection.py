"""Faults inside an engine's process, at the token they are asked for.

A test writes "hang 12" into the file that BIBLIOTECA_FAULT names: twelve steps later the engine
hangs. The file is gone by then, so the engine that comes after is well.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

from engine import service
from engine.config import EngineConfig

KINDS = ("raise", "hang", "kill", "memory")


def install(path: str) -> None:
    """From now on, engines built in this process look at that file before each step."""
    build = service.build_core

    def build_faulty(factory: str, config: EngineConfig) -> service.Core:
        core = build(factory, config)
        fault, step = Fault(Path(path)), core.step

        def faulty_step() -> Any:
            fault.look()
            return step()

        setattr(core, "step", faulty_step)  # noqa: B010  # mypy would refuse the assignment
        return core

    service.build_core = build_faulty


class Fault:
    """Counts steps down to the fault that a file asks for."""

    def __init__(self, path: Path) -> None:
        self._path, self._kind, self._left = path, "", 0

    def look(self) -> None:
        """One more step is about to run."""
        if not self._kind and self._path.exists():
            self._kind, count = self._path.read_text().split()
            self._left = int(count)
            self._path.unlink()
        if self._kind:
            self._left -= 1
            if self._left <= 0:
                strike(self._kind)


def strike(kind: str) -> None:
    """Fail in this way."""
    if kind == "raise":
        raise RuntimeError("a fault, as asked for")
    if kind == "hang":
        time.sleep(1_000_000)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "memory":
        import torch

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + (64 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        torch.ones(1 << 28)  # 1 GiB: as if a step needed it
