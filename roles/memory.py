"""What each character remembers: only what it heard or saw itself.

A memory has the game time it was made, an importance from 0 to 1, and who was part of it.
Recall ranks by words shared with what is being said (BM25 in SQLite's FTS5), weighed by
importance and age; where there is a sentence encoder, by likeness of meaning too. Its vectors lie
in SQLite and are compared here, since many Pythons' SQLite can't load extensions. Nothing is ever
deleted: what is forgotten is only left out.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from books.retrieval import content_words
from roles.errors import MemoryNotFoundError
from roles.store import Store

_HALF_LIFE_S = 4 * 3600.0  # of game time, in which an unimportant memory loses half its weight
_LIKE = 0.25  # cosine from which two sentences are taken to be about the same
_MOST_COMPARED = 4000  # the newest memories
_COLUMNS = "id, agent, kind, text, now, importance, participants, line, pinned"


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """One thing a character knows because it was there.

    Attributes:
        kind: heard, seen, done, summary or note (written by hand).
        now: game clock when it was made, in seconds.
        line: the line it comes from, or "".
    """

    id: int
    agent: str
    kind: str
    text: str
    now: float
    importance: float
    participants: tuple[str, ...]
    line: str
    pinned: bool


@dataclass(frozen=True, slots=True)
class Meaning:
    """A sentence's vector (float32, length 1), and the digest of the model that made it."""

    model: str
    vector: bytes


class MemoryBook:
    """The memories of everyone in a world."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(
        self,
        agent: str,
        text: str,
        *,
        kind: str,
        now: float,
        importance: float = 0.3,
        participants: Sequence[str] = (),
        line: str = "",
    ) -> Memory:
        """Remember something."""
        with self._store.transaction() as database:
            cursor = database.execute(
                "INSERT INTO memories(agent, kind, text, now, importance, participants, line) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (agent, kind, text, now, importance, json.dumps(list(participants)), line),
            )
        return self.get(agent, cursor.lastrowid or 0)

    def get(self, agent: str, memory_id: int) -> Memory:
        """One memory. Raises: MemoryNotFoundError."""
        row = self._store.database.execute(
            f"SELECT {_COLUMNS} FROM memories WHERE id=? AND agent=?", (memory_id, agent)
        ).fetchone()
        if row is None:
            raise MemoryNotFoundError(f"{agent} has no memory {memory_id}")
        return _memory(row)

    def recall(
        self,
        agent: str,
        said: str,
        *,
        now: float,
        limit: int,
        without_lines: Collection[str] = (),
        meaning: Meaning | None = None,
    ) -> list[Memory]:
        """What comes to mind when something is said, best first.

        Pinned memories always do. Memories of `without_lines` are left out: those lines are
        still in the conversation, word for word. With the meaning of what is said, memories
        are found by it as well.
        """
        weighed = [(1e9, memory) for memory in self.all(agent) if memory.pinned]
        matches = self._matches(agent, said)
        if meaning is not None:
            matches = _hybrid(matches, self._alike(agent, meaning))
        for memory, match in matches:
            age = 0.5 ** (max(now - memory.now, 0.0) / _HALF_LIFE_S)
            weight = match * (0.5 + memory.importance) * (0.5 + 0.5 * max(age, memory.importance))
            if not memory.pinned and memory.line not in without_lines:
                weighed.append((weight, memory))
        weighed.sort(key=lambda pair: (-pair[0], -pair[1].id))
        return [memory for _, memory in weighed[:limit]]

    def without_vector(self, agent: str, model: str, limit: int) -> dict[int, str]:
        """A character's newest memories that have no vector of this model: text by id."""
        rows = self._store.database.execute(
            "SELECT id, text FROM memories WHERE agent=? AND forgotten=0 AND NOT EXISTS "
            "(SELECT 1 FROM vectors WHERE memory=memories.id AND model=?) "
            "ORDER BY id DESC LIMIT ?",
            (agent, model, limit),
        )
        return dict(rows.fetchall())

    def keep_vectors(self, model: str, texts: Mapping[int, str], vectors: Sequence[bytes]) -> None:
        """Write what a model made of some memories (text by id), unless they have changed."""
        rows = [
            (model, vector, memory, text)
            for (memory, text), vector in zip(texts.items(), vectors, strict=True)
        ]
        with self._store.transaction() as database:
            database.executemany(
                "INSERT OR REPLACE INTO vectors SELECT id, ?, ? FROM memories "
                "WHERE id=? AND text=?",
                rows,
            )

    def _alike(self, agent: str, meaning: Meaning) -> list[tuple[Memory, float]]:
        """Memories that mean something like it, with the cosine (from _LIKE to 1)."""
        rows = self._store.database.execute(
            f"SELECT {', '.join('m.' + c for c in _COLUMNS.split(', '))}, vector "
            "FROM memories m JOIN vectors ON vectors.memory = m.id "
            "WHERE m.agent=? AND m.forgotten=0 AND model=? ORDER BY m.id DESC LIMIT ?",
            (agent, meaning.model, _MOST_COMPARED),
        ).fetchall()
        if not rows:
            return []
        import numpy as np  # only a world with an encoder pays for it

        vectors = np.frombuffer(b"".join(row[-1] for row in rows), "<f4").reshape(len(rows), -1)
        cosines = vectors @ np.frombuffer(meaning.vector, "<f4")
        return [
            (_memory(rows[i][:-1]), float(cosines[i])) for i in np.flatnonzero(cosines >= _LIKE)
        ]

    def all(self, agent: str, query: str = "", limit: int = 1000) -> list[Memory]:
        """A character's memories, newest first, or those that share words with a query."""
        if query:
            return [memory for memory, _ in self._matches(agent, query)][:limit]
        rows = self._store.database.execute(
            f"SELECT {_COLUMNS} FROM memories WHERE agent=? AND forgotten=0 "
            "ORDER BY id DESC LIMIT ?",
            (agent, limit),
        )
        return [_memory(row) for row in rows]

    def latest(self, agent: str, kind: str, participant: str) -> Memory | None:
        """The newest memory of a kind that somebody was part of."""
        row = self._store.database.execute(
            f"SELECT {_COLUMNS} FROM memories WHERE agent=? AND kind=? AND forgotten=0 AND EXISTS "
            "(SELECT 1 FROM json_each(participants) WHERE value=?) ORDER BY id DESC LIMIT 1",
            (agent, kind, participant),
        ).fetchone()
        return None if row is None else _memory(row)

    def overheard(self, agent: str, after_line: str, limit: int) -> list[Memory]:
        """What it heard others say since a line of its own, oldest first."""
        rows = self._store.database.execute(
            f"SELECT {_COLUMNS} FROM memories WHERE agent=? AND kind='heard' AND forgotten=0 "
            "AND CAST(substr(line, 2) AS INTEGER) > ? AND NOT EXISTS "
            "(SELECT 1 FROM json_each(participants) WHERE value=?) ORDER BY id DESC LIMIT ?",
            (agent, int(after_line[1:] or 0), agent, limit),
        ).fetchall()
        return [_memory(row) for row in reversed(rows)]

    def edit(self, agent: str, memory_id: int, text: str) -> Memory:
        """Change a memory's words."""
        return self._update(agent, memory_id, "text", text)

    def pin(self, agent: str, memory_id: int, *, on: bool) -> Memory:
        """Have a memory come to mind always, or no longer."""
        return self._update(agent, memory_id, "pinned", int(on))

    def forget(self, agent: str, memory_id: int) -> Memory:
        """Leave a memory out from now on; it stays in the store."""
        return self._update(agent, memory_id, "forgotten", 1)

    def _update(self, agent: str, memory_id: int, column: str, value: object) -> Memory:
        self.get(agent, memory_id)
        with self._store.transaction() as database:
            database.execute(f"UPDATE memories SET {column}=? WHERE id=?", (value, memory_id))
        return self.get(agent, memory_id)

    def _matches(self, agent: str, words: str) -> list[tuple[Memory, float]]:
        """Memories that share words, with BM25 (larger is better)."""
        terms = content_words(words)
        if not terms:
            return []
        query = " OR ".join(f'"{term}"' for term in terms)
        rows = self._store.database.execute(
            f"SELECT {', '.join('m.' + c for c in _COLUMNS.split(', '))}, -bm25(memory_words) "
            "FROM memory_words JOIN memories m ON m.id = memory_words.rowid "
            "WHERE memory_words MATCH ? AND m.agent=? AND m.forgotten=0 "
            "ORDER BY bm25(memory_words), m.id DESC LIMIT 50",
            (query, agent),
        )
        return [(_memory(row[:-1]), row[-1]) for row in rows]


def _hybrid(
    by_words: Sequence[tuple[Memory, float]], by_meaning: Sequence[tuple[Memory, float]]
) -> list[tuple[Memory, float]]:
    """Both rankings as one: BM25 as a share of the best, plus the cosine.

    (A convex combination; Bruch, Gai and Ingber 2023 find it better than fusing ranks.)
    """
    best = max((match for _, match in by_words), default=0.0) or 1.0
    scores: dict[Memory, float] = {memory: match / best for memory, match in by_words}
    for memory, cosine in by_meaning:
        scores[memory] = scores.get(memory, 0.0) + cosine
    return list(scores.items())


def heard(speaker: str, said: str) -> tuple[str, float]:
    """A memory of what somebody said, and how much it matters.

    Statements about oneself, names and numbers matter more than questions.
    """
    importance = 0.2 if said.rstrip().endswith("?") else 0.4
    words = said.split()
    importance += 0.2 * any(word[:1].isupper() for word in words[1:])
    importance += 0.1 * any(ch.isdigit() for ch in said)
    marks = {"my", "remember", "promise", "secret", "never", "name"}
    importance += 0.2 * any(word.strip(".,!?'").lower() in marks for word in words)
    return f"{speaker} said: {said}", min(importance, 1.0)


def _memory(row: Sequence[object]) -> Memory:
    fields = dict(zip(_COLUMNS.split(", "), row, strict=True))
    fields["participants"] = tuple(json.loads(str(fields["participants"])))
    fields["pinned"] = bool(fields["pinned"])
    return Memory(**fields)  # type: ignore[arg-type]  # columns are the fields, by construction
