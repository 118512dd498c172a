"""Tables of the offline side, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from npc_adapters.card import AdapterCard

_COLUMNS = {
    "perplexity": "{:.2f}",
    "base_perplexity": "{:.2f}",
    "gain": "{:.0%}",
    "margin": "{:.0%}",
    "forgetting": "{:.1%}",
    "recognised": "{:.0%}",
    "recognised_lines": "{:.0%}",
    "lore": "{:.0%}",
    "distinct_2": "{:.2f}",
    "words": "{:.1f}",
    "broken": "{:.0%}",
}


def print_figures(characters: Mapping[str, Mapping[str, float]]) -> None:
    """One row per character, one column per figure."""
    table = Table("character", *(name.replace("_", " ") for name in _COLUMNS))
    for character, figures in characters.items():
        cells = [
            form.format(figures[name]) if name in figures else "-"
            for name, form in _COLUMNS.items()
        ]
        table.add_row(character, *cells)
    Console().print(table)


def print_cards(cards: Sequence[AdapterCard]) -> None:
    """One row per adapter."""
    table = Table("adapter", "digest", "base", "method", "rank", "rows", "licence", "figures")
    for card in cards:
        figures = ", ".join(f"{key} {value:.2f}" for key, value in card.metrics.items())
        table.add_row(
            card.name,
            card.digest[:12],
            f"{card.base} {card.base_digest[:12]}",
            card.method,
            str(card.rank),
            str(card.num_rows),
            card.licence,
            figures,
        )
    Console().print(table)
