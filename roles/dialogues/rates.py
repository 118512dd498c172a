"""Pass rates of checks that depend on a seed, with the certainty their number allows."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


@dataclass(frozen=True, slots=True)
class Rate:
    """How many of how many seeds passed."""

    passed: int
    runs: int

    @property
    def share(self) -> float:
        """The observed rate, 0 to 1."""
        return self.passed / self.runs

    def interval(self, z: float = Z95) -> tuple[float, float]:
        """The Wilson score interval of the true rate (Wilson 1927).

        (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)
        """
        n, p = self.runs, self.share
        middle = p + z * z / (2 * n)
        spread = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        scale = 1 + z * z / n
        return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)

    def holds(self, wanted: float) -> bool:
        """Whether this many passes are still in keeping with the wanted rate.

        A wanted rate of 1 forgives nothing. Below 1, only a shortfall that chance doesn't
        explain fails: the interval must lie wholly below the wanted rate.
        """
        return self.passed == self.runs if wanted >= 1 else self.interval()[1] >= wanted

    @classmethod
    def can_fail(cls, runs: int, wanted: float) -> bool:
        """Whether so many runs could ever fail the wanted rate: by none of them passing."""
        return not cls(0, runs).holds(wanted)

    def settles(self, wanted: float) -> bool:
        """Whether the runs are enough to tell on which side of the wanted rate this lies."""
        low, high = self.interval()
        return wanted >= 1 or low >= wanted or high < wanted

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.passed} of {self.runs} (95 %: {low:.2f} to {high:.2f})"
