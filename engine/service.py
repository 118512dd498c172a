"""Runs one core (an engine, or a shelf of books) in a thread: commands in, reports out.

The same service stands in this process (InlineBackend) and in a worker (engine/worker.py).
Between requests it sleeps on its queue; nothing polls.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, Literal, NamedTuple, Protocol

from engine import errors
from engine.config import EngineConfig
from engine.requests import AdapterInfo, EngineStats, Event, Finished, GenerationRequest, Usage


class Core(Protocol):
    """What a service drives. Only `read_adapter` is called from another thread."""

    def add_request(self, request: GenerationRequest) -> None:
        """Queue a request. Raises: EngineError if it can't be run as asked."""

    def cancel(self, request_id: str) -> bool:
        """Stop a request at the next step; False if it is not live."""

    def has_work(self) -> bool:
        """Whether `step` has anything to do."""

    def step(self) -> list[Event]:
        """Advance every running request by a token or a piece of its prompt."""

    def read_adapter(self, path: str) -> Any:
        """Read and check an adapter on disk. Raises: AdapterError."""

    def install_adapter(self, name: str, adapter: Any, pinned: bool) -> AdapterInfo:
        """Make what `read_adapter` returned usable under a name, replacing an older version."""

    def unload_adapter(self, name: str) -> None:
        """Forget a name; rows that use it finish first."""

    def adapters(self) -> list[AdapterInfo]:
        """Every adapter known."""

    def stats(self) -> EngineStats:
        """Counters and gauges."""


# Building a core and reading its first adapter import much of torch, transformers and peft, whose
# circular imports fail when several threads of one process are in the midst of them.
_IMPORTING = threading.Lock()
Operation = Literal["submit", "cancel", "load", "unload", "adapters", "stats", "close"]


class Command(NamedTuple):
    """What a backend asks; `call` numbers the ones that want a reply (0: none)."""

    call: int
    operation: Operation
    arguments: Sequence[Any] = ()


class Report(NamedTuple):
    """What a service tells: ready, an event, a call's reply or failure, or its own end.

    Attributes:
        kind: "failed" carries (error class name, sentence); "fatal" the same, for the core.
    """

    kind: Literal["ready", "event", "reply", "failed", "fatal"]
    call: int
    value: Any


def build_core(factory: str, config: EngineConfig) -> Core:
    """Call a factory written as "package.module:function" with the configuration."""
    module, _, function = factory.partition(":")
    core: Core = getattr(import_module(module), function)(config)
    return core


def failure(error: Exception) -> tuple[str, str]:
    """An error as it crosses a process border: its class in our tree, and its sentence."""
    known = isinstance(error, errors.EngineError)
    return (
        type(error).__name__ if known else "EngineError",
        str(error) if known else repr(error),
    )


def revive(kind: str, sentence: str) -> errors.EngineError:
    """The other end of `failure`."""
    found = getattr(errors, kind, errors.EngineError)
    error: errors.EngineError = found(sentence)
    return error


class Service:
    """A thread that builds a core and runs it until closed.

    Args:
        emit: takes the reports of a step together, from this thread or the reader's.
    """

    def __init__(
        self, factory: str, config: EngineConfig, emit: Callable[[Sequence[Report]], None]
    ) -> None:
        self._factory, self._config, self._emit = factory, config, emit
        self._commands: queue.SimpleQueue[Command | Callable[[], None]] = queue.SimpleQueue()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="adapter-reader")
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._closing = False

    def start(self) -> None:
        """Begin building the core; a "ready" or "fatal" report follows."""
        self._thread.start()

    def put(self, command: Command) -> None:
        """Hand over a command, from any thread."""
        self._commands.put(command)

    def join(self, timeout_s: float | None = None) -> None:
        """Wait for the thread to end after a "close" command."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            with _IMPORTING:
                core = build_core(self._factory, self._config)
        except Exception as error:  # reported whole: nothing else could tell why
            self._emit([Report("fatal", 0, failure(error))])
            return
        self._emit([Report("ready", 0, None)])
        try:
            while not self._closing:
                self._take_commands(core)
                if not self._closing and core.has_work() and (events := core.step()):
                    self._emit([Report("event", 0, event) for event in events])
        except Exception as error:  # a step that fails leaves no trustworthy state behind
            self._emit([Report("fatal", 0, failure(error))])
        finally:
            self._reader.shutdown(wait=True, cancel_futures=True)

    def _take_commands(self, core: Core) -> None:
        """Do every waiting command; sleep for the first one while there is nothing to run."""
        wait = not core.has_work()
        while not self._closing:
            try:
                command = self._commands.get(block=wait)
            except queue.Empty:
                return
            wait = False
            if isinstance(command, Command):
                self._answer(core, command)
            else:
                command()

    def _answer(self, core: Core, command: Command) -> None:
        try:
            if command.operation == "load":
                self._load(core, command)
                return
            value = self._do(core, command)
        except errors.EngineError as error:
            self._refuse(command, error)
            return
        if command.call:
            self._emit([Report("reply", command.call, value)])

    def _do(self, core: Core, command: Command) -> Any:
        arguments = command.arguments
        match command.operation:
            case "submit":
                core.add_request(arguments[0])
            case "cancel":
                return core.cancel(arguments[0])
            case "unload":
                core.unload_adapter(arguments[0])
            case "adapters":
                return core.adapters()
            case "stats":
                return core.stats()
            case "close":
                self._closing = True
        return None

    def _load(self, core: Core, command: Command) -> None:
        """Read the adapter beside the running step, then install it between two steps."""
        name, path, pinned = command.arguments

        def read() -> None:
            try:
                with _IMPORTING:
                    adapter = core.read_adapter(path)
            except Exception as error:  # whatever is wrong with the file is the caller's to know
                self._refuse(command, error)
                return
            self._commands.put(lambda: install(adapter))

        def install(adapter: Any) -> None:
            try:
                info = core.install_adapter(name, adapter, pinned)
            except errors.EngineError as error:
                self._refuse(command, error)
                return
            self._emit([Report("reply", command.call, info)])

        self._reader.submit(read)

    def _refuse(self, command: Command, error: Exception) -> None:
        kind, sentence = failure(error)
        if command.operation == "submit":
            request_id = command.arguments[0].request_id
            event = Finished(request_id=request_id, reason="error", usage=Usage(), error=sentence)
            self._emit([Report("event", 0, event)])
        else:
            self._emit([Report("failed", command.call, (kind, sentence))])
