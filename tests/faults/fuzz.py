"""A million damaged frames: each is decoded, or refused with FrameError; memory stays bounded.

.venv/bin/python -m tests.faults.fuzz [COUNT] [SEED]
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from collections import Counter

from protocol.codec import PROTOCOL, decode
from protocol.errors import FrameError
from protocol.reference import VECTORS

MARKERS = bytes([0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, *range(0xC0, 0x100)])


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


def run(count: int, seed: int) -> Counter[str]:
    """Outcomes of that many frames; anything but FrameError is left to crash."""
    document = json.loads(VECTORS.read_text(encoding="utf-8"))
    corpus = [bytes.fromhex(v["msgpack"]) for v in document["valid"] + document["invalid"]]
    chance = random.Random(seed)
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        frame = damage(chance.choice(corpus), chance)
        try:
            decode([PROTOCOL, frame])
        except FrameError as error:
            outcomes[str(error.code)] += 1
        else:
            outcomes["decoded"] += 1
    return outcomes


def main() -> None:
    """Run, and print what came out."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    run(1_000, seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    outcomes = run(count, seed)
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"frames": count, **outcomes, "grown_kib": grown_kib, "seconds": seconds}))


if __name__ == "__main__":
    main()
