"""What a training run shows while it runs, and the curve that it leaves."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from transformers import TrainerCallback


@contextmanager
def quietly() -> Iterator[None]:
    """Without the advice that TRL, PEFT, transformers and bitsandbytes give one another.

    They deprecate each other's settings and speak of accelerators; nothing a user could act on.
    """
    loud = [logging.getLogger(name) for name in ("transformers", "bitsandbytes")]
    levels = [logger.level for logger in loud]
    for logger in loud:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    for logger, level in zip(loud, levels, strict=True):
        logger.setLevel(level)


class Speed(TrainerCallback):  # type: ignore[misc]  # untyped base
    """Tokens trained on per second, padding included; judging and saving don't count."""

    def __init__(self) -> None:
        self._tokens, self._seconds = 0, 0.0
        self._seen = 0  # tokens of the run at the last step, those before a resume included
        self._began = 0.0

    @property
    def tokens_per_s(self) -> float:
        """The speed so far; 0 before the first step ended."""
        return self._tokens / self._seconds if self._seconds else 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave out what an earlier, killed run did."""
        self._seen = state.num_input_tokens_seen

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock and count."""
        self._seconds += time.perf_counter() - self._began
        self._tokens += state.num_input_tokens_seen - self._seen
        self._seen = state.num_input_tokens_seen


class Progress(TrainerCallback):  # type: ignore[misc]  # untyped base
    """A progress bar with losses, tokens per second and time left."""

    def __init__(self, speed: Speed) -> None:
        self._speed = speed
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._task: Any = None
        self._told: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the bar."""
        self._task = self._bar.add_task("training", total=state.max_steps)
        self._bar.start()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kw: Any
    ) -> None:
        """Take the newest figures into the bar's text."""
        for key, form in _SHOWN.items():
            if key in (logs or {}):
                self._told[key] = form.format((logs or {})[key])
        told = [*self._told.values(), f"{self._speed.tokens_per_s:.0f} tok/s"]
        self._bar.update(self._task, description=", ".join(told))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the bar away."""
        self._bar.stop()


_SHOWN = {
    "loss": "loss {:.3f}",
    "eval_loss": "held-out {:.3f}",
}


def draw_losses(history: Sequence[dict[str, float]], path: Path) -> None:
    """Draw training and held-out loss over steps as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for key, label in (("loss", "training"), ("eval_loss", "held out")):
        points = [(entry["step"], entry[key]) for entry in history if key in entry]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="o", markersize=2)
    axes.set_xlabel("step")
    axes.set_ylabel("loss per token of the character's words (nats)")
    if axes.lines:
        axes.legend()
    figure.savefig(path, dpi=100)
