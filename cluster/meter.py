"""Keeps the times and counts of one remote request, and makes its events."""

from __future__ import annotations

import time
from typing import Any

from engine.requests import Delta, Finished, FinishReason, Started, Usage


class Meter:
    """One request's clock and bill.

    Attributes:
        said: whether a word came.
        tokens: prompt, cached and completion tokens, as the server counted them; pieces of
            text stand for completion tokens until it does.
    """

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._asked = time.monotonic()
        self._first: float | None = None
        self._last = 0.0
        self.started = False
        self.tokens = {"prompt": 0, "cached": 0, "completion": 0}

    @property
    def said(self) -> bool:
        """Whether a word came."""
        return self._first is not None

    def start(self) -> Started:
        """The request left the queue; a server doesn't tell what the model is shown."""
        self.started = True
        return Started(
            request_id=self._request_id,
            prompt_token_ids=(),
            spans=(),
            num_cached_tokens=0,
            base_digest="",
            adapter_digest=None,
            queue_s=0.0,
        )

    def piece(self, text: str) -> Delta:
        """A piece of text came."""
        self._last = time.monotonic()
        self._first = self._first or self._last
        self.tokens["completion"] += 1
        return Delta(request_id=self._request_id, text=text)

    def bill(self, usage: dict[str, Any]) -> None:
        """The server's own count."""
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        self.tokens = {
            "prompt": int(usage.get("prompt_tokens") or 0),
            "cached": int(cached),
            "completion": int(usage.get("completion_tokens") or 0),
        }

    def finished(self, reason: FinishReason, error: str | None) -> Finished:
        """The last event."""
        first = self._first
        usage = Usage(
            num_prompt_tokens=self.tokens["prompt"],
            num_cached_tokens=self.tokens["cached"],
            num_completion_tokens=self.tokens["completion"],
            queue_s=0.0,
            time_to_first_token_s=0.0 if first is None else first - self._asked,
            decode_s=0.0 if first is None else self._last - first,
        )
        return Finished(request_id=self._request_id, reason=reason, usage=usage, error=error)
