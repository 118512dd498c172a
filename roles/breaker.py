"""A circuit breaker: an engine that fails again and again is left alone for a while.

(Nygard, Release It!, 2007.) Closed: requests pass. Open, after `failures` in a row: they don't,
for `rest_s`. Then one may try; its success closes the circuit, its failure opens it again.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Breaker:
    """Counts failures in a row; the clock is passed in, in seconds."""

    failures: int = 3
    rest_s: float = 5.0
    _in_a_row: int = 0
    _opened_s: float | None = None
    _trying: bool = False

    def allows(self, now_s: float) -> bool:
        """Whether a request may go to the engine; if the circuit rests, one may try after it."""
        if self._opened_s is None:
            return True
        if now_s - self._opened_s < self.rest_s or self._trying:
            return False
        self._trying = True
        return True

    def succeeded(self) -> None:
        """A request ended well."""
        self._in_a_row, self._opened_s, self._trying = 0, None, False

    def failed(self, now_s: float) -> None:
        """A request failed by the engine's fault."""
        self._in_a_row += 1
        self._trying = False
        if self._in_a_row >= self.failures:
            self._opened_s = now_s

    def gave_up(self) -> None:
        """A request ended without telling anything about the engine."""
        self._trying = False
