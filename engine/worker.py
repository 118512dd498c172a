"""The worker process of SubprocessBackend: `python -m engine.worker`, frames over its pipes.

It ends when its input closes, so it never outlives the process that started it; on Linux the
kernel sees to it even while it hangs.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import BinaryIO

from engine.service import Command, Report, Service
from engine.wire import HEADER, pack, unpack

_PR_SET_PDEATHSIG = 1  # prctl(2)


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next frame's content, or None at the end of the stream."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (size,) = HEADER.unpack(header)
    content = stream.read(size)
    return content if len(content) == size else None


def main() -> None:
    """Serve until the parent closes our input or says so."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    commands = sys.stdin.buffer
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library's print must not join the frames
    setup = read_frame(commands)
    if setup is None:
        return
    factory, config = unpack(setup)
    lock = threading.Lock()

    def emit(told: Sequence[Report]) -> None:
        with lock:
            output.write(b"".join(map(pack, told)))  # a step's words wake the reader once
            output.flush()
        if told[-1].kind == "fatal":
            os._exit(1)  # the reading thread below would keep a useless process alive

    service = Service(factory, config, emit)
    service.start()
    while (content := read_frame(commands)) is not None:
        service.put(Command(*unpack(content)))
    service.put(Command(0, "close"))
    service.join(5.0)


if __name__ == "__main__":
    main()
