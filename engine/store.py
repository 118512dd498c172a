"""Adapters on three levels: on disk, read into host memory, resident in a slot.

Reading happens in a thread beside the step; only writing into a slot happens between steps.
A name can be given a new version while rows run on the old one: they finish on it.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from engine.errors import AdapterError, EngineError
from engine.requests import AdapterInfo


class Stored(Protocol):
    """What a store keeps: read from disk, written to slots by whoever owns them."""

    @property
    def path(self) -> Path:
        """Where it was read from."""

    @property
    def digest(self) -> str:
        """SHA-256 of its content."""

    @property
    def rank(self) -> int:
        """Largest LoRA rank, 0 if it has none."""

    @property
    def size_bytes(self) -> int:
        """Host memory it takes."""

    @property
    def num_virtual(self) -> int:
        """Positions it takes ahead of the words; such a content needs no slot."""


class Bank(Protocol):
    """Slots of stacked weights that a store fills: LoRA factors, or whole students.

    Attributes:
        num_slots: slots, numbered from 1.
        optional: whether a request may name no adapter; it then runs in slot 0.
    """

    num_slots: int
    optional: bool

    def read(self, path: Path) -> Stored:
        """Read a folder and check that it fits; called in a thread. Raises: AdapterError."""

    def write(self, slot: int, content: Any) -> None:
        """Put what `read` returned into a slot, in place; called between steps."""


@dataclass(eq=False, slots=True, kw_only=True)
class Version:
    """One content under a name; superseded once the name has a newer one.

    Attributes:
        about: as it was when it was put; where it is now, the other fields tell.
    """

    about: AdapterInfo
    content: Stored | None
    num_virtual: int
    slot: int | None = None
    num_running: int = 0
    last_used: int = 0
    superseded: bool = False
    reading: Future[Stored] | None = None

    @property
    def is_soft(self) -> bool:
        """Whether it is a soft prompt alone, which takes no slot."""
        return self.num_virtual > 0 and not self.about.rank

    @property
    def info(self) -> AdapterInfo:
        """What it is and where."""
        resident = self.slot is not None
        return replace(self.about, resident=resident, num_running=self.num_running)


class AdapterStore:
    """Names, versions, and which of them hold a slot (numbered from 1).

    Args:
        host_bytes: host memory for contents that hold no slot.
    """

    def __init__(self, bank: Bank, host_bytes: int) -> None:
        self._bank, self._host_bytes = bank, host_bytes
        self._slots: dict[int, Version | None] = dict.fromkeys(range(1, bank.num_slots + 1))
        self._names: dict[str, Version] = {}
        self._clock = 0
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="adapter-prefetch")
        self.hits = self.misses = self.evictions = 0

    def put(self, name: str, content: Stored, pinned: bool) -> AdapterInfo:
        """Serve a content under a name; an older version ends with its last row."""
        old = self._names.get(name)
        if old is not None and old.about.digest == content.digest:
            old.about = replace(old.about, pinned=pinned, path=str(content.path))
            return old.info
        about = AdapterInfo(
            name=name,
            digest=content.digest,
            path=str(content.path),
            resident=False,
            pinned=pinned,
            rank=content.rank,
            size_bytes=content.size_bytes,
            version=old.about.version + 1 if old else 1,
        )
        version = Version(about=about, content=content, num_virtual=content.num_virtual)
        self._names[name] = version
        if old is not None:
            self._supersede(old)
        if pinned and not version.is_soft:
            self._place(version)
        self._trim()
        return version.info

    def remove(self, name: str) -> None:
        """Forget a name. Raises: AdapterError if it is unknown."""
        self._supersede(self.find(name))
        del self._names[name]

    def find(self, name: str) -> Version:
        """The newest version of a name. Raises: AdapterError if it is unknown."""
        if name not in self._names:
            known = ", ".join(sorted(self._names)[:8]) or "none"
            raise AdapterError(f"no adapter named {name!r} is loaded; loaded are: {known}")
        return self._names[name]

    def is_ready(self, version: Version) -> bool:
        """Whether a version can be acquired without reading the disk; begins to read it if not."""
        if version.content is not None or version.slot is not None:
            return True
        if version.reading is None:
            version.reading = self._reader.submit(self._bank.read, Path(version.about.path))
        return version.reading.done()

    def acquire(self, version: Version) -> int | None:
        """Hold a version in a slot for one more row: its slot, or None while all are in use.

        The version must be ready.

        Raises:
            AdapterError: it had to be read again and its files are gone or changed.
        """
        self._clock += 1
        version.last_used = self._clock
        if version.is_soft:  # it works through cached keys and values: slot 0 adds nothing
            version.num_running += 1
            return 0
        if version.slot is not None:
            self.hits += 1
        else:
            self._finish_reading(version)
            if not self._place(version):
                return None
            self.misses += 1
            self._trim()
        version.num_running += 1
        return version.slot

    def release(self, version: Version) -> None:
        """One row less; a superseded version leaves its slot with its last row."""
        version.num_running -= 1
        assert version.num_running >= 0, f"{version.about.name} was released twice"
        if version.superseded and version.num_running == 0:
            self._vacate(version)

    def wait(self, timeout_s: float) -> None:
        """Sleep until a read under way ends, or the time is up."""
        wait([v.reading for v in self._names.values() if v.reading is not None], timeout_s)

    def infos(self) -> list[AdapterInfo]:
        """Every name's newest version."""
        return [self._names[name].info for name in sorted(self._names)]

    def _finish_reading(self, version: Version) -> None:
        """Take over what was read again; it must be what it was."""
        if version.content is not None:
            return
        assert version.reading is not None, f"{version.about.name} was acquired before it was ready"
        reading, version.reading = version.reading, None
        try:
            content = reading.result()
        except EngineError as error:
            name = version.about.name
            raise AdapterError(f"adapter {name!r} can't be read again: {error}") from error
        if content.digest != version.about.digest:
            raise AdapterError(
                f"adapter {version.about.name!r} changed on disk at {version.about.path}; "
                "load it again"
            )
        version.content = content

    def _place(self, version: Version) -> bool:
        """Write a version into a free slot, or that of the least recently used idle one."""
        slot = next((number for number, held in self._slots.items() if held is None), None)
        if slot is None:
            idle = [
                v for v in self._slots.values() if v and not v.num_running and not v.about.pinned
            ]
            if not idle:
                return False
            oldest = min(idle, key=lambda v: v.last_used)
            slot = oldest.slot
            assert slot is not None
            self._vacate(oldest)
            self.evictions += 1
        assert version.content is not None
        self._bank.write(slot, version.content)
        self._slots[slot], version.slot = version, slot
        return True

    def _supersede(self, version: Version) -> None:
        version.superseded = True
        if version.num_running == 0:
            self._vacate(version)

    def _vacate(self, version: Version) -> None:
        if version.slot is not None:
            self._slots[version.slot], version.slot = None, None

    def _trim(self) -> None:
        """Let contents go that hold no slot, least recently used first, to fit host memory."""
        spare = [v for v in self._names.values() if v.slot is None and v.content]
        # Soft prompts are small, and in use while they hold no slot.
        spare = [v for v in spare if not v.about.pinned and not v.num_virtual]
        total = sum(version.about.size_bytes for version in spare)
        for version in sorted(spare, key=lambda v: v.last_used):
            if total <= self._host_bytes:
                return
            version.content = None
            total -= version.about.size_bytes
