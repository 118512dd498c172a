"""From an engine's thread into an event loop: one wake-up for all that comes at once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Inbox(Generic[Item]):
    """Hands items over in order; made in the loop that takes them, filled from any thread.

    Waking a loop is a system call that gives the interpreter's lock away. A step of sixteen lines
    that did so for each of them would wait sixteen times until it gets the lock back.

    Args:
        take: called in the loop with each item.
    """

    def __init__(self, take: Callable[[Item], None]) -> None:
        self._loop, self._take = asyncio.get_running_loop(), take
        self._items: deque[Item] = deque()
        self._lock = threading.Lock()

    def put(self, *items: Item) -> None:
        """Hand items over, from any thread; once the loop has ended nobody takes them."""
        with self._lock:
            awake = bool(self._items)
            self._items.extend(items)
        if not awake:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._empty)

    def _empty(self) -> None:
        with self._lock:  # else an item put beside the last one taken would wake nobody
            items, self._items = self._items, deque()
        try:
            while items:
                self._take(items.popleft())
        finally:
            if items:  # one could not be taken: the loop tells why, the others still come
                with self._lock:
                    self._items.extendleft(reversed(items))
                self._loop.call_soon(self._empty)
