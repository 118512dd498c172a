"""Folders by their content: how models and adapters reach a node, and are known to be the same.

A parcel lists the files of a folder, and of what the folder points to (a student's tokenizer, a
blend's parts), each with its SHA-256. A node keeps parcels under their digest; a folder that
lies at the same path there with the same content (a shared file system) is used as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import msgpack

from engine.errors import AdapterError, BackendError


@dataclass(frozen=True, kw_only=True, slots=True)
class Parcel:
    """A folder's description.

    Attributes:
        root: where its files lie on the machine that described it.
        entry: the folder itself, below the root.
        files: (path below the root, SHA-256), in order.
    """

    root: str
    entry: str
    files: tuple[tuple[str, str], ...]

    @property
    def digest(self) -> str:
        """SHA-256 over names and digests; the root has no part in it."""
        return hashlib.sha256(json.dumps([self.entry, self.files]).encode()).hexdigest()

    def pack(self) -> bytes:
        """As bytes, for the way."""
        return bytes(msgpack.packb([self.root, self.entry, self.files]))

    @classmethod
    def unpack(cls, content: bytes) -> Parcel:
        """The other end of `pack`."""
        root, entry, files = msgpack.unpackb(content)
        return cls(root=root, entry=entry, files=tuple((name, digest) for name, digest in files))


def describe(folder: Path) -> Parcel:
    """The parcel of a folder. Raises: AdapterError if it isn't there."""
    if not folder.is_dir():
        raise AdapterError(f"there is no folder {folder}")
    folder = folder.resolve()
    found = sorted(set(_files(folder)))
    root = Path(os.path.commonpath([folder, *found]))
    return Parcel(
        root=str(root),
        entry=folder.relative_to(root).as_posix(),
        files=tuple((path.relative_to(root).as_posix(), file_digest(path)) for path in found),
    )


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read piece by piece."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class NodeStore:
    """A node's parcels: one folder each, named by digest, whole or not there at all."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, parcel: Parcel) -> Path | None:
        """Where the content lies on this node, every file's digest verified; None if nowhere."""
        for root in (Path(parcel.root), self._root / parcel.digest):
            if _holds(root, parcel):
                return root / parcel.entry
        return None

    def keep(self, parcel: Parcel, contents: Mapping[str, bytes]) -> Path:
        """Write a parcel's files, by name.

        Raises:
            BackendError: a file is missing or isn't what its digest says.
        """
        for name, digest in parcel.files:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise BackendError(f"a parcel names the file {name!r}, outside of itself")
            if hashlib.sha256(contents.get(name, b"")).hexdigest() != digest:
                raise BackendError(f"{name} did not arrive as it was sent: its digest differs")
        self._root.mkdir(parents=True, exist_ok=True)
        home = self._root / parcel.digest
        with tempfile.TemporaryDirectory(dir=self._root) as draft:
            for name, _ in parcel.files:
                path = Path(draft) / "parcel" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(contents[name])
            _replace(Path(draft), home)
        return home / parcel.entry


def _replace(draft: Path, home: Path) -> None:
    """Put a whole draft in place; a damaged one of before goes away with the draft."""
    if home.exists():
        home.rename(draft / "damaged")
    try:
        (draft / "parcel").rename(home)
    except OSError:
        if not home.is_dir():  # else another replica of this node was quicker
            raise


def _holds(root: Path, parcel: Parcel) -> bool:
    paths = [(root / name, digest) for name, digest in parcel.files]
    return all(path.is_file() for path, _ in paths) and all(
        file_digest(path) == digest for path, digest in paths
    )


def _files(folder: Path) -> Iterator[Path]:
    """A folder's own files, and those of the folders that its card or blend names."""
    for path in folder.iterdir():
        if path.is_file() and not path.name.startswith("."):
            yield path.resolve()
    card, blend = _json(folder / "card.json"), _json(folder / "blend.json")
    if isinstance(tokenizer := card.get("tokenizer"), str):
        for path in (folder / tokenizer).resolve().iterdir():
            if path.is_file() and path.suffix != ".safetensors":
                yield path
    for part in blend.get("parts", []):
        yield from _files((folder / part["path"]).resolve())


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # whoever reads the folder will say what is wrong with it
    return found if isinstance(found, dict) else {}
