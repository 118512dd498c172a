"""Finding memories by what they mean: a sentence encoder's vectors, if a world names one.

The encoder has a process of its own, so the gateway loads no model and its loop never waits for
one. A line waits for it a share of its patience at most; its memories then come by words alone.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

from roles.errors import EncoderError
from roles.memory import Meaning, MemoryBook

_MOST_NEW = 64  # memories given vectors for one line; the rest wait for the next
_LOOK_S = 10.0  # how often a process that died is looked for
_PATIENT_S = 60.0  # a line with so much time waits while the encoder loads
_MAX_LINE = 1 << 24  # bytes of an answer


class EncoderProcess:
    """A sentence encoder in a process of its own.

    Args:
        folder: a model of the BERT family: config.json, model.safetensors, tokenizer.json.

    Attributes:
        digest: of the model; "" until it has loaded.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.digest = folder, ""
        self._process: asyncio.subprocess.Process | None = None
        self._lock, self._numbers = asyncio.Lock(), itertools.count()
        self._error = ""  # why the model can't ever be loaded

    async def start(self) -> None:
        """Begin loading; returns at once."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "roles.encoder",
            str(self.folder),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=_MAX_LINE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
        self.digest = ""

    async def close(self) -> None:
        """End the process."""
        process, self._process, self.digest = self._process, None, ""
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def keep(self) -> None:
        """Have it loaded, and load it again when it has died; for ever."""
        while not self._error:
            with contextlib.suppress(EncoderError):
                await self.encode([""])
            await asyncio.sleep(_LOOK_S)

    async def encode(self, texts: list[str]) -> list[bytes]:
        """A vector for each text: float32, little endian, of length 1.

        Waits while the model loads: give it a limit.

        Raises:
            EncoderError: the model can't be loaded, or its process died.
        """
        async with self._lock:
            if self._error:
                raise EncoderError(f"{self.folder}: {self._error}")
            if self._process is None:
                await self.start()
            if not self.digest:
                self.digest = (await self._told())["digest"]
            number = next(self._numbers)
            assert self._process is not None
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps({"id": number, "texts": texts}).encode() + b"\n")
            while (told := await self._told())["id"] != number:
                pass  # the answer to somebody who has given up
            return [base64.b64decode(vector) for vector in told["vectors"]]

    async def _told(self) -> dict[str, Any]:
        """The next thing that the process says."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        told: dict[str, Any] = json.loads(line) if line else {}
        if not told or "error" in told:
            await self.close()
            self._error = told.get("error", "")
            raise EncoderError(f"{self.folder}: {self._error or 'its process died'}")
        return told


async def meaning_of(
    encoder: EncoderProcess, memories: MemoryBook, agent: str, said: str, limit_s: float
) -> Meaning:
    """What is said, as a vector; memories of `agent` that have none get theirs with it.

    Args:
        limit_s: how long it may take. While the model loads it is not waited for at all, unless
            there is plenty of time.

    Raises:
        EncoderError: it can't be had, or not within the limit.
    """
    if not encoder.digest and limit_s < _PATIENT_S:
        raise EncoderError(f"{encoder.folder}: not loaded (yet)")
    try:
        async with asyncio.timeout(limit_s):
            if not encoder.digest:
                await encoder.encode([""])  # only now it is known whose vectors are missing
            new = memories.without_vector(agent, encoder.digest, _MOST_NEW)
            said_vector, *vectors = await encoder.encode([said, *new.values()])
    except TimeoutError:
        raise EncoderError(f"{encoder.folder}: no vectors within {limit_s:.1f} s") from None
    memories.keep_vectors(encoder.digest, new, vectors)
    return Meaning(encoder.digest, said_vector)
