"""Where scripts play: the service itself in this process, or a server across the wire."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeVar, cast

from protocol.errors import Code, Refusal
from protocol.messages import Body
from protocol.service import Peer, Request, Service

Reply = TypeVar("Reply", bound=Body)
_KEYS = itertools.count(1)


class Stage(Protocol):
    """One session with a server."""

    async def request(self, kind: str, body: Body) -> Body:
        """Send a request and wait for its reply.

        Raises:
            Refusal: it ended in an error.
        """


OpenStage = Callable[[], AbstractAsyncContextManager[Stage]]


async def asked(stage: Stage, kind: str, body: Body, reply: type[Reply]) -> Reply:
    """Send a request whose reply's type is known."""
    answer = await stage.request(kind, body)
    assert isinstance(answer, reply), f"{kind} was answered with {type(answer).__name__}"
    return answer


class ServiceStage:
    """A session with a service in this process: the code that `serve` runs, without the wire."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._peer = Peer(session=f"stage-{next(_KEYS)}", role="admin", user="local")

    async def request(self, kind: str, body: Body) -> Body:
        """See Stage."""
        request = Request(key=f"check-{next(_KEYS)}", type=kind, body=body)
        answers = cast("AsyncGenerator[Body, None]", self._service.handle(self._peer, request))
        last: Body | None = None
        async with aclosing(answers) as bodies:
            async for answer in bodies:
                last = answer
        if last is None:
            raise Refusal(Code.INTERNAL, f"{kind} was not answered")
        return last


def in_process(service: Service) -> OpenStage:
    """Stages on a service of this process."""

    @asynccontextmanager
    async def open_stage() -> AsyncIterator[Stage]:
        yield ServiceStage(service)

    return open_stage


def connected(connection: Path | None) -> OpenStage:
    """Stages on a running server, each with a session of its own.

    Args:
        connection: the server's connection file; None is the default one.
    """

    from protocol.async_client import AsyncClient  # zmq, which checks in this process don't need

    @asynccontextmanager
    async def open_stage() -> AsyncIterator[Stage]:
        async with AsyncClient(connection) as client:
            yield client

    return open_stage
