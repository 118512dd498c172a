"""A special book: not a student of its own but a LoRA on the npc base, trained on the same rows.

It costs a slot beside the characters and answers with the larger model's language. Front matter
names it (`adapter: models/adapters/NAME`); the game asks it as any other book.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

from books.distill import Volume, rows_of
from engine.requests import Message, Segment
from npc_adapters.data import Row
from npc_adapters.train import Outcome, TrainConfig, train_adapter

# Three passes over 1,000 rows at a rate that LoRAs of this base take well.
SPECIAL = TrainConfig(epochs=3, max_rows=1000, lr=2e-3, dropout=0.0, replay=0.0)


def train_special(
    volume: Volume,
    volumes: Sequence[Volume],
    base: Path,
    out: Path,
    config: TrainConfig = SPECIAL,
    *,
    show: bool = True,
) -> Outcome:
    """Train a book's adapter.

    Args:
        volume: the book.
        volumes: all books of its world, whose questions it learns to decline.
        base: folder of the npc base.
        out: where the adapter goes.
        config: how to train.
        show: draw a progress bar.

    Raises:
        DistillError: the book holds too little to learn from.
        NpcAdaptersError: the base or the machine doesn't allow it.
    """
    name = volume.book.name
    asked = [row for row in rows_of(volume, volumes) if row.messages]
    Random(config.seed).shuffle(asked)
    rows = [
        Row(messages=(*row.messages, _spoken(row.reply)), path=name, line=number, agent=name)
        for number, row in enumerate(asked, start=1)
    ]
    return train_adapter(name=name, base=base, rows=rows, out=out, config=config, show=show)


def _spoken(reply: str) -> Message:
    return Message(role="assistant", segments=(Segment(kind="history", text=reply),))
