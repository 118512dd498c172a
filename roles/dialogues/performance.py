"""One script played once: each turn becomes a request, each answer an observation."""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

from pydantic import ValidationError

from protocol import administration as admin
from protocol import messages as wire
from protocol import play as game
from protocol.errors import Code, Refusal
from protocol.messages import Body
from roles.dialogues.observation import Observation, Origin, Spoken
from roles.dialogues.script import (
    AskTurn,
    ConverseTurn,
    EventTurn,
    Line,
    ReadTurn,
    RestoreTurn,
    ResultTurn,
    SaveTurn,
    SayTurn,
    SceneTurn,
    Script,
    TickTurn,
    Turn,
    addressee,
)
from roles.dialogues.stage import Stage, asked
from roles.world import World

SCENE = "stage"
Checked = TypeVar("Checked", bound=Body)


def seed_of(seed: int, index: int) -> int:
    """The seed of a script's turn, from the run's: 48 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{index}".encode()).digest()[:6])


class Performance:
    """A script on its stage."""

    def __init__(
        self, script: Script, world: World, stage: Stage, seed: int, top_logprobs: int = 0
    ) -> None:
        self.script, self._world, self._stage = script, world, stage
        self._seed, self._top_logprobs = seed, top_logprobs
        self._present, self._place = list(script.scene.present), script.scene.place
        self._acted = ""  # the last line that took an action
        self._opened = False

    async def play(self, index: int, turn: Turn) -> Observation:
        """Play one turn; a refused one is an observation too."""
        try:
            if not self._opened:
                await self._open()
            return await self._play(index, turn)
        except Refusal as refusal:
            said = getattr(turn, "say", getattr(turn, "ask", ""))
            refused = (refusal.code, refusal.message)
            return Observation(kind=type(turn).__name__, said=said, refused=refused)

    async def close(self) -> None:
        """Leave the stage empty."""
        await self._stage.request("rehearse", admin.RehearseRequest(op="close"))

    async def _open(self) -> None:
        scene = self.script.scene
        memories = [
            admin.PlantedMemory(
                agent=agent,
                text=memory.text,
                now=memory.now,
                importance=memory.importance,
                participants=list(memory.participants),
                pinned=memory.pinned,
            )
            for agent, planted in scene.memories.items()
            for memory in planted
        ]
        request = admin.RehearseRequest(
            seed=self._seed,
            now=scene.now,
            happened=list(scene.happened),
            memories=memories,
            state=scene.state,
            deadline_ms=scene.deadline_ms,
        )
        await self._stage.request("rehearse", request)
        await self._set_scene()
        self._opened = True

    async def _set_scene(self) -> None:
        if self._present:
            body = game.SceneRequest(
                scene=SCENE, place=self._place or "", present=list(self._present)
            )
            await self._stage.request("scene", body)

    @property
    def _scene(self) -> str:
        return SCENE if self._present else ""

    async def _play(self, index: int, turn: Turn) -> Observation:
        match turn:
            case SayTurn():
                return await self._say(index, turn)
            case AskTurn():
                return await self._ask(index, turn)
            case TickTurn():
                return await self._tick(index, turn)
            case ConverseTurn():
                return await self._converse(index, turn)
            case EventTurn():
                return await self._event(turn)
            case ReadTurn():
                return await self._read(turn)
            case SceneTurn(present=present, place=place):
                self._present, self._place = list(present), place or self._place
                await self._set_scene()
                return Observation(kind="present")
            case ResultTurn(result=text, ok=ok, index=number):
                result = game.ActionResultRequest(line=self._acted, index=number, ok=ok, text=text)
                await self._stage.request("action_result", result)
                return Observation(kind="result")
            case SaveTurn(save=slot):
                await self._stage.request("save", game.SaveRequest(slot=slot))
                return Observation(kind="save")
            case RestoreTurn(restore=slot):
                await self._stage.request("restore", game.RestoreRequest(slot=slot))
                return Observation(kind="restore")
        raise AssertionError(f"a turn of no kind: {turn!r}")

    def _sampling(self, index: int, turn: Line) -> dict[str, Any]:
        seed = seed_of(self._seed, index) if turn.seed is None else turn.seed
        asked_for = {"temperature": turn.temperature, "max_tokens": turn.max_tokens}
        return {"seed": seed, **asked_for}

    async def _say(self, index: int, turn: SayTurn) -> Observation:
        agent = addressee(self.script, turn) or ""
        offered = None
        if turn.actions is not None:
            offered = [
                wire.ActionOffer(name=one.action, arguments=one.with_) for one in turn.actions
            ]
        body = _checked(
            wire.SayRequest,
            agent=agent,
            text=turn.say,
            speaker=turn.speaker,
            conversation=turn.conversation,
            scene=self._scene if turn.in_scene else "",
            focus=turn.focus,
            actions=offered,
            top_logprobs=self._top_logprobs,
            **self._sampling(index, turn),
        )
        reply = await asked(self._stage, "say", body, wire.SayReply)
        line = await self._spoken(reply)
        names = tuple(self._world.spec.actions)
        if turn.actions is not None:
            names = tuple(one.action for one in turn.actions)
        return Observation(kind="say", said=turn.say, lines=(line,), offered=names)

    async def _ask(self, index: int, turn: AskTurn) -> Observation:
        body = _checked(
            wire.AskRequest,
            agent=turn.to,
            text=turn.ask,
            speaker=turn.speaker,
            top_logprobs=self._top_logprobs,
            **self._sampling(index, turn),
        )
        reply = await asked(self._stage, "ask", body, wire.AskReply)
        return Observation(kind="ask", said=turn.ask, lines=(await self._spoken(reply),))

    async def _tick(self, index: int, turn: TickTurn) -> Observation:
        body = _checked(wire.TickRequest, now=turn.tick, **self._sampling(index, turn))
        reply = await asked(self._stage, "tick", body, wire.TickReply)
        return Observation(kind="tick", lines=(await self._spoken(reply),))

    async def _converse(self, index: int, turn: ConverseTurn) -> Observation:
        body = _checked(
            wire.ConverseRequest,
            scene=SCENE,
            text=turn.converse,
            speaker=turn.speaker,
            aside_to=turn.aside_to,
            max_lines=turn.max_lines,
            **self._sampling(index, turn),
        )
        reply = await asked(self._stage, "converse", body, wire.ConverseReply)
        lines = [await self._spoken(line) for line in reply.lines]
        names = tuple(self._world.spec.actions)
        return Observation(kind="converse", said=turn.converse, lines=tuple(lines), offered=names)

    async def _event(self, turn: EventTurn) -> Observation:
        known = self._world.spec.events.get(turn.event)
        text = turn.text or (known.text.format_map(_Blanks(turn.with_)) if known else turn.event)
        importance = turn.importance
        if importance is None:
            importance = known.importance if known else 0.5
        body = _checked(
            game.EventRequest,
            kind=turn.event,
            text=text,
            scene=self._scene if turn.in_scene else "",
            who=list(turn.who),
            importance=importance,
            now=turn.now,
            data=turn.data,
        )
        reply = await asked(self._stage, "event", body, game.EventReply)
        return Observation(kind="event", said=text, waiting=reply.waiting)

    async def _read(self, turn: ReadTurn) -> Observation:
        body = _checked(game.ReadRequest, agent=turn.read, page=turn.page, reader=turn.speaker)
        reply = await asked(self._stage, "read", body, game.ReadReply)
        return Observation(kind="read", page=reply.page, page_text=reply.text)

    async def _spoken(self, reply: wire.LineReply) -> Spoken:
        inspected = await self._inspect(reply.line)
        actions: tuple[tuple[str, dict[str, Any]], ...] = ()
        if isinstance(reply, wire.SayReply):
            actions = tuple((call.name, dict(call.arguments)) for call in reply.actions)
        if actions:
            self._acted = reply.line
        return Spoken(
            agent=reply.agent,
            text=reply.text,
            raw=inspected.output,
            emotion=reply.emotion if isinstance(reply, wire.SayReply) else "",
            actions=actions,
            reason=reply.reason,
            seed=reply.seed,
            fallback=reply.fallback,
            cause=reply.cause,
            abstained=isinstance(reply, wire.AskReply) and reply.abstained,
            pages=_pages(reply),
            directive=reply.directive if isinstance(reply, wire.TickReply) else None,
            adapter_name=reply.adapter.name if reply.adapter else "",
            ttft_ms=reply.usage.ttft_ms,
            prompt_tokens=reply.usage.prompt_tokens,
            completion_tokens=reply.usage.completion_tokens,
            logprobs=tuple(t.logprob for t in inspected.completion if t.logprob is not None),
            origin=origin_of(reply, inspected),
        )

    async def _inspect(self, line: str) -> admin.InspectReply:
        body = admin.InspectRequest(line=line)
        return await asked(self._stage, "inspect", body, admin.InspectReply)


class _Blanks(dict[str, str]):
    """Leaves a name in braces that nothing fills."""

    def __missing__(self, key: str) -> str:
        return f"{{{key}}}"


def origin_of(reply: wire.LineReply, inspected: admin.InspectReply) -> Origin:
    """What made a line, from its reply and what the server kept of it."""
    segments = [(one.kind, one.text) for one in inspected.segments if one.kind != "template"]
    return Origin(
        adapter=reply.adapter.digest if reply.adapter else "",
        base=inspected.base_digest,
        sampler=dict(inspected.sampler),
        segments=tuple(segments),
        routing=tuple(inspected.routing),
    )


def _pages(reply: wire.LineReply) -> tuple[int, ...]:
    passages = reply.passages if isinstance(reply, wire.AskReply) else []
    return tuple(dict.fromkeys(passage.page for passage in passages))


def _checked(model: type[Checked], **fields: Any) -> Checked:
    """A request as the wire would check it: what a server refuses is refused here too.

    Raises:
        Refusal: bad_request, as a server answers.
    """
    try:
        return model.model_validate({k: v for k, v in fields.items() if v is not None})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        message = f"{field}: {first['msg']}"
        raise Refusal(Code.BAD_REQUEST, message, field=field) from None
