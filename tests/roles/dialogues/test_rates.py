from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roles.dialogues.rates import Z95, Rate


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_where_the_score_test_would_not_reject(counts: tuple[int, int]) -> None:
    rate = Rate(*counts)
    low, high = rate.interval()
    assert 0 <= low <= rate.share + 1e-9
    assert rate.share - 1e-9 <= high <= 1
    for bound in (low, high):  # (share - p)^2 = z^2 p (1 - p) / n defines both
        score = Z95**2 * bound * (1 - bound) / rate.runs
        assert (rate.share - bound) ** 2 == pytest.approx(score, abs=1e-9)


def test_a_wanted_rate_of_one_forgives_nothing() -> None:
    assert Rate(20, 20).holds(1.0)
    assert not Rate(19, 20).holds(1.0)


def test_chance_is_forgiven_and_a_clear_shortfall_is_not() -> None:
    assert Rate(6, 10).holds(0.8)
    assert not Rate(3, 10).holds(0.8)


def test_few_runs_do_not_settle_a_rate() -> None:
    assert not Rate(4, 5).settles(0.8)
    assert Rate(1, 10).settles(0.8)
    assert Rate(60, 60).settles(0.8)


def test_two_runs_can_never_fail_a_rate_of_six_tenths() -> None:
    assert not Rate.can_fail(2, 0.6)
    assert Rate.can_fail(3, 0.6)
