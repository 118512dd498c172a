"""What a game or a console asks for besides lines: each request type and what answers it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import product
from typing import Any

from protocol import administration as admin
from protocol import messages as wire
from protocol import play as game
from protocol import telemetry
from protocol.messages import Body
from roles import console
from roles.errors import LineNotFoundError
from roles.house import House


async def read(house: House, body: game.ReadRequest) -> game.ReadReply:
    """A page of a book."""
    book = house.book(body.agent)
    page = book.read(body.reader, body.page)
    return game.ReadReply(
        agent=body.agent,
        title=book.book.title,
        page=page.number,
        pages=book.num_pages,
        text=page.text,
        bookmark=book.bookmark(body.reader),
    )


async def event(house: House, body: game.EventRequest) -> game.EventReply:
    """Something happened: the director hears of it, those present remember it."""
    play = house.play
    play.director.advance(body.now)
    with house.store.transaction():
        play.director.take_event(body.kind, body.text, body.importance, body.data)
        there = {npc for npc in body.who if npc in house.world.npcs}
        there.update(play.present(body.scene) if body.scene else ())
        play.witness(body.text, sorted(there), body.importance, body.who)
        known = house.world.spec.events.get(body.kind)
        if known is not None and known.regard:
            for npc, who in product(sorted(there), body.who):
                if npc != who:
                    play.feel(npc, who, known.regard)
    happened = telemetry.WorldEvent(
        kind=body.kind,
        text=body.text,
        scene=body.scene,
        importance=body.importance,
        now=play.now,
    )
    house.publish("world_event", happened)
    return game.EventReply(waiting=len(play.director.stage.waiting))


async def focus(house: House, body: game.FocusRequest) -> wire.Ok:
    """How much a character matters now."""
    character = house.character(body.agent)
    house.play.set_focus(character.id, body.level)
    house.publish("focus_changed", telemetry.FocusChanged(agent=body.agent, level=body.level))
    return wire.Ok()


async def scene(house: House, body: game.SceneRequest) -> wire.Ok:
    """Who is where."""
    present = [house.character(npc).id for npc in body.present]
    house.play.set_scene(body.scene, body.place, present)
    return wire.Ok()


async def hush(house: House, body: game.HushRequest) -> wire.Ok:
    """A scripted scene begins or ends."""
    house.play.hush(body.scene, on=body.on)
    if body.on:
        await house.silence(house.play.present(body.scene))
    return wire.Ok()


async def action_result(house: House, body: game.ActionResultRequest) -> wire.Ok:
    """What became of an action: only now it has happened, and is remembered."""
    offered = house.store.get(f"actions:{body.line}")
    if offered is None or body.index >= len(offered["calls"]):
        raise LineNotFoundError(f"line {body.line!r} wanted no action number {body.index}")
    call = offered["calls"][body.index]
    values = ", ".join(map(str, call["arguments"].values()))
    outcome = "done" if body.ok else "failed"
    text = body.text or f"I tried to {call['name']} {values}: {outcome}."
    house.play.memories.add(
        offered["agent"],
        text,
        kind="done",
        now=house.play.now,
        importance=0.6,
        participants=[offered["agent"]],
        line="",
    )
    return wire.Ok()


async def _agents(house: House, body: admin.AgentsRequest) -> admin.AgentsReply:
    return console.agents(house, body)


async def _inspect(house: House, body: admin.InspectRequest) -> admin.InspectReply:
    return console.inspect(house, body)


async def _lines(house: House, body: admin.LinesRequest) -> admin.LinesReply:
    return console.lines(house, body)


async def _stats(house: House, body: admin.StatsRequest) -> admin.StatsReply:
    return await console.stats(house)


ANSWERS: dict[str, Callable[[House, Any], Awaitable[Body]]] = {
    "read": read,
    "event": event,
    "focus": focus,
    "scene": scene,
    "hush": hush,
    "action_result": action_result,
    "agents": _agents,
    "inspect": _inspect,
    "lines": _lines,
    "stats": _stats,
}
