"""A circuit breaker: an engine that fails again and again is left alone for a while.

(Nygard, Release It!, 2007.) After `failures` in a row the circuit is open for `rest_s`: requests
are turned away at once instead of waiting in vain. Then they may try again; the first success
closes it, a failure opens it anew.
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

    def rest_left_s(self, now_s: float) -> float:
        """How long no request may go to the engine yet; 0 if one may."""
        if self._opened_s is None:
            return 0.0
        return max(self._opened_s + self.rest_s - now_s, 0.0)

    def succeeded(self) -> None:
        """A request ended well."""
        self._in_a_row, self._opened_s = 0, None

    def failed(self, now_s: float) -> None:
        """A request failed by the engine's fault."""
        self._in_a_row += 1
        if self._in_a_row >= self.failures:
            self._opened_s = now_s
