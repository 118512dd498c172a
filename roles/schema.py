"""What stands in a world's TOML files: one model per file, one per table in it.

Keys unknown here are mistakes. `examples` are shown to the writer when a key is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import jsonschema
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", examples=["a_lower_case_name"])]
Words = Annotated[str, Field(min_length=1, pattern=r"\S")]
Tension = Annotated[float, Field(ge=0, le=10, examples=["a number from 0 to 10"])]
Regard = Annotated[float, Field(ge=-1, le=1, examples=["a number from -1 to 1"])]
Quantization = Literal["auto", "none", "bf16", "nf4", "int8"]

# What a writer may put for an argument instead of a JSON Schema; filled in from the world.
KINDS = ("npc", "book", "place", "emotion", "event", "text", "integer", "boolean")


class Table(BaseModel):
    """A table of a world file: frozen, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Sampling(Table):
    """How words are picked; what is left out comes from the tier, then from these defaults."""

    temperature: float | None = Field(default=None, ge=0, le=2, examples=["temperature = 0.7"])
    top_k: int | None = Field(default=None, ge=0, examples=["top_k = 40"])
    top_p: float | None = Field(default=None, gt=0, le=1, examples=["top_p = 0.95"])
    no_repeat_ngram_size: int | None = Field(
        default=None, ge=0, le=32, examples=["no_repeat_ngram_size = 6"]
    )
    repetition_penalty: float | None = Field(
        default=None, gt=0, le=2, examples=["repetition_penalty = 1.1"]
    )
    max_tokens: int | None = Field(default=None, ge=1, le=4096, examples=["max_tokens = 80"])

    def over(self, base: Sampling) -> Sampling:
        """These settings, with what they leave out taken from `base`."""
        return base.model_copy(update=self.model_dump(exclude_none=True))


class Server(Table):
    """Somebody else's server for a tier (`backend = "openai"`), see docs/cluster.md.

    Attributes:
        url: up to and with the version.
        model: what it calls the base; adapters go by their characters' ids.
        dialect: whose words it knows beyond OpenAI's: "openai" (none), "vllm", "llama.cpp", "tgi".
        key_env: environment variable that holds its key.
    """

    url: Words = Field(pattern=r"^https?://", examples=['url = "http://127.0.0.1:8000/v1"'])
    model: Words = Field(examples=['model = "npc-base"'])
    dialect: Literal["openai", "vllm", "llama.cpp", "tgi"] = "openai"
    key_env: str = ""


class Replicas(Table):
    """A tier on a Ray cluster (`backend = "ray"`), see docs/cluster.md.

    Attributes:
        address: of the cluster's head; "auto" is the one this machine belongs to.
        least, most: how many replicas; between them their number follows the load.
        cpus, gpus: what one takes; gpus may be a fraction. By default its threads, and none.
        memory_mb: memory set aside for one on its node; 0 leaves it out of account.
        waiting: requests that may wait at each; more are told "busy".
        store: folder on each node for what is sent there.
    """

    address: Words = "auto"
    least: int = Field(default=1, ge=1, examples=["least = 1"])
    most: int = Field(default=1, ge=1, examples=["most = 4"])
    cpus: float | None = Field(default=None, ge=0, examples=["cpus = 2"])
    gpus: float = Field(default=0.0, ge=0, examples=["gpus = 0.5"])
    memory_mb: int = Field(default=0, ge=0, examples=["memory_mb = 4096"])
    waiting: int = Field(default=16, ge=0, examples=["waiting = 16"])
    store: Words = "~/.cache/biblioteca/cluster"

    @model_validator(mode="after")
    def _in_order(self) -> Replicas:
        if self.most < self.least:
            raise ValueError(f"most is {self.most}, less than least ({self.least})")
        return self


class Tier(Table):
    """One engine: a model, and what it may use of the player's machine.

    Attributes:
        base: folder inside the world, absolute folder, or hub id (`org/name`); for books the
            folder whose subfolders are the students.
        adapter: PEFT folder for every line of this tier (director); characters have their own.
        quantization: "none" is fp32; "auto" is int8 on a CPU and bf16 on a GPU.
        nf4_rounded: the adapter was trained over nf4 weights; serve what it was trained on.
        backend: where it runs: a process of its own, this process, a cluster, somebody's server.
        threads: CPU threads of its process.
        slots: adapters (for books: students) in memory, ready to run.
        context: longest prompt with its reply, in tokens.
        memory_mb: bytes for cached conversations, in MiB.
        deadline_ms: how long a player may wait for the first word before a fallback line.
    """

    base: Words = Field(examples=['base = "models/npc-base"'])
    adapter: str | None = Field(default=None, examples=['adapter = "models/adapters/director"'])
    quantization: Quantization = Field(default="auto", examples=['quantization = "int8"'])
    nf4_rounded: bool = False
    backend: Literal["subprocess", "inline", "ray", "openai"] = "subprocess"
    replicas: Replicas = Replicas()
    server: Server | None = None
    threads: int = Field(default=2, ge=1, le=256, examples=["threads = 2"])
    slots: int = Field(default=8, ge=1, le=4096, examples=["slots = 8"])
    max_rank: int = Field(default=16, ge=1, le=1024, examples=["max_rank = 16"])
    context: int = Field(default=1024, ge=128, examples=["context = 1024"])
    memory_mb: int = Field(default=256, ge=1, examples=["memory_mb = 256"])
    deadline_ms: int = Field(default=8000, ge=1, examples=["deadline_ms = 8000"])
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _server_is_told(self) -> Tier:
        if (self.backend == "openai") != (self.server is not None):
            raise ValueError('backend = "openai" and a `server` table (url, model) go together')
        return self


class Tiers(Table):
    """The three models of a world."""

    director: Tier = Field(examples=["a [tiers.director] table with base = ..."])
    npc: Tier = Field(examples=["a [tiers.npc] table with base = ..."])
    book: Tier | None = None


class Call(Table):
    """An action or a directive: what it is for and what must be told with it.

    `arguments` maps a name to a kind ("npc", "book", "place", "emotion", "event", "text",
    "integer", "boolean") or to a JSON Schema; all are required, in the order written.
    """

    description: Words = Field(examples=['description = "Hand something over"'])
    arguments: dict[Name, str | dict[str, Any]] = Field(
        default_factory=dict, examples=['arguments = { item = "text" }']
    )
    goal: str = Field(default="", examples=['goal = "Hint at {about}."'])
    tension: Annotated[float, Field(ge=-10, le=10)] = 0.0

    @field_validator("arguments")
    @classmethod
    def _known_kinds(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for name, kind in arguments.items():
            if isinstance(kind, str) and kind not in KINDS:
                choices = ", ".join(KINDS)
                raise ValueError(f"{name!r} is {kind!r}; use a JSON Schema or one of: {choices}")
            if isinstance(kind, dict):
                _check_schema(name, kind)
        return arguments


class EventKind(Table):
    """An event the game may report by name.

    Attributes:
        text: what happened; `{name}` is filled from the event's data.
        tension: added to the story's tension.
        importance: 0 to 1; from 0.7 on it lifts those who saw it one level of focus.
        regard: how those who saw it think of others who have part in it from then on, -1 to 1
            worse or better.
    """

    text: Words = Field(examples=['text = "The lamp goes out in {place}."'])
    tension: Annotated[float, Field(ge=-10, le=10, examples=["tension = 2"])] = 0.0
    importance: Annotated[float, Field(ge=0, le=1, examples=["importance = 0.5"])] = 0.3
    regard: Regard = 0.0


class Pacing(Table):
    """The story's tension: where it starts, how it fades, where the author wants it.

    Attributes:
        start: tension at minute 0.
        calm_per_minute: how much fades away per minute of game time.
        curve: [minute, tension] pairs in order; between them the line is straight.
    """

    start: Tension = 2.0
    calm_per_minute: Annotated[float, Field(ge=0, le=10)] = 0.2
    curve: tuple[tuple[Annotated[float, Field(ge=0)], Tension], ...] = Field(
        default=((0.0, 2.0), (30.0, 7.0), (60.0, 3.0)),
        examples=["curve = [[0, 2], [30, 7], [60, 3]]"],
    )

    @field_validator("curve")
    @classmethod
    def _in_order(cls, curve: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
        minutes = [minute for minute, _ in curve]
        if not minutes or minutes != sorted(set(minutes)):
            raise ValueError(f"minutes are {minutes}; write at least one pair, minutes rising")
        return curve

    def wanted(self, minute: float) -> float:
        """Where the author wants the tension at a minute of game time, 0 to 10."""
        points = list(self.curve)
        if minute <= points[0][0]:
            return points[0][1]
        for (m0, t0), (m1, t1) in pairwise(points):
            if minute <= m1:
                return t0 + (t1 - t0) * (minute - m0) / (m1 - m0)
        return points[-1][1]


class TextTable(Table):
    """How lines reach the game.

    Attributes:
        font: what it can show: "any", "latin" (up to Latin Extended-A) or "ascii".
        pieces: lines stream as they come ("words") or sentence by sentence, for speech synthesis.
        letters_per_s: how fast lines would be read out, for the timing of their phrases; 12.5
            are about 150 words a minute.
    """

    letters_per_s: float = Field(default=12.5, gt=0, examples=["letters_per_s = 12.5"])
    font: Literal["any", "latin", "ascii"] = "any"
    pieces: Literal["words", "sentences"] = "words"


class MemoryTable(Table):
    """How characters remember.

    Attributes:
        encoder: folder of a sentence encoder (all-MiniLM-L6-v2, say), inside the world or
            absolute; memories are then found by meaning as well as by words.
    """

    encoder: Words | None = Field(default=None, examples=['encoder = "models/minilm"'])


class GateTable(Table):
    """What an adapter must reach to be promoted; each limit is of the figure it names.

    Attributes:
        max_perplexity_ratio: perplexity on held-out lines, over the bare base's.
        max_forgetting: perplexity on general dialogue above the base's, as a share.
        max_broken: share of replies that loop or break off.
        min_distinct_2: share of different pairs of words among all that the replies hold.
        min_lore_agreement: share of facts in the prompt that reach the reply.
        min_recognised: share of talks whose replies the judge gives to the right character.
        min_sensible: share of the director's hand-written situations answered as accepted.
    """

    max_perplexity_ratio: float = Field(default=0.9, examples=["max_perplexity_ratio = 0.75"])
    max_forgetting: float = Field(default=0.2, examples=["max_forgetting = 0.05"])
    max_broken: float = Field(default=0.2, examples=["max_broken = 0.2"])
    min_distinct_2: float = Field(default=0.0, examples=["min_distinct_2 = 0.5"])
    min_lore_agreement: float = Field(default=0.0, examples=["min_lore_agreement = 0.8"])
    min_recognised: float = Field(default=0.0, examples=["min_recognised = 0.85"])
    min_sensible: float = Field(default=0.0, examples=["min_sensible = 0.85"])


class WorldFile(Table):
    """`world.toml`: title, premise, tiers, and what can be felt, done, directed and happen."""

    title: Words = Field(examples=['title = "La Biblioteca Eterna"'])
    premise: Words = Field(examples=['premise = "A library that never closes."'])
    player: Words = Field("Traveller", examples=['player = "Traveller"'])
    language: Words = "en"
    seed: int = Field(default=1, examples=["seed = 1"])
    emotions: tuple[Name, ...] = Field(min_length=1, examples=['emotions = ["calm", "afraid"]'])
    places: dict[Name, Words] = Field(
        min_length=1, examples=['a [places] table with reading_room = "the reading room"']
    )
    tiers: Tiers = Field(examples=["[tiers.director] and [tiers.npc] tables"])
    actions: dict[Name, Call] = Field(default_factory=dict)
    directives: dict[Name, Call] = Field(default_factory=dict)
    events: dict[Name, EventKind] = Field(default_factory=dict)
    regard: dict[Name, Regard] = Field(default_factory=dict)
    pacing: Pacing = Pacing()
    text: TextTable = TextTable()
    memory: MemoryTable = MemoryTable()
    gate: GateTable = GateTable()

    @model_validator(mode="after")
    def _wait_is_ours(self) -> WorldFile:
        if "wait" in self.directives:
            raise ValueError("directives.wait is built in; remove the table")
        return self


class NpcFile(Table):
    """`npcs/NAME.toml`: one character; the file's name is its id.

    Attributes:
        role: what follows "You are NAME, " in its prompt.
        persona: one or two sentences, second person, never changing.
        place: where it is when the game starts; `places` are where else it may be.
        scopes: factions and secrets it belongs to; lore names them in `know`.
        attitudes: of other characters or "player", in a few words.
        adapter: PEFT folder; left out, `models/adapters/ID` where that exists.
        fallback: spare lines by mood, `any` for every other mood.
    """

    name: Words = Field(examples=['name = "Ottavia"'])
    role: Words = Field(examples=['role = "the night librarian"'])
    persona: Words = Field(examples=['persona = "You speak softly and count things."'])
    place: Name = Field(examples=['place = "reading_room"'])
    places: tuple[Name, ...] = ()
    scopes: tuple[Name, ...] = ()
    attitudes: dict[Name, Words] = Field(default_factory=dict)
    adapter: str | None = Field(default=None, examples=['adapter = "models/adapters/ottavia"'])
    greeting: Words = Field(examples=['greeting = "Good evening."'])
    mood: Name = "calm"
    fallback: dict[Name, tuple[Words, ...]] = Field(
        examples=['a [fallback] table with any = ["One line.", "Another line."]']
    )
    sampling: Sampling = Sampling()

    @field_validator("fallback")
    @classmethod
    def _two_for_any(cls, fallback: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        if len(set(fallback.get("any", ()))) < 2:
            raise ValueError(
                "has fewer than two different lines for `any`; "
                'add any = ["One line.", "Another line."] so that none comes twice in a row'
            )
        return fallback


class BookFile(Table):
    """The front matter of `books/NAME.md`; the file's name is its id.

    Attributes:
        spine: one line, as on the spine.
        abstain: sentences in the book's voice for what its pages don't tell.
        student: folder of its own model; left out, `ID` in the book tier's base.
        adapter: for a special book: a PEFT folder on the npc base instead of a student.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    title: Words = Field(examples=["title: The Salt Almanac"])
    author: Words = Field(examples=["author: Ines Quarto"])
    spine: str = ""
    place: Name | None = None
    abstain: tuple[Words, ...] = Field(
        min_length=1, examples=["abstain: [My pages are silent on that.]"]
    )
    student: str | None = None
    adapter: str | None = None


def _check_schema(name: str, schema: dict[str, Any]) -> None:
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ValueError(
            f"argument {name!r} is not a JSON Schema ({error.message}); "
            'write for example { type = "string" }'
        ) from None
