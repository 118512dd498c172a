"""The library of adapters in a world: live ones, candidates, and the way back.

    adapters/NAME/                  live: what the engine loads
    adapters/.candidates/NAME/      what training made last, not yet live
    adapters/.history/NAME/0003/    what was live before, newest number last
    adapters/.history/NAME/log.jsonl

A folder is complete before it gets its name, so a full disk or a kill never leaves half an
adapter where a live one stood.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from engine.adapters import adapter_digest
from engine.errors import AdapterError
from npc_adapters.card import AdapterCard, base_digest, read_card
from npc_adapters.errors import StoreError

Check = Callable[[str, Path], Sequence[str]]
"""Given an agent and a candidate folder: the reasons why it must not go live."""

_ALLOWED = (".json", ".safetensors", ".md", ".png", ".txt", ".jsonl", ".jinja")


class AdapterLibrary:
    """The adapters of one world."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def live(self, name: str) -> Path:
        """Where the engine finds the adapter."""
        return self.root / name

    def candidate(self, name: str) -> Path:
        """Where training leaves its result."""
        return self.root / ".candidates" / name

    def names(self) -> list[str]:
        """The live adapters, in alphabetical order."""
        if not self.root.is_dir():
            return []
        return sorted(
            p.name for p in self.root.iterdir() if not p.name.startswith(".") and p.is_dir()
        )

    def cards(self) -> list[AdapterCard]:
        """The cards of the live adapters.

        Raises:
            StoreError: one of them is damaged.
        """
        return [read_card(self.live(name)) for name in self.names()]

    def versions(self, name: str) -> list[Path]:
        """What was live before, oldest first."""
        folder = self.root / ".history" / name
        return sorted(p for p in folder.glob("[0-9]*") if p.is_dir()) if folder.is_dir() else []

    def verify(self, folder: Path, base: Path | None = None) -> AdapterCard:
        """Check an adapter folder before it is let in.

        Raises:
            StoreError: files other than data (pickles, code), damaged or missing weights, or
                another base than `base`.
        """
        if not folder.is_dir():
            raise StoreError(f"there is no adapter folder {folder}")
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix not in _ALLOWED:
                raise StoreError(
                    f"{path} may not be in an adapter folder: code and pickles are never loaded; "
                    f"allowed are {', '.join(_ALLOWED)}"
                )
        card = read_card(folder)
        if base is not None and (wanted := base_digest(base)) != card.base_digest:
            raise StoreError(
                f"{folder} was trained on the base {card.base_digest[:12]}; "
                f"{base.name} is {wanted[:12]}"
            )
        return card

    def promote(
        self,
        name: str,
        folder: Path | None = None,
        *,
        base: Path | None = None,
        checks: Sequence[Check] = (),
        force_reason: str = "",
    ) -> AdapterCard:
        """Make an adapter live if it passes its gate; the old one goes into the history.

        Args:
            name: the character.
            folder: the adapter; by default what training left.
            base: the base it must fit.
            checks: the gate.
            force_reason: goes live in spite of a failed gate, and is written down.

        Raises:
            StoreError: damaged, unfit or refused by the gate; the live one stays.
        """
        folder = folder or self.candidate(name)
        card = self.verify(folder, base)
        reasons = [reason for check in checks for reason in check(name, folder)]
        if reasons and not force_reason:
            raise StoreError(f"{name} does not pass its gate: " + "; ".join(reasons))
        self._install(name, folder)
        self._log(name, "promote", card.digest, "; ".join([*reasons, force_reason]))
        return card

    def rollback(self, name: str) -> AdapterCard:
        """Bring back what was live before; what was live now is kept as `.rolled_back`.

        Raises:
            StoreError: nothing was live before.
        """
        versions = self.versions(name)
        if not versions:
            raise StoreError(f"{name} has no earlier version to go back to")
        card = read_card(versions[-1])
        aside = self.root / ".history" / name / ".rolled_back"
        shutil.rmtree(aside, ignore_errors=True)
        if self.live(name).exists():
            self.live(name).rename(aside)
        versions[-1].rename(self.live(name))
        self._log(name, "rollback", card.digest, "")
        return card

    def remove(self, name: str) -> None:
        """Take a live adapter out; it goes into the history.

        Raises:
            StoreError: there is none of that name.
        """
        if not self.live(name).is_dir():
            raise StoreError(f"no adapter {name!r}; there are: {', '.join(self.names()) or 'none'}")
        digest = adapter_digest(self.live(name))
        self._retire(name)
        self._log(name, "remove", digest, "")

    def log(self, name: str) -> list[dict[str, str]]:
        """What happened to a character's adapter, oldest first."""
        path = self.root / ".history" / name / "log.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def _install(self, name: str, folder: Path) -> None:
        """Copy first, rename last."""
        partial = self.root / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copytree(folder, partial)
            if adapter_digest(partial) != adapter_digest(folder):
                raise StoreError(f"{partial} did not arrive whole; is the disk full?")
        except (OSError, shutil.Error, AdapterError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise StoreError(f"{name} could not be saved ({error}); the old one stays") from error
        self._retire(name)
        partial.rename(self.live(name))

    def _retire(self, name: str) -> None:
        """Move the live adapter, if any, to the end of the history."""
        if not self.live(name).exists():
            return
        history = self.root / ".history" / name
        history.mkdir(parents=True, exist_ok=True)
        last = int(self.versions(name)[-1].name) if self.versions(name) else 0
        self.live(name).rename(history / f"{last + 1:04d}")

    def _log(self, name: str, action: str, digest: str, reason: str) -> None:
        path = self.root / ".history" / name / "log.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        when = datetime.now(UTC).isoformat(timespec="seconds")
        entry = {"when": when, "action": action, "digest": digest, "reason": reason}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
