from __future__ import annotations

from collections import Counter

from cluster.routing import ADAPTER_WORTH, Recent, Seat, choose
from engine.requests import GenerationRequest, Message, Segment


def seats(num: int, **settings: int) -> list[Seat]:
    told = {"slots": 4, "limit": 16, **settings}
    return [Seat(name=f"r{n}", open=True, **told) for n in range(num)]


def line(adapter: str | None, *said: str) -> GenerationRequest:
    messages = tuple(
        Message(role="user", segments=(Segment(kind="", text=text),)) for text in said or ("Hi",)
    )
    return GenerationRequest(request_id="x", prompt=messages, adapter=adapter)


def test_an_adapter_has_a_home_and_adapters_spread() -> None:
    homes = {name: choose(seats(4), line(name)) for name in map(str, range(64))}
    again = {name: choose(seats(4), line(name)) for name in homes}
    assert [seat and seat.name for seat in homes.values()] == [
        seat and seat.name for seat in again.values()
    ]
    assert min(Counter(seat.name for seat in homes.values() if seat).values()) > 6


def test_most_adapters_keep_their_home_when_a_replica_leaves() -> None:
    for name in map(str, range(32)):
        before, after = choose(seats(4), line(name)), choose(seats(3), line(name))
        assert before is not None
        assert after is not None
        assert before.name in (after.name, "r3")


def test_who_holds_the_adapter_is_asked_until_it_is_much_busier() -> None:
    all_seats = seats(2)
    stranger, holder = sorted(all_seats, key=lambda seat: seat is choose(all_seats, line("anna")))
    stranger.took(line("anna"))
    holder, stranger = stranger, holder  # against the hash: only what it holds speaks for it
    holder.live = int(ADAPTER_WORTH) - 1
    assert choose(all_seats, line("anna", "other words")) is holder
    holder.live = int(ADAPTER_WORTH) + 1
    assert choose(all_seats, line("anna", "other words")) is stranger


def test_a_conversation_goes_on_where_its_cache_is() -> None:
    all_seats = seats(3)
    for seat in all_seats:
        seat.took(line("anna", "You are Anna.", f"I am {seat.name}."))
    for seat in all_seats:
        grown = line("anna", "You are Anna.", f"I am {seat.name}.", "Good.", "And now?")
        assert choose(all_seats, grown) is seat


def test_full_and_closed_seats_get_nothing() -> None:
    all_seats = seats(2, limit=1)
    all_seats[0].open = False
    all_seats[1].live = 1
    assert choose(all_seats, line("anna")) is None
    all_seats[1].live = 0
    assert choose(all_seats, line(None)) is all_seats[1]


def test_only_the_last_keys_are_remembered() -> None:
    recent = Recent(2)
    for key in ("a", "b", "a", "c"):
        recent.touch(key)
    assert [key in recent for key in "abc"] == [True, False, True]
