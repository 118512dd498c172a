"""What travels on the wire, as types: the session, and the lines that agents speak.

No logic here beyond what a field may hold. `play.py` has the rest of what a game sends,
`administration.py` what a console sends, `telemetry.py` what a server publishes, and
`catalogue.py` the table of all. Unknown fields are
ignored, and `null` is the same as an absent field, so newer peers can add fields.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

SPEC_VERSION = "1.0"
MAX_INTEGER = 2**53 - 1  # the largest whole number every language's default number holds
MAX_TEXT_CHARS = 8_000

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CONTROLS_AND_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

Tier = Literal["director", "npc", "book"]
Focus = Literal["spotlight", "near", "far", "offstage"]
Json = dict[str, Any]


def _without_controls(value: Any) -> Any:
    """Drop control characters other than line feed and tab; other types are left to pydantic."""
    if not isinstance(value, str):
        return value
    return _CONTROLS.sub("", value)


def _one_line(value: str) -> str:
    if _CONTROLS_AND_BREAKS.search(value):
        raise ValueError("must be one line without control characters")
    return value


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Label = Annotated[str, Field(max_length=64), AfterValidator(_one_line)]
Text = Annotated[
    str, BeforeValidator(_without_controls), Field(min_length=1, max_length=MAX_TEXT_CHARS)
]
Id = Annotated[str, Field(pattern=r"^[!-~]{1,64}$")]
Seed = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]


class Body(BaseModel):
    """Base of every message body: strict types, unknown fields ignored, never changed."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="ignore", defer_build=True, allow_inf_nan=False
    )


# --- the session -------------------------------------------------------------------------


class Limits(Body):
    """What the server accepts."""

    max_frame_bytes: Count = 1_048_576
    max_depth: Count = 16
    max_string_bytes: Count = 262_144
    max_items: Count = 4_096
    max_text_chars: Count = MAX_TEXT_CHARS
    max_requests: Count = Field(default=32, description="requests of one session running at once")


class HelloRequest(Body):
    """Opens a session, or takes one up again after a lost connection."""

    versions: list[int] = Field(default=[1], description="protocol versions the client speaks")
    client: Label = Field(default="", description="what the client is, such as 'mygame 1.2'")
    session: Id | None = Field(default=None, description="a session to join or resume")
    token: Id | None = Field(default=None, description="that session's secret, from its welcome")
    credit: Count | None = Field(
        default=None,
        description="deltas the server may send before more credit comes; absent: no limit",
    )
    resume_ms: Annotated[int, Field(ge=0, le=600_000)] = Field(
        default=0, description="how long requests run on after the connection is lost"
    )


class Welcome(Body):
    """The session is open."""

    version: int = Field(default=1, description="the protocol version both sides now speak")
    spec: str = Field(default=SPEC_VERSION, description="version of SPEC.md the server follows")
    session: Id
    token: Id
    role: Literal["player", "game", "admin"]
    server: str = Field(default="", description="such as 'biblioteca 0.1.0'")
    world: str = Field(default="", description="title of the world it hosts")
    resumed: bool = Field(default=False, description="an earlier session goes on")
    requests: list[str] = Field(default=[], description="request types this role may send")
    limits: Limits = Limits()
    liveness_ms: Count = Field(
        default=30_000, description="silence after which a session with open requests is dropped"
    )
    idle_ms: Count = Field(
        default=3_600_000, description="silence after which any session is dropped"
    )


class PingRequest(Body):
    """Asks whether the server is alive; also keeps the session alive."""


class Pong(Body):
    """The server is alive."""

    work_age_ms: Count = Field(
        default=0, description="since the work thread last ran; large: it hangs"
    )
    open_requests: Count = Field(default=0, description="requests of this session still running")


class ByeRequest(Body):
    """Ends the session; open requests are cancelled."""


class CancelRequest(Body):
    """Stops a request. Repeating it is harmless."""

    target: Id = Field(description="id of the request to stop")


class CancelReply(Body):
    """Says whether there was something to stop; the target ends in its own last message."""

    found: bool


class ResumeRequest(Body):
    """Asks again for a request's messages, after a reconnection."""

    target: Id = Field(description="id of the request")
    seq: Count = Field(default=0, description="first sequence number wanted")


class ResumeReply(Body):
    """The messages follow, under the target's id."""

    running: bool = Field(description="false: the last message is already among them")


class CreditNote(Body):
    """Grants the server more deltas; has no answer."""

    deltas: Annotated[int, Field(ge=1, le=1_000_000)]


class ErrorBody(Body):
    """Why a request ended without a result."""

    code: str
    message: str = Field(description="one sentence for a developer")
    retryable: bool = False
    retry_ms: Count | None = Field(default=None, description="when to try again")
    field: str | None = Field(default=None, description="the request's field at fault")


class Notice(Body):
    """Something every client should know; belongs to no request."""

    kind: Literal["draining", "engine", "reloaded", "restored"]
    message: str
    agent: str | None = None
    tier: Tier | None = None


class Ok(Body):
    """Done; there is nothing more to say."""


# --- lines: what agents say --------------------------------------------------------------


class ActionOffer(Body):
    """An action that is possible now; `arguments` narrows each argument to these values."""

    name: Name
    arguments: dict[str, list[str | int | float | bool]] = Field(default={})


class Sampling(Body):
    """How words are picked; absent fields take the agent's own settings."""

    seed: Seed | None = Field(
        default=None, description="same seed and state, same words; absent: random"
    )
    max_tokens: Annotated[int, Field(ge=1, le=4_096)] | None = None
    temperature: Annotated[float, Field(ge=0, le=5)] | None = Field(
        default=None, description="0: greedy"
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None


class LineRequest(Sampling):
    """Base of the requests that make an agent speak."""

    agent: Name
    text: Text
    speaker: Label = Field(default="player", description="who speaks to the agent")
    conversation: Label = Field(
        default="", description="empty: the speaker's one talk with the agent"
    )
    adapter: Name | None = Field(default=None, description="instead of the agent's own, this once")
    adapter_version: Count | None = Field(default=None, description="absent: the one in use")
    ephemeral: bool = Field(default=False, description="nobody remembers it: to try things out")
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = Field(
        default=0, description="alternatives kept per token, for inspect"
    )


class SayRequest(LineRequest):
    """Says something to a character."""

    scene: Label = Field(default="", description="where this happens; characters there hear it")
    tier: Tier | None = Field(default=None, description="overrides the manager's choice")
    focus: Focus | None = Field(default=None, description="overrides the agent's focus, this once")
    actions: list[ActionOffer] | None = Field(
        default=None, description="what it may do now; absent: all its world allows; empty: nothing"
    )


class AskRequest(LineRequest):
    """Asks a book a question."""


class TickRequest(Sampling):
    """Lets the director decide."""

    agent: Name | None = Field(default=None, description="absent: the world's only director")
    now: float | None = Field(default=None, description="game clock, in seconds")


class ConverseRequest(Sampling):
    """Says something to everyone in a scene; the server chooses who answers."""

    scene: Label
    text: Text
    speaker: Label = "player"
    aside_to: Name | None = Field(default=None, description="only this character hears it")
    max_lines: Annotated[int, Field(ge=1, le=16)] = 3


class AdapterUse(Body):
    """The weights that spoke."""

    name: str
    digest: str = ""
    version: int = 1


class Usage(Body):
    """What a line cost."""

    prompt_tokens: Count = 0
    cached_tokens: Count = Field(default=0, description="of the prompt, found in the cache")
    completion_tokens: Count = 0
    queue_ms: float = 0.0
    ttft_ms: float = Field(default=0.0, description="from the request's arrival to its first token")
    tokens_per_s: float = 0.0


class Accepted(Body):
    """The request will be answered; nothing has been said yet."""

    line: str = Field(description="the server's own id of this line: for inspect and feedback")
    agent: str
    tier: Tier
    adapter: AdapterUse | None = None


class Delta(Body):
    """The next piece of text."""

    text: str
    agent: str | None = Field(default=None, description="who speaks, where several may (converse)")
    emotion: str | None = Field(
        default=None, description="with a character's first piece: the mood the line begins in"
    )


class Passage(Body):
    """A piece of a book that an answer rests on."""

    book: str
    page: Count
    text: str


class ActionCall(Body):
    """What a character wants to do; it has not happened until the game says so."""

    name: str
    arguments: Json = Field(default={})


class LineReply(Body):
    """Base of what ends a line."""

    line: str
    agent: str
    tier: Tier
    text: str = Field(description="the whole line, as the deltas gave it")
    reason: Literal["stop", "length", "fallback"] = "stop"
    seed: Seed = 0
    adapter: AdapterUse | None = None
    usage: Usage = Usage()
    fallback: bool = Field(default=False, description="an authored line stood in for the model")
    cause: str = Field(default="", description="why it did, for the developer")


class Phrase(Body):
    """A phrase of a line's text, for subtitles, moving lips and speech synthesis."""

    start: Count = Field(description="where it begins in the text, in Unicode code points")
    end: Count = Field(description="where it ends, after its last mark")
    at_ms: float = Field(description="from the request's arrival until all of it had come")
    begin_ms: float = Field(description="when it would begin, were the line read out from 0")
    end_ms: float = Field(description="when it would end; a pause follows")


class SayReply(LineReply):
    """A character has spoken."""

    emotion: str = ""
    actions: list[ActionCall] = Field(default=[])
    phrases: list[Phrase] = Field(default=[], description="its timing, phrase by phrase")


class AskReply(LineReply):
    """A book has answered."""

    abstained: bool = Field(default=False, description="the book doesn't say")
    passages: list[Passage] = Field(default=[])


class TickReply(LineReply):
    """The director has decided; `directive` follows the world's schema."""

    directive: Json
    waited: bool = Field(default=False, description="the directive is to wait")


class ConverseReply(Body):
    """The scene has answered, in this order."""

    lines: list[SayReply]
