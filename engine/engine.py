"""The engine: requests in, one step at a time, events out. Start reading at `Engine.step`."""

from __future__ import annotations

import time
from collections.abc import Callable
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import torch

from engine.batch import make_step, soft_prompt_step
from engine.config import EngineConfig
from engine.errors import AdapterError, RequestError
from engine.loader import LoadedBase, load_base
from engine.picker import Picker
from engine.prefix_cache import PrefixCache, shared_length
from engine.requests import (
    AdapterInfo,
    Alternative,
    Delta,
    EngineStats,
    Event,
    FinishReason,
    GenerationRequest,
    Span,
)
from engine.scheduler import Scheduler
from engine.sequence import Sequence
from engine.store import AdapterStore
from engine.template import ChatTemplate
from engine.text import TextStream

WORTH_WAITING = 16  # shared tokens for which a line waits until another has computed them


def build_engine(config: EngineConfig) -> Engine:
    """An engine over one base. Raises: BaseModelError."""
    if config.threads:
        torch.set_num_threads(config.threads)
    base = load_base(config)
    return Engine(config, base, ChatTemplate(base.folder))


class Engine:
    """Continuous batching over one base: requests join and leave between steps.

    Args:
        clock: monotonic seconds; tests pass their own.
    """

    def __init__(
        self,
        config: EngineConfig,
        base: LoadedBase,
        template: ChatTemplate,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.base, self.template, self._clock = base, template, clock
        self._scheduler = Scheduler(config.prefill_tokens)
        self._prefixes = PrefixCache(config.cache_bytes)
        self._store = AdapterStore(base.bank, config.host_bytes)
        self._picker = Picker(base, template.tokenizer)
        self._live: dict[str, Sequence] = {}
        self._events: list[Event] = []
        self._counts = {"steps": 0, "prompt": 0, "cached": 0, "completion": 0}
        self._decode_rate = 0.0
        self._last_step = clock()

    # Requests

    def add_request(self, request: GenerationRequest) -> None:
        """Queue a request.

        Raises:
            RequestError: it is empty, too long, already live, or its constraint is unusable.
            AdapterError: its adapter is not loaded.
        """
        if request.request_id in self._live:
            raise RequestError(f"a request named {request.request_id!r} is already running")
        if request.adapter is None and not self.base.bank.optional:
            raise RequestError("the request names no adapter; here every request needs one")
        version = self._store.find(request.adapter) if request.adapter is not None else None
        if version is not None:
            self._store.is_ready(version)  # begins to read it beside the steps
        num_virtual = version.num_virtual if version else 0
        token_ids, spans = self._encode(request, num_virtual)
        params = request.sampling
        now = self._clock()
        deadline = None if request.deadline_ms is None else now + request.deadline_ms / 1000
        # A soft prompt's positions come first, as tokens that no vocabulary has.
        token_ids = [-1] * num_virtual + token_ids
        sequence = Sequence(
            request=request,
            token_ids=token_ids,
            num_prompt=len(token_ids),
            num_virtual=num_virtual,
            spans=tuple(spans),
            key=f"{self.base.digest}/{version.about.digest if version else ''}",
            version=version,
            stream=TextStream(self.template.tokenizer, params.stop),
            matcher=self._picker.compile(params.constraint) if params.constraint else None,
            biases=self._picker.biases(params),
            arrived=now,
            deadline=deadline,
        )
        self._live[request.request_id] = sequence
        self._scheduler.waiting.append(sequence)

    def cancel(self, request_id: str) -> bool:
        """Stop a request at the next step; False if it is not live."""
        if request_id not in self._live:
            return False
        self._live[request_id].cancelled = True
        return True

    def has_work(self) -> bool:
        """Whether any request is live."""
        return bool(self._live)

    # The step

    def step(self) -> list[Event]:
        """Advance every running request by a token, or a piece of its prompt."""
        self._drop_ended()
        self._admit()
        plan = self._scheduler.plan()
        if plan:
            self._compute(plan)
            self._counts["steps"] += 1
        elif self._live:
            self._store.wait(0.05)  # everybody waits for an adapter to be read
        self._last_step = self._clock()
        events, self._events = self._events, []
        return events

    def _drop_ended(self) -> None:
        now = self._clock()
        for sequence in list(self._live.values()):
            if sequence.cancelled:
                self._finish(sequence, "cancelled")
            elif sequence.deadline is not None and now > sequence.deadline:
                self._finish(sequence, "expired")

    def _admit(self) -> None:
        """Start waiting requests while rows and slots last, or while lesser ones make room."""
        for sequence in self._scheduler.candidates(self._is_ready):
            while sequence.row is None:
                try:
                    placed = self._take_places(sequence)
                except AdapterError as error:
                    self._finish(sequence, "error", str(error))
                    break
                if not placed:
                    lesser = self._scheduler.lesser(sequence)
                    if lesser is None:
                        return
                    self._pause(lesser)
            else:
                self._start(sequence)

    def _is_ready(self, sequence: Sequence) -> bool:
        if sequence.version is not None and not self._store.is_ready(sequence.version):
            return False
        return not self._is_being_computed(sequence)

    def _is_being_computed(self, sequence: Sequence) -> bool:
        """Whether a running line is about to compute much that this one could then reuse."""
        same = [other for other in self._scheduler.running if other.key == sequence.key]
        ahead = [
            other
            for other in same
            if other.num_pending > 1 and other.request.priority >= sequence.request.priority
        ]
        if not ahead:
            return False
        usable = sequence.token_ids[:-1]
        now = self._prefixes.match(sequence.key, usable)[1]
        now = max(now, *(shared_length(s.token_ids[: s.num_computed], usable) for s in same))
        later = max(shared_length(other.token_ids, usable) for other in ahead)
        return later - now >= WORTH_WAITING

    def _take_places(self, sequence: Sequence) -> bool:
        """Take a KV row and an adapter slot, or neither."""
        row = self.base.cache.allocate()
        if row is None:
            return False
        try:
            slot = self._store.acquire(sequence.version) if sequence.version else 0
        except AdapterError:
            self.base.cache.free(row)
            raise
        if slot is None:
            self.base.cache.free(row)
            return False
        sequence.row, sequence.slot = row, slot
        return True

    def _give_places_back(self, sequence: Sequence) -> None:
        """Keep what was computed, then free row and slot."""
        assert sequence.row is not None
        self._keep_prefix(sequence)
        self.base.cache.free(sequence.row)
        sequence.row = None
        if sequence.version is not None:
            self._store.release(sequence.version)

    def _pause(self, sequence: Sequence) -> None:
        """Let a running request wait; it goes on from its kept prefix."""
        self._give_places_back(sequence)
        self._scheduler.pause(sequence)

    def _start(self, sequence: Sequence) -> None:
        cached = self._reuse_prefix(sequence)
        self._scheduler.start(sequence)
        self._picker.start(sequence)
        if sequence.started is not None:
            return  # it had been paused
        sequence.started, sequence.num_cached = self._clock(), cached
        self._counts["prompt"] += sequence.num_prompt
        self._counts["cached"] += cached
        self._events.append(sequence.begun(self.base.digest))

    def _reuse_prefix(self, sequence: Sequence) -> int:
        """Copy what was already computed, from a kept prefix or a running row: how many tokens."""
        assert sequence.row is not None
        usable = sequence.token_ids[:-1]  # the last token must run, to give logits
        saved, length = self._prefixes.match(sequence.key, usable)
        donor = None
        for other in self._scheduler.running:
            if other.key == sequence.key:
                shared = shared_length(other.token_ids[: other.num_computed], usable)
                if shared > length:
                    donor, length = other, shared
        if donor is not None:
            assert donor.row is not None
            self.base.cache.copy(donor.row, sequence.row, length)
        elif saved is not None:
            self.base.cache.restore(sequence.row, saved, length)
        elif sequence.num_virtual:
            length = sequence.num_virtual
            self._place_soft(sequence)
        sequence.num_computed = length
        return length - sequence.num_virtual

    def _place_soft(self, sequence: Sequence) -> None:
        """Put a soft prompt's keys and values into a row; a prompt's are computed there."""
        assert sequence.row is not None
        assert sequence.version is not None
        content: Any = sequence.version.content
        length, row, device = sequence.num_virtual, sequence.row, self.base.device
        if content.prefix is not None:
            self.base.cache.restore(row, content.prefix, length)
            return
        self.base.decoder.forward(soft_prompt_step(content.prompt, row, sequence.slot, device))

    @torch.inference_mode()
    def _compute(self, plan: list[tuple[Sequence, int]]) -> None:
        """One forward pass, one sampler call, then each sequence's share of the outcome."""
        began = self._clock()
        # By slot, so that single tokens meet the adapter stacks in order.
        plan.sort(key=lambda item: (item[1] > 1, item[0].slot, item[0].row))
        asking = [s for s, length in plan if length == s.num_pending]
        self._picker.prepare(asking)
        logits = self.base.decoder.forward(
            make_step(plan, self.base.device, skip_zero=self.base.bank.optional)
        )
        for sequence, length in plan:
            sequence.num_computed += length
        if not asking:
            return
        tokens, alternatives = self._picker.pick(asking, logits)
        for row, (sequence, token) in enumerate(zip(asking, tokens, strict=True)):
            self._accept(sequence, token, alternatives.get(row, ()))
        self._counts["completion"] += len(asking)
        rate = len(asking) / max(self._clock() - began, 1e-9)
        self._decode_rate += 0.1 * (rate - self._decode_rate)

    def _accept(
        self, sequence: Sequence, token: int, alternatives: tuple[Alternative, ...]
    ) -> None:
        """Add a sampled token to its sequence; send what text is certain; end it when done."""
        params = sequence.request.sampling
        if sequence.first_token is None:
            sequence.first_token = self._clock()
        sequence.token_ids.append(token)
        self._picker.note(sequence, token)
        if token in self.base.eos_ids and not params.ignore_eos:
            self._finish(sequence, "stop")
            return
        if sequence.matcher is not None:
            sequence.matcher.consume_token(token)
        sequence.delta_ids.append(token)
        text = sequence.stream.push(token)
        if text or alternatives:
            self._send(sequence, text, alternatives)
        if sequence.stream.stopped or (
            sequence.matcher is not None and sequence.matcher.is_stopped()
        ):
            self._finish(sequence, "stop")
        elif (
            sequence.num_generated >= params.max_tokens
            or len(sequence.token_ids) >= self.base.cache.length
        ):
            self._finish(sequence, "length")

    def _send(self, sequence: Sequence, text: str, alternatives: tuple[Alternative, ...]) -> None:
        token_ids, sequence.delta_ids = tuple(sequence.delta_ids), []
        self._events.append(
            Delta(
                request_id=sequence.request.request_id,
                text=text,
                token_ids=token_ids,
                top_logprobs=(alternatives,) if alternatives else (),
            )
        )

    def _finish(self, sequence: Sequence, reason: FinishReason, error: str | None = None) -> None:
        """End a request and give back everything it holds."""
        if reason in ("stop", "length") and not sequence.stream.stopped:
            text = sequence.stream.flush()
            if text or sequence.delta_ids:
                self._send(sequence, text, ())
        if sequence.row is not None:
            self._give_places_back(sequence)
            self._scheduler.running.remove(sequence)
        else:
            self._scheduler.waiting.remove(sequence)
        del self._live[sequence.request.request_id]
        self._events.append(sequence.finished(reason, self._clock(), error))

    def _keep_prefix(self, sequence: Sequence) -> None:
        assert sequence.row is not None
        length = sequence.num_computed
        token_ids = sequence.token_ids[:length]
        if self._prefixes.wants(sequence.key, token_ids, length * self.base.cache.token_bytes):
            self._prefixes.keep(sequence.key, token_ids, self.base.cache.save(sequence.row, length))

    # Parts of a step

    def _encode(self, request: GenerationRequest, num_virtual: int) -> tuple[list[int], list[Span]]:
        if isinstance(request.prompt, str):
            token_ids = self.template.encode_text(request.prompt)
            spans = [Span(kind="raw", start=0, end=len(token_ids))]
        else:
            token_ids, spans = self.template.encode(request.prompt)
        if not token_ids:
            raise RequestError("the prompt is empty; send at least one token")
        if len(token_ids) + num_virtual >= self.base.cache.length:
            raise RequestError(
                f"the prompt has {len(token_ids)} tokens; the context holds "
                f"{self.base.cache.length} with the reply"
            )
        return token_ids, spans

    # Adapters

    def read_adapter(self, path: str) -> Any:
        """Read an adapter and check that it fits. Raises: AdapterError."""
        return self.base.bank.read(Path(path))

    def install_adapter(self, name: str, adapter: Any, pinned: bool) -> AdapterInfo:
        """Serve a read adapter under a name."""
        return self._store.put(name, adapter, pinned)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter. Raises: AdapterError for an unknown name."""
        self._store.remove(name)

    def adapters(self) -> list[AdapterInfo]:
        """Every adapter known."""
        return self._store.infos()

    def stats(self) -> EngineStats:
        """Counters since start and gauges of this moment."""
        return EngineStats(
            num_waiting=len(self._scheduler.waiting),
            num_running=len(self._scheduler.running),
            num_steps=self._counts["steps"],
            num_prompt_tokens=self._counts["prompt"],
            num_cached_tokens=self._counts["cached"],
            num_completion_tokens=self._counts["completion"],
            kv_slots_used=self.base.cache.num_used,
            kv_slots_total=self.base.cache.num_rows,
            adapter_hits=self._store.hits,
            adapter_misses=self._store.misses,
            adapter_evictions=self._store.evictions,
            decode_tokens_per_s=self._decode_rate,
            memory_bytes=resident_bytes(),
            last_step_age_s=self._clock() - self._last_step,
        )


def resident_bytes() -> int:
    """Memory this process holds now; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGESIZE
    except OSError:
        return 0
