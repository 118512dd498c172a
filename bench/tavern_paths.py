"""The paths that bench/tavern.py compares: each takes a plan and returns a clock."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import torch

from bench.tavern import Clock, Plan, new_clock


def run_ours(plan: Plan, path: str) -> Clock:
    """Our engine, all characters in one batch; turns continue conversations."""
    from engine.config import EngineConfig
    from engine.engine import build_engine

    engine = build_engine(
        EngineConfig(
            base=plan.base,
            quantization="none" if "fp32" in path else "int8",
            compiled="torch" not in path,
            threads=plan.threads,
            adapter_slots=plan.npcs,
            max_rows=plan.npcs,
        )
    )
    adapters = "base only" not in path
    for number, adapter in enumerate(plan.adapters if adapters else ()):
        engine.install_adapter(f"npc{number}", engine.read_adapter(adapter), True)
    _say(engine, {"warm/up": ([5] * 8, None)}, new_clock(), 4)
    clock = new_clock()
    history = {npc: plan.prompt(npc) for npc in range(plan.npcs)}
    for turn in range(plan.turns):
        lines = {
            f"{npc}/{turn}": (tokens, f"npc{npc}" if adapters else None)
            for npc, tokens in history.items()
        }
        said = _say(engine, lines, clock, plan.new_tokens, plan.arrivals_per_s)
        for npc in history:
            more = plan.words("line", npc, turn + 1, count=plan.line_tokens)
            history[npc] = history[npc] + said[f"{npc}/{turn}"] + more
    return clock


def _say(
    engine: Any,
    lines: dict[str, tuple[list[int], str | None]],
    clock: Clock,
    new_tokens: int,
    arrivals_per_s: float = 0.0,
) -> dict[str, list[int]]:
    """Ask for lines (all at once, or as a Poisson stream) and step until they are spoken."""
    from engine.requests import Delta, GenerationRequest, SamplingParams

    chance, due, waiting = random.Random(0), 0.0, []
    for line, (tokens, adapter) in lines.items():
        due += chance.expovariate(arrivals_per_s) if arrivals_per_s else 0.0
        sampling = SamplingParams(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
        text = " ".join(f"w{token}" for token in tokens)
        request = GenerationRequest(
            request_id=line, prompt=text, adapter=adapter, sampling=sampling
        )
        waiting.append((due, request))
    began = time.perf_counter()
    said: dict[str, list[int]] = {line: [] for line in lines}
    while waiting or engine.has_work():
        now = time.perf_counter()
        while waiting and waiting[0][0] <= now - began:
            _, request = waiting.pop(0)
            clock.asked[request.request_id] = now
            engine.add_request(request)
        events = engine.step()
        now = time.perf_counter()
        for event in events:
            if isinstance(event, Delta):
                clock.tokens.setdefault(event.request_id, []).extend([now] * len(event.token_ids))
                said[event.request_id] += event.token_ids
    return said


class _Ticker:
    """A streamer for transformers' generate that notes when each step's tokens come."""

    def __init__(self, clock: Clock, lines: list[str]) -> None:
        self._clock, self._lines, self._prompted = clock, lines, False

    def put(self, value: torch.Tensor) -> None:
        """Called with the prompt first, then once per step."""
        if self._prompted:
            for line in self._lines:
                self._clock.tokens.setdefault(line, []).append(time.perf_counter())
        self._prompted = True

    def end(self) -> None:
        """Nothing to do."""


def _load_peft(plan: Plan) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(plan.threads)
    model = AutoModelForCausalLM.from_pretrained(plan.base, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(model, plan.adapters[0], adapter_name="npc0")
    for number, adapter in enumerate(plan.adapters[1:], start=1):
        adapted.load_adapter(adapter, f"npc{number}")
    return adapted.eval()


def run_peft(plan: Plan, path: str) -> Clock:
    """PEFT: `set_adapter` and one line after another, or one batch with `adapter_names`."""
    model = _load_peft(plan)
    clock = new_clock()
    together = "adapter_names" in path
    groups = [list(range(plan.npcs))] if together else [[npc] for npc in range(plan.npcs)]
    for turn in range(plan.turns):
        for group in groups:
            for npc in group:
                # All are asked at once, whoever's turn comes first.
                clock.asked[f"{npc}/{turn}"] = clock.began
            lines = [f"{npc}/{turn}" for npc in group]
            ids = torch.tensor([plan.prompt(npc) for npc in group])
            names: dict[str, Any] = {}
            if together:
                names["adapter_names"] = [f"npc{npc}" for npc in group]
            else:
                model.set_adapter(f"npc{group[0]}")
            with torch.inference_mode():
                model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    min_new_tokens=plan.new_tokens,
                    max_new_tokens=plan.new_tokens,
                    streamer=_Ticker(clock, lines),
                    **names,
                )
    return clock


def run_transformers(plan: Plan, path: str) -> Clock:
    """transformers' continuous batching, which has no adapters: a reference for its own loop."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    torch.set_num_threads(plan.threads)
    model = AutoModelForCausalLM.from_pretrained(
        plan.base, dtype=torch.float32, attn_implementation="paged|sdpa"
    ).eval()
    config = GenerationConfig(
        max_new_tokens=plan.new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    clock = new_clock()
    prompts = [plan.prompt(npc) for npc in range(plan.npcs)]
    outputs = model.generate_batch(inputs=prompts, generation_config=config, progress_bar=False)
    ended = time.perf_counter()
    assert len(outputs) == plan.npcs
    for npc in range(plan.npcs):
        # It tells no times: tokens are spread evenly, so only the whole run's rate means much.
        step = (ended - clock.began) / plan.new_tokens
        clock.asked[f"{npc}/0"] = clock.began
        clock.tokens[f"{npc}/0"] = [clock.began + step * (n + 1) for n in range(plan.new_tokens)]
    return clock


RUNNERS: dict[str, Callable[[Plan, str], Clock]] = {
    "ours": run_ours,
    "peft": run_peft,
    "transformers": run_transformers,
}
