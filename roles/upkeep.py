"""What a console or a writer changes: memories, saves, the director, adapters, feedback."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from protocol import administration as admin
from protocol import messages as wire
from protocol import play as game
from protocol import telemetry
from protocol.messages import Body
from roles.blends import serves
from roles.errors import LineError
from roles.house import House
from roles.memory import Memory
from roles.regard import in_words
from roles.shared import saves_of

log = logging.getLogger("biblioteca.roles")


async def memory(house: House, body: admin.MemoryRequest) -> admin.MemoryReply:
    """Look at, add, edit, pin or forget what a character remembers."""
    character, book = house.character(body.agent), house.play.memories
    if body.op == "list":
        attitudes, regard = character.spec.attitudes, character.part.regard
        relations = [
            admin.Relation(
                who=who,
                feeling=in_words(attitudes.get(who, ""), regard.get(who, 0.0)),
                strength=round(regard.get(who, 0.0), 3),
            )
            for who in dict.fromkeys([*attitudes, *regard])
        ]
        found = book.all(body.agent, body.query, body.limit)
        return admin.MemoryReply(memories=[_info(one) for one in found], relations=relations)
    if body.op in ("add", "edit") and body.text is None:
        raise LineError(f"memory {body.op} needs a text")
    if body.op == "add":
        now = house.play.now
        added = book.add(body.agent, body.text or "", kind="note", now=now, importance=0.8)
        return admin.MemoryReply(memories=[_info(added)])
    number = int(body.memory) if body.memory is not None and body.memory.isdigit() else -1
    match body.op:
        case "edit":
            changed = book.edit(body.agent, number, body.text or "")
        case "forget":
            changed = book.forget(body.agent, number)
        case _:
            changed = book.pin(body.agent, number, on=body.op == "pin")
    return admin.MemoryReply(memories=[_info(changed)])


async def lore(house: House, body: admin.LoreRequest) -> admin.LoreReply:
    """Facts; with an agent, only what it may know now."""
    play = house.play
    facts = list(house.world.facts.values())
    if body.agent is not None:
        scopes = house.world.scopes(body.agent, house.character(body.agent).part.place)
        facts = play.lore.known(scopes, play.director.happened)
    words = body.query.lower()
    infos = [
        admin.LoreInfo(fact=fact.id, text=fact.text, scopes=sorted(fact.know))
        for fact in facts
        if words in fact.text.lower() or words in fact.id
    ]
    return admin.LoreReply(facts=infos[: body.limit])


async def director(house: House, body: admin.DirectorRequest) -> admin.DirectorReply:
    """The director's work; hold it or let it go on."""
    chief = house.play.director
    if body.op != "timeline":
        chief.stage.held = body.op == "hold"
        chief.keep()
    stage, curve = chief.stage, house.world.spec.pacing.curve
    return admin.DirectorReply(
        held=stage.held,
        tension=stage.tension,
        wanted=chief.wanted,
        events_waiting=len(stage.waiting),
        curve=[[minute * 60, tension] for minute, tension in curve],
        items=[admin.TimelineItem.model_validate(item) for item in chief.timeline(body.limit)],
        state={
            "now": stage.now,
            "story": " ".join(stage.story),
            "threads": stage.threads,
            "happened": stage.happened,
            "waiting": stage.waiting,
        },
    )


async def save(house: House, body: game.SaveRequest) -> game.SavesReply:
    """Write everything into a slot."""
    digests = {
        name: adapter.digest
        for engine in house.engines
        for name, adapter in engine.adapters.items()
    }
    about = {"note": body.note, "now": house.play.now, "adapters": digests}
    return game.SavesReply(saves=[saves_of(house.store).save(house.store, body.slot, about)])


async def restore(house: House, body: game.RestoreRequest) -> game.SavesReply:
    """Go back to a slot; lines being spoken end as cancelled."""
    saves = saves_of(house.store)
    wanted = saves.about(body.slot).get("adapters", {})
    info = saves.restore(house.store, body.slot)
    await house.reopen()
    for blend in house.blends:
        await serves(house, house.engines["npc"], blend)
    have = {name: one.digest for engine in house.engines for name, one in engine.adapters.items()}
    changed = sorted(name for name, digest in wanted.items() if have.get(name) != digest)
    if changed:
        text = f"{body.slot} was saved with other weights of: {', '.join(changed)}"
        log.warning(text)
        house.publish("log", telemetry.Logged(level="warning", text=text))
    house.notify(wire.Notice(kind="restored", message=f"back to the save {body.slot!r}"))
    return game.SavesReply(saves=[info])


async def saves(house: House, body: game.SavesRequest) -> game.SavesReply:
    """List the slots."""
    return game.SavesReply(saves=saves_of(house.store).all())


async def feedback(house: House, body: game.FeedbackRequest) -> wire.Ok:
    """Keep a judgement of a line, with the prompt it answered, for training."""
    line = house.transcript.find(body.line, None)
    if body.verdict == "rewrite" and not body.text:
        raise LineError("a rewrite needs the better line in `text`")
    entry = {
        "agent": line.agent,
        "line": line.id,
        "verdict": body.verdict,
        "messages": [{"role": x.role, "content": x.text} for x in line.prompt],
        "reply": line.raw,
        "rewrite": body.text,
        "adapter": line.adapter.digest if line.adapter else "",
    }
    with (house.folder / "feedback.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    return wire.Ok()


def _info(one: Memory) -> admin.MemoryInfo:
    return admin.MemoryInfo(
        memory=str(one.id),
        kind=one.kind,
        text=one.text,
        now=one.now,
        importance=one.importance,
        participants=list(one.participants),
        pinned=one.pinned,
    )


ANSWERS: dict[str, Callable[[House, Any], Awaitable[Body]]] = {
    "memory": memory,
    "lore": lore,
    "director": director,
    "save": save,
    "restore": restore,
    "saves": saves,
    "feedback": feedback,
}
