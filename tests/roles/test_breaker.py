from __future__ import annotations

from roles.breaker import Breaker


def test_three_failures_in_a_row_open_it_for_a_while() -> None:
    breaker = Breaker(failures=3, rest_s=5)
    for second in range(3):
        assert breaker.rest_left_s(second) == 0
        breaker.failed(second)
    assert breaker.rest_left_s(3) > 0
    assert breaker.rest_left_s(6.9) > 0


def test_after_its_rest_a_success_closes_it() -> None:
    breaker = Breaker(failures=2, rest_s=5)
    breaker.failed(0)
    breaker.failed(0)
    assert breaker.rest_left_s(4.9) > 0
    assert breaker.rest_left_s(5) == 0
    breaker.succeeded()
    breaker.failed(6)
    assert breaker.rest_left_s(6) == 0


def test_a_failure_after_its_rest_opens_it_again() -> None:
    breaker = Breaker(failures=1, rest_s=5)
    breaker.failed(0)
    assert breaker.rest_left_s(6) == 0
    breaker.failed(6)
    assert breaker.rest_left_s(10.9) > 0
    assert breaker.rest_left_s(11) == 0


def test_a_success_between_failures_starts_the_count_anew() -> None:
    breaker = Breaker(failures=2, rest_s=5)
    breaker.failed(0)
    breaker.succeeded()
    breaker.failed(1)
    assert breaker.rest_left_s(2) == 0
