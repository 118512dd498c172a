"""Keeps a speaker from its own phrases: runs of tokens that it has said already.

Blocking repeated n-grams (Paulus et al. 2017, `no_repeat_ngram_size` in transformers) also forbids
to copy a fact or a name from the prompt. Here only the speaker's own words count, those of this
line and of its earlier ones in the prompt; what notes or others say may be repeated. A token that
goes on with a word is never withheld: "Travel" without its "ler" would become "Travelling".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from tokenizers import Tokenizer

from engine.requests import Span

OWN = "history"  # the kind of segment that holds what the speaker said before
DISCOURAGED = 1e4  # taken from a logit; where a constraint leaves one token only, it is still said
_SPACES = "\u0120\u010a\u2581"  # how byte-level BPE and SentencePiece write a space or a line's end


def word_parts(tokenizer: Tokenizer) -> frozenset[int]:
    """A vocabulary's tokens that go on with a word: no space before letter, digit or apostrophe."""
    return frozenset(
        number
        for token, number in tokenizer.get_vocab().items()
        if token[0] not in _SPACES and (token[0].isalnum() or token[0] == "'")
    )


class OwnWords:
    """What one line's speaker has said.

    Args:
        size: length of the runs that are not said again, in tokens; at least 2.
        prompt: the prompt's tokens.
        spans: which of them are whose.
        parts: tokens that are never withheld, as `word_parts` finds them.
    """

    def __init__(
        self,
        size: int,
        prompt: Sequence[int],
        spans: Iterable[Span],
        parts: Collection[int] = frozenset(),
    ) -> None:
        self._size, self._parts = size, parts
        self._next: dict[tuple[int, ...], set[int]] = {}
        self._line: list[int] = []
        # Runs across the spans of one message, such as two notes, are others' words too.
        others: set[tuple[int, ...]] = set()
        start = 0
        for span in sorted(spans, key=lambda span: span.start):
            if span.kind == OWN:
                others.update(self._runs(prompt[start : span.start]))
                start = span.end
        others.update(self._runs(prompt[start:]))
        for span in spans:
            for run in self._runs(prompt[span.start : span.end] if span.kind == OWN else ()):
                if run not in others:
                    self._learn(run)
        self._others = others

    def add(self, token: int) -> None:
        """The line got a token."""
        self._line.append(token)
        run = tuple(self._line[-self._size :])
        if len(run) == self._size and run not in self._others:
            self._learn(run)

    def again(self) -> set[int]:
        """Tokens that would complete a run said before."""
        return self._next.get(tuple(self._line[len(self._line) - self._size + 1 :]), set())

    def _runs(self, tokens: Sequence[int]) -> Iterable[tuple[int, ...]]:
        return zip(*(tokens[i:] for i in range(self._size)), strict=False)

    def _learn(self, run: tuple[int, ...]) -> None:
        if run[-1] not in self._parts:
            self._next.setdefault(run[:-1], set()).add(run[-1])
