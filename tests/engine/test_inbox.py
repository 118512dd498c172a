from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable

import pytest

from engine.inbox import Inbox


async def test_items_of_many_threads_all_come_in_their_order() -> None:
    taken: list[tuple[int, int]] = []
    whole = asyncio.Event()

    def take(item: tuple[int, int]) -> None:
        taken.append(item)
        if len(taken) == 4 * 500:
            whole.set()

    inbox: Inbox[tuple[int, int]] = Inbox(take)

    def fill(thread: int) -> None:
        for number in range(500):
            inbox.put((thread, number))

    threads = [threading.Thread(target=fill, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    async with asyncio.timeout(30):
        await whole.wait()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert [n for thread, n in taken if thread == number] == list(range(500))


async def test_an_item_put_while_the_last_is_taken_is_not_forgotten() -> None:
    """Threads take turns after a microsecond; a lock left out loses nearly all of these items."""
    before = sys.getswitchinterval()
    taken = list[int]()
    inbox = Inbox(taken.append)
    pause = threading.Event()

    def fill() -> None:
        for number in range(5000):
            inbox.put(number)
            if number % 3 == 0:
                pause.wait(0)

    threads = [threading.Thread(target=fill) for _ in range(3)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            await asyncio.sleep(0)
    finally:
        sys.setswitchinterval(before)
    await asyncio.sleep(0.05)
    assert len(taken) == 15000


async def test_what_comes_at_once_wakes_the_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, taken = asyncio.get_running_loop(), list[int]()
    wake, calls = loop.call_soon_threadsafe, list[object]()

    def counted(callback: Callable[[], None]) -> asyncio.Handle:
        calls.append(callback)
        return wake(callback)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    inbox = Inbox(taken.append)
    for number in range(16):
        inbox.put(number)
    await asyncio.sleep(0)
    assert taken == list(range(16))
    assert len(calls) == 1
    inbox.put(16)
    await asyncio.sleep(0)
    assert taken == list(range(17))


async def test_one_that_cannot_be_taken_holds_up_nobody() -> None:
    loop, taken, told = asyncio.get_running_loop(), list[float](), list[object]()
    loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
    inbox: Inbox[int] = Inbox(lambda number: taken.append(1 / number))
    for number in (1, 0, 2):
        inbox.put(number)
    await asyncio.sleep(0.01)
    assert taken == [1, 0.5]
    assert [type(error) for error in told] == [ZeroDivisionError]
    inbox.put(4)
    await asyncio.sleep(0.01)
    assert taken == [1, 0.5, 0.25]


async def test_a_loop_that_has_ended_is_no_error() -> None:
    ended, taken = list[Inbox[int]](), list[int]()

    async def make() -> None:
        ended.append(Inbox(taken.append))

    await asyncio.to_thread(lambda: asyncio.run(make()))
    ended[0].put(1)
    assert not taken
