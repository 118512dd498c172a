"""A million damaged frames: each is decoded, or refused with `bad_frame`; memory stays bounded.

    .venv/bin/python -m tests.faults.fuzz [COUNT] [SEED]
    .venv/bin/python -m tests.faults.fuzz --atheris [-runs=COUNT] ...

The first way damages golden messages at random, and passes what still decodes to a dispatcher
as a server does. The second needs `pip install atheris`: it is led by the branches of the codec
(libFuzzer's options follow) and has no notion of a message.
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import sys
import time
from collections import Counter
from contextlib import suppress
from importlib import import_module, reload

from protocol.codec import PROTOCOL, decode, encode
from protocol.dispatch import Dispatcher
from protocol.errors import FrameError
from protocol.memory import MemoryClient
from protocol.messages import HelloRequest
from protocol.reference import VECTORS
from tests.protocol.fake_service import FakeService

MARKERS = bytes([0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, *range(0xC0, 0x100)])


def corpus() -> list[bytes]:
    """The golden messages, good and bad."""
    document = json.loads(VECTORS.read_text(encoding="utf-8"))
    return [bytes.fromhex(v["msgpack"]) for v in document["valid"] + document["invalid"]]


def damage(frame: bytes, chance: random.Random) -> bytes:
    """One to four edits: a byte flipped, a type byte set, a piece cut, doubled or moved in."""
    data = bytearray(frame)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(data):
                data[at] = chance.choice(MARKERS)
            case 2:
                del data[at : at + chance.randint(1, 8)]
            case 3:
                data[at:at] = data[at : at + chance.randint(1, 16)]
            case 4:
                data[at:at] = chance.randbytes(chance.randint(1, 8))
            case _:
                data[at:at] = bytes([chance.choice(MARKERS)]) * chance.randint(1, 40)
    return bytes(data)


class Desk(MemoryClient):
    """A client whose frames go to the server as they are; counts what the server says."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.outcomes: Counter[str] = Counter()
        super().__init__(dispatcher, HelloRequest())

    def send(self, frame: bytes) -> None:
        """Take a frame from the server: always a proper message."""
        envelope = decode([PROTOCOL, frame])
        self.outcomes[str(envelope.body.get("code", envelope.t))] += 1

    def hand_in(self, frame: bytes) -> None:
        """Give the server a frame."""
        try:
            envelope = decode([PROTOCOL, frame])
        except FrameError as error:
            self._dispatcher.refuse_frame(self, error)
            return
        assert decode([PROTOCOL, encode(envelope)]) == envelope
        self.outcomes["decoded"] += 1
        self._dispatcher.receive(self, envelope)


async def run(count: int, seed: int) -> Counter[str]:
    """What came of that many frames; anything but a refusal is left to crash."""
    frames, chance = corpus(), random.Random(seed)
    desk = Desk(Dispatcher(FakeService()))
    for number in range(count):
        if desk.session is None:  # it was a bye
            desk.hand_in(frames[0])
        desk.hand_in(damage(chance.choice(frames), chance))
        if number % 100 == 0:
            await asyncio.sleep(0)  # the service's turn
    desk.lose()
    await asyncio.sleep(0.01)
    return desk.outcomes


def fuzz_with_atheris() -> None:
    """Run libFuzzer on the codec until its options say so."""
    atheris = import_module("atheris")
    with atheris.instrument_imports(include=["protocol.codec"]):
        codec = reload(import_module("protocol.codec"))

    def one(data: bytes) -> None:
        with suppress(FrameError):
            envelope = codec.decode([PROTOCOL, data])
            assert codec.decode([PROTOCOL, codec.encode(envelope)]) == envelope

    atheris.Setup([sys.argv[0], *sys.argv[2:]], one)
    atheris.Fuzz()


def main() -> None:
    """Run, and print what came out."""
    if sys.argv[1:2] == ["--atheris"]:
        fuzz_with_atheris()
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    asyncio.run(run(10_000, seed))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    outcomes = asyncio.run(run(count, seed))
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"frames": count, **outcomes, "grown_kib": grown_kib, "seconds": seconds}))


if __name__ == "__main__":
    main()
