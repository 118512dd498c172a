"""Which replica a request goes to: one that knows the character, unless it is too busy.

A replica that lately spoke for the same conversation has its KV cache; one that holds the
adapter needs not fetch it. Both count as so many requests less on that replica; the least
loaded one wins. Among equals, rendezvous hashing (Thaler & Ravishankar 1998) gives every
adapter a home of its own, so that adapters spread over the replicas and stay where they are
when others come or go. Pure functions: no Ray here.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from engine.requests import GenerationRequest

TALK_WORTH = 3.0  # requests: a conversation's prefill is worth about as much waiting
ADAPTER_WORTH = 3.0  # requests: reading an adapter from disk and writing it into a slot
_TALKS_KEPT = 4096


class Recent:
    """The keys used last, at most `size` of them."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._keys: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def touch(self, key: str) -> None:
        """Make a key the newest."""
        self._keys[key] = None
        self._keys.move_to_end(key)
        if len(self._keys) > self._size:
            self._keys.popitem(last=False)


@dataclass
class Seat:
    """A replica as routing sees it.

    Attributes:
        name: never used again, also not by the replica that takes its place.
        slots: adapters it can hold ready.
        limit: requests it takes, running and waiting.
        live: requests on it now.
        open: whether it may get any.
    """

    name: str
    slots: int
    limit: int
    live: int = 0
    open: bool = False
    adapters: Recent = field(init=False)
    talks: Recent = field(init=False)

    def __post_init__(self) -> None:
        """A seat begins empty."""
        self.forget()

    def forget(self) -> None:
        """Its replica was replaced: nothing is held any more."""
        self.adapters, self.talks = Recent(self.slots), Recent(_TALKS_KEPT)

    def took(self, request: GenerationRequest) -> None:
        """A request was sent there."""
        if request.adapter is not None:
            self.adapters.touch(request.adapter)
        self.talks.touch(talk_of(request))


def talk_of(request: GenerationRequest) -> str:
    """A key of the conversation: its adapter and how its prompt begins.

    The first two messages (who one is, and the first words) stay as a conversation grows.
    """
    prompt = request.prompt
    head = prompt[:256] if isinstance(prompt, str) else "\0".join(m.text for m in prompt[:2])
    return hashlib.sha256(f"{request.adapter}\0{head}".encode()).hexdigest()


Route = Callable[[Sequence[Seat], GenerationRequest], Seat | None]


def choose(seats: Sequence[Seat], request: GenerationRequest) -> Seat | None:
    """The seat for a request, or None if every open one is full."""
    free = [seat for seat in seats if seat.open and seat.live < seat.limit]
    if not free:
        return None
    talk = talk_of(request)

    def cost(seat: Seat) -> tuple[float, bytes]:
        worth = TALK_WORTH * (talk in seat.talks)
        worth += ADAPTER_WORTH * (request.adapter is not None and request.adapter in seat.adapters)
        return seat.live - worth, _rank(request.adapter or talk, seat.name)

    return min(free, key=cost)


def _rank(key: str, seat: str) -> bytes:
    return hashlib.sha256(f"{key}\0{seat}".encode()).digest()
