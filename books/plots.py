"""Pictures of a run: losses over steps, size against retention."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def plot_losses(reports: Mapping[str, Mapping[str, Any]], path: Path) -> Path:
    """One line per student, the first student's steps left out."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(8, 5))
    for name, report in reports.items():
        losses = report["losses"]
        steps = report["schedule"]["steps"]
        axes.plot([steps * (n + 1) / len(losses) for n in range(len(losses))], losses, label=name)
    axes.set(xlabel="step", ylabel="mixed loss", yscale="log", title="Students")
    return _save(figure, axes, path)


def plot_retention(results: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path) -> Path:
    """Size in bytes against the share of the teacher's F1, one point per book and answerer."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(8, 5))
    names = sorted({name for result in results.values() for name in result})
    for name in names:
        found = [result[name] for result in results.values() if name in result]
        sizes = [max(1, verdict["size_bytes"]) for verdict in found]
        kept = [1.0 if verdict["retention"] is None else verdict["retention"] for verdict in found]
        axes.scatter(sizes, kept, label=name.replace("_", " "), alpha=0.7)
    axes.axhline(0.95, linestyle="--", linewidth=1, color="grey")
    axes.set(xlabel="bytes of weights (1: none)", ylabel="F1 over the teacher's F1", xscale="log")
    return _save(figure, axes, path)


def _save(figure: Any, axes: Any, path: Path) -> Path:
    axes.legend()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    _pyplot().close(figure)
    return path


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("agg")  # no window, whatever the machine has
    import matplotlib.pyplot as plt

    return plt
