"""Who runs next, and which tokens a step computes. No tensors here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from engine.sequence import Sequence


class Scheduler:
    """Waiting and running requests.

    Higher priority goes first; among equals, the character with the fewest running lines, then
    whoever came first. Every running line gets its next token in every step; prompts share what
    is left of the step's token budget, so none of them stalls a stream.
    """

    def __init__(self, prefill_tokens: int) -> None:
        self._prefill_tokens = prefill_tokens
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []

    def candidates(self, is_ready: Callable[[Sequence], bool]) -> Iterator[Sequence]:
        """Waiting requests in the order in which they should start; those not ready stand aside.

        Each must be started, or ended, before the next is asked for.
        """
        while self.waiting:
            busy = Counter(sequence.request.adapter for sequence in self.running)
            order = sorted(
                self.waiting,
                key=lambda s: (-s.request.priority, busy[s.request.adapter], s.arrived),
            )
            best = next((sequence for sequence in order if is_ready(sequence)), None)
            if best is None:
                return
            yield best
            if best in self.waiting:
                return  # the caller could not start it, and nobody overtakes it

    def start(self, sequence: Sequence) -> None:
        """Move a request from waiting to running."""
        self.waiting.remove(sequence)
        self.running.append(sequence)

    def pause(self, sequence: Sequence) -> None:
        """Move a request from running back to waiting."""
        self.running.remove(sequence)
        self.waiting.append(sequence)

    def lesser(self, sequence: Sequence) -> Sequence | None:
        """The running request that should make room for a waiting one: lowest, then latest."""
        if not self.running:
            return None
        last = min(self.running, key=lambda s: (s.request.priority, -s.arrived))
        return last if last.request.priority < sequence.request.priority else None

    def plan(self) -> list[tuple[Sequence, int]]:
        """The step: sequences and how many of their tokens it computes."""
        step = [(sequence, 1) for sequence in self.running if sequence.num_pending == 1]
        budget = self._prefill_tokens
        prompts = [sequence for sequence in self.running if sequence.num_pending > 1]
        prompts.sort(key=lambda s: (-s.request.priority, s.started))
        for sequence in prompts:
            if budget == 0:
                break
            length = min(sequence.num_pending, budget)
            budget -= length
            step.append((sequence, length))
        return step
