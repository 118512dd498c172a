from __future__ import annotations

from roles.breaker import Breaker


def test_three_failures_in_a_row_open_it_for_a_while() -> None:
    breaker = Breaker(failures=3, rest_s=5)
    for second in range(3):
        assert breaker.allows(second)
        breaker.failed(second)
    assert not breaker.allows(3)
    assert not breaker.allows(6.9)


def test_after_its_rest_a_success_closes_it() -> None:
    breaker = Breaker(failures=2, rest_s=5)
    breaker.failed(0)
    breaker.failed(0)
    assert not breaker.allows(4.9)
    assert breaker.allows(5)
    breaker.succeeded()
    breaker.failed(6)
    assert breaker.allows(6)


def test_a_failure_after_its_rest_opens_it_again() -> None:
    breaker = Breaker(failures=1, rest_s=5)
    breaker.failed(0)
    assert breaker.allows(6)
    breaker.failed(6)
    assert not breaker.allows(10.9)
    assert breaker.allows(11)


def test_a_success_between_failures_starts_the_count_anew() -> None:
    breaker = Breaker(failures=2, rest_s=5)
    breaker.failed(0)
    breaker.succeeded()
    breaker.failed(1)
    assert breaker.allows(2)
