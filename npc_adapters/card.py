"""What an adapter is: the `card.json` beside its weights."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.adapters import adapter_digest
from engine.bases import base_digest as base_digest
from engine.bases import file_digest
from engine.errors import AdapterError
from npc_adapters.errors import StoreError

CARD_FILE = "card.json"


class AdapterCard(BaseModel):
    """Where an adapter comes from and how it was judged.

    Attributes:
        name: the character (or role) it speaks for.
        base: folder name or hub id of the base model.
        base_digest: SHA-256 of the base's configuration and weights.
        digest: SHA-256 of the adapter's configuration and weights.
        method: how it was trained (lora, qlora, dora ...) or made (blend).
        rank: LoRA rank; 0 for methods without one.
        alpha: LoRA alpha.
        targets: names of the adapted projections.
        data_digest: SHA-256 of the training rows.
        num_rows: how many rows it was trained on.
        metrics: figures of its judging, by name.
        parents: digests of the adapters it was continued from or blended of.
        licence: under which terms it may be passed on (SPDX).
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    base: str
    base_digest: str
    digest: str = ""
    method: str = "lora"
    rank: int = Field(default=0, ge=0)
    alpha: float = 0.0
    targets: tuple[str, ...] = ()
    data_digest: str = ""
    num_rows: int = 0
    metrics: dict[str, float] = Field(default_factory=dict)
    parents: tuple[str, ...] = ()
    licence: str = "Apache-2.0"


def write_card(folder: Path, card: AdapterCard) -> AdapterCard:
    """Write a card with the digest of the weights beside it, and return it.

    What no engine serves (DoRA, IA3, a fully trained model) is digested file by file.
    """
    try:
        digest = adapter_digest(folder)
    except AdapterError:
        files = [*folder.glob("*config.json"), *folder.glob("*.safetensors")]
        digest = file_digest(sorted(files))
    complete = card.model_copy(update={"digest": digest})
    text = complete.model_dump_json(indent=2) + "\n"
    (folder / CARD_FILE).write_text(text, encoding="utf-8")
    return complete


def read_card(folder: Path) -> AdapterCard:
    """The card of an adapter folder, checked against its weights.

    Raises:
        StoreError: no adapter there, no or a broken card, or weights that changed since.
    """
    try:
        digest = adapter_digest(folder)
        card = AdapterCard.model_validate_json((folder / CARD_FILE).read_text(encoding="utf-8"))
    except AdapterError as error:
        raise StoreError(str(error)) from error
    except OSError as error:
        raise StoreError(f"{folder / CARD_FILE} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise StoreError(
            f"{folder / CARD_FILE} is not a card: {error.errors()[0]['msg']}"
        ) from error
    if card.digest and card.digest != digest:
        raise StoreError(
            f"{folder} is damaged: its card tells of {card.digest[:12]}, "
            f"its weights are {digest[:12]}"
        )
    return card
