"""What can be looked at: agents, lines, what a model was shown, counters. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from engine.requests import Delta
from protocol import administration as admin
from protocol import messages as wire
from roles.engines import Engine
from roles.house import House
from roles.line import Line
from roles.world import DIRECTOR


def agents(house: House, body: admin.AgentsRequest) -> admin.AgentsReply:
    """Who is hosted, and how each fares. Raises: AgentError if `after` is nobody."""
    names = list(house.world.agents)
    if body.after is not None:
        house.tier(body.after)
        del names[: names.index(body.after) + 1]
    infos = [agent_info(house, agent) for agent in names[: body.limit]]
    return admin.AgentsReply(world=house.world.spec.title, agents=infos)


def agent_info(house: House, agent: str) -> admin.AgentInfo:
    """One agent."""
    tier, engine = house.tier(agent), house.engine_of(agent)
    name, about = _title(house, agent)
    last = house.transcript.last(agent)
    usage = last.usage if last is not None else wire.Usage()
    error = (
        engine.refused.get(agent, engine.error)
        if engine is not None
        else f"this world has no [tiers.{tier}] table"
    )
    state: admin.State = engine.state if engine is not None else "failed"
    if engine is not None and state == "ready":
        unfit = agent in engine.refused
        state = "failed" if unfit else "ready" if engine.prepared.is_set() else "starting"
    return admin.AgentInfo(
        agent=agent,
        name=name,
        tier=tier,
        about=about,
        state=state,
        adapter=engine.use(agent) if engine is not None and agent in engine.adapters else None,
        focus=house.play.cast[agent].focus()[0] if tier == "npc" else None,
        running=max(house.transcript.running[agent], 0),
        lines=house.transcript.spoken[agent],
        tokens_per_s=usage.tokens_per_s or None,
        ttft_ms=usage.ttft_ms or None,
        cached_share=usage.cached_tokens / usage.prompt_tokens if usage.prompt_tokens else None,
        last_line=last.id if last is not None else None,
        last_text=last.text if last is not None else "",
        last_error=error or (last.cause if last is not None else ""),
    )


def lines(house: House, body: admin.LinesRequest) -> admin.LinesReply:
    """Lines spoken, newest first."""
    found = house.transcript.newest(body.agent, body.before, body.limit)
    return admin.LinesReply(lines=[line.info() for line in found])


def inspect(house: House, body: admin.InspectRequest) -> admin.InspectReply:
    """Everything that made a line. Raises: LineError if it is not kept."""
    if body.agent is not None:
        house.tier(body.agent)
    line = house.transcript.find(body.line, body.agent)
    engine = house.engines.get(line.tier)
    started, finished = line.started, line.finished
    token_ids = list(started.prompt_token_ids) if started else []
    texts = engine.counter.texts(token_ids) if engine is not None else []
    return admin.InspectReply.model_validate(
        {
            **line.info().model_dump(),
            "segments": list(_segments(line, texts)),
            "token_ids": token_ids,
            "token_texts": texts,
            "context_tokens": line.context_tokens,
            "output": line.raw,
            "completion": list(_completion(line, engine)),
            "sampler": _sampler(line),
            "base_digest": started.base_digest if started else "",
            "prefill_ms": _prefill_ms(line),
            "decode_ms": finished.usage.decode_s * 1000 if finished else 0.0,
            "routing": line.routing,
        }
    )


async def stats(house: House) -> admin.StatsReply:
    """Counters of every engine."""
    infos = [await _engine_info(house, engine) for engine in house.engines]
    memory = {f"{info.tier} engine": info.memory_bytes for info in infos}
    return admin.StatsReply(engines=infos, memory=memory)


async def _engine_info(house: House, engine: Engine) -> admin.EngineInfo:
    counters = await engine.stats()
    ttfts = sorted(
        line.usage.ttft_ms
        for line in house.transcript.newest(None, None, 200)
        if line.tier == engine.tier and line.finished is not None
    )
    info = admin.EngineInfo(
        tier=engine.tier,
        state=engine.state,
        base=engine.table.base,
        restarts=engine.restarts,
        ttft_p50_ms=ttfts[len(ttfts) // 2] if ttfts else None,
        ttft_p95_ms=ttfts[len(ttfts) * 95 // 100] if ttfts else None,
        pid=getattr(engine.backend, "pid", None) or 0,
        error=engine.error,
    )
    if counters is None:
        return info
    return info.model_copy(
        update={
            "last_step_age_ms": counters.last_step_age_s * 1000,
            "waiting": counters.num_waiting,
            "running": counters.num_running,
            "prompt_tokens": counters.num_prompt_tokens,
            "cached_tokens": counters.num_cached_tokens,
            "completion_tokens": counters.num_completion_tokens,
            "tokens_per_s": counters.decode_tokens_per_s,
            "kv_slots_used": counters.kv_slots_used,
            "kv_slots_total": counters.kv_slots_total,
            "adapter_hits": counters.adapter_hits,
            "adapter_misses": counters.adapter_misses,
            "adapter_evictions": counters.adapter_evictions,
            "memory_bytes": counters.memory_bytes,
        }
    )


def _title(house: House, agent: str) -> tuple[str, str]:
    """Name and role, title and author."""
    if agent == DIRECTOR:
        return "Director", house.world.spec.premise
    if agent in house.world.npcs:
        npc = house.world.npcs[agent]
        return npc.name, npc.role
    book = house.world.books[agent]
    return book.title, book.author


def _segments(line: Line, texts: list[str]) -> Iterator[admin.PromptSegment]:
    """The prompt's pieces, with the role of the message each stands in."""
    roles = [
        (segment.kind, message.role) for message in line.prompt for segment in message.segments
    ]
    for span in line.started.spans if line.started else ():
        role = ""
        if span.kind != "template" and roles:
            role = roles.pop(0)[1]
        yield admin.PromptSegment(
            kind=span.kind,
            role=role,
            text="".join(texts[span.start : span.end]),
            start=span.start,
            end=span.end,
        )


def _completion(line: Line, engine: Engine | None) -> Iterator[admin.CompletionToken]:
    for delta in line.deltas:
        yield from _tokens(delta, engine)


def _tokens(delta: Delta, engine: Engine | None) -> Iterator[admin.CompletionToken]:
    texts = engine.counter.texts(delta.token_ids) if engine is not None else []
    for i, token_id in enumerate(delta.token_ids):
        weighed = delta.top_logprobs[i] if i < len(delta.top_logprobs) else ()
        chosen = next((one.logprob for one in weighed if one.token_id == token_id), None)
        yield admin.CompletionToken(
            token_id=token_id,
            text=texts[i] if texts else "",
            logprob=chosen,
            alternatives=[
                admin.TokenAlternative(token_id=one.token_id, text=one.text, logprob=one.logprob)
                for one in weighed
            ],
        )


def _sampler(line: Line) -> dict[str, object]:
    params = line.sampling
    return {
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_k": params.top_k,
        "top_p": params.top_p,
        "repetition_penalty": params.repetition_penalty,
        "no_repeat_ngram_size": params.no_repeat_ngram_size,
        "seed": params.seed,
        "constraint": params.constraint.kind if params.constraint else None,
    }


def _prefill_ms(line: Line) -> float:
    if line.finished is None:
        return 0.0
    used = line.finished.usage
    return max(used.time_to_first_token_s - used.queue_s, 0.0) * 1000
