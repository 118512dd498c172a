"""The server: three sockets around a dispatcher.

Work and telemetry live on the caller's event loop, next to the service. Control has a thread and
a loop of its own: a ping there is answered while the work loop is busy, and says for how long it
has been.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import zmq

from protocol.codec import Envelope, decode
from protocol.connection import Address, Connection, default_path, write_private
from protocol.dispatch import Dispatcher
from protocol.errors import FrameError, ProtocolError
from protocol.jobs import transmit
from protocol.keys import TELEMETRY_DOMAIN, KeyStore, is_loopback
from protocol.logs import Published
from protocol.messages import Body, Limits, Notice, Pong
from protocol.publisher import Publisher
from protocol.router import Link, Router
from protocol.service import Service
from protocol.session import ServerSession
from protocol.sessions import SessionLimits
from protocol.telemetry import Logged, StatsSampled

GUARDED = SessionLimits(max_sessions_per_user=64, requests_per_s=100.0)  # of those from outside
_SECOND_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerConfig:
    """Where a server listens and what it allows.

    Attributes:
        host: address or interface; anything but loopback needs `keys`.
        ports: work, control, telemetry; 0 takes any free port.
        world: the world's title, told to clients.
        connection: where the connection file goes; None writes none.
        keys: folder of the server's and the clients' keys; None is no encryption.
        others: servers of the same game with the same keys, told to clients.
        limits: what a message may hold.
        sessions: how much a client may take; None is no rate on loopback without keys, and
            `GUARDED` with keys.
    """

    host: str = "127.0.0.1"
    ports: tuple[int, int, int] = (0, 0, 0)
    world: str = ""
    connection: Path | None = field(default_factory=default_path)
    keys: Path | None = None
    others: tuple[Address, ...] = ()
    limits: Limits = field(default_factory=Limits)
    sessions: SessionLimits | None = None


class Server:
    """Serves one service to many clients.

        server = Server(service, ServerConfig(world="La Biblioteca Eterna"))
        await server.start()
        ...
        await server.close(drain_s=5)

    Attributes:
        connection: endpoints and keys, once started.
    """

    def __init__(self, service: Service, config: ServerConfig | None = None) -> None:
        self.config = config or ServerConfig()
        self.publisher = Publisher()
        self.connection = Connection(work="")
        self._service = service
        self._dispatcher: Dispatcher | None = None
        self._sampling: asyncio.Task[None] | None = None
        self._keys = KeyStore(self.config.keys) if self.config.keys else None
        self._logged = Published(self._publish_log)

    @property
    def dispatcher(self) -> Dispatcher:
        """Sessions and requests, once started."""
        assert self._dispatcher is not None, "start() comes first"
        return self._dispatcher

    async def start(self) -> None:
        """Bind the sockets and write the connection file.

        Raises:
            ProtocolError: no keys for an address that others can reach, or a port is taken.
        """
        config = self.config
        if self._keys is None and not is_loopback(config.host):
            raise ProtocolError(
                f"{config.host} can be reached from outside: make keys first "
                "('biblioteca keys init') and pass their folder"
            )
        _build(Body)
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 65_535)
        self._dispatcher = Dispatcher(
            self._service,
            keys=self._keys,
            publisher=self.publisher,
            limits=config.limits,
            session_limits=config.sessions or (GUARDED if self._keys else SessionLimits()),
            world=config.world,
            server=f"biblioteca {_package_version()}",
        )
        if self._keys is not None:
            self._keys.serve(self._context, revoked=self._revoked)
        try:
            self._bind()
        except zmq.ZMQError as error:
            await self.close()
            raise ProtocolError(f"can't listen on {config.host}: {error}") from error
        self._timer = self._loop.call_later(_SECOND_S, self._every_second)
        logging.getLogger("biblioteca").addHandler(self._logged)
        if config.connection is not None:
            write_private(config.connection, self.connection.model_dump())

    def _bind(self) -> None:
        config, dispatcher = self.config, self.dispatcher
        secret = self._keys.server.secret.encode() if self._keys else None
        self._work = Router(
            self._context,
            receive=dispatcher.take,
            lost=dispatcher.lost,
            drained=dispatcher.drained,
            curve_secret=secret,
            max_frame_bytes=config.limits.max_frame_bytes,
        )
        work = self._work.bind(_endpoint(config, 0))
        self._control = ControlThread(self, self._context, secret)
        control = self._control.start(_endpoint(config, 1))
        socket = self._context.socket(zmq.XPUB)
        socket.setsockopt(zmq.SNDHWM, 10_000)
        socket.setsockopt(zmq.LINGER, 0)
        if secret is not None:
            socket.setsockopt(zmq.CURVE_SERVER, 1)
            socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
            socket.setsockopt(zmq.ZAP_DOMAIN, TELEMETRY_DOMAIN)
        socket.bind(_endpoint(config, 2))
        telemetry = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.publisher.attach(socket, self._loop)
        self.connection = Connection(
            pid=os.getpid(),
            world=config.world,
            work=work,
            control=control,
            telemetry=str(telemetry),
            server_key=self._keys.server.public if self._keys else None,
            client_key=self._keys.owner if self._keys else None,
            others=list(config.others),
        )

    def publish(self, t: str, body: Body) -> None:
        """Publish a telemetry event; cheap where nobody watches."""
        self.publisher.publish(t, body)

    def notify(self, notice: Notice) -> None:
        """Tell every client."""
        self.dispatcher.notify(notice)

    async def close(self, drain_s: float = 0.0) -> None:
        """Let open requests end for that long, stop the rest, and close everything."""
        path = self.config.connection
        if path is not None and self.connection.work:
            path.unlink(missing_ok=True)
        logging.getLogger("biblioteca").removeHandler(self._logged)
        if hasattr(self, "_timer"):
            self._timer.cancel()
            if self._sampling is not None:
                self._sampling.cancel()
            await self.dispatcher.drain(drain_s)
            self._control.stop()
            self._work.close()
        self.publisher.close()
        if self._keys is not None:
            self._keys.close()
        await self._loop.run_in_executor(None, self._context.term)

    def _every_second(self) -> None:
        self.dispatcher.sweep()
        if self.publisher.is_watched("stats") and (self._sampling is None or self._sampling.done()):
            self._sampling = self._loop.create_task(self._sample_stats())
        self._timer = self._loop.call_later(_SECOND_S, self._every_second)

    async def _sample_stats(self) -> None:
        stats = await self.dispatcher.observed.stats()
        self.publish("stats", StatsSampled.model_validate(stats.model_dump()))

    def _publish_log(self, body: Logged) -> None:
        """Publish a log record, from whatever thread it was written on."""
        with contextlib.suppress(RuntimeError):  # the loop may have ended before the thread
            self._loop.call_soon_threadsafe(self.publish, "log", body)

    def _revoked(self, user: str) -> None:
        self._loop.call_soon_threadsafe(self.dispatcher.revoke, user)


class ControlThread:
    """The control socket: its own thread, its own event loop."""

    def __init__(
        self, server: Server, context: zmq.Context[zmq.Socket[bytes]], secret: bytes | None
    ) -> None:
        self._server, self._context, self._secret = server, context, secret
        self._work_loop = asyncio.get_running_loop()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._asked_at: float | None = None  # when the work loop was asked for a sign of life

    def start(self, endpoint: str) -> str:
        """Bind and serve; returns the endpoint with its real port."""
        self._thread.start()
        return asyncio.run_coroutine_threadsafe(self._bind(endpoint), self._loop).result(10)

    def stop(self) -> None:
        """Close the socket and end the thread."""
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(5)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def _stop(self) -> None:
        self._router.close()
        self._loop.stop()

    async def _bind(self, endpoint: str) -> str:
        dispatcher, post = self._server.dispatcher, self._work_loop.call_soon_threadsafe
        self._router = Router(
            self._context,
            receive=self._receive,
            lost=lambda link, session: _ignore(post(dispatcher.lost, link, session)),
            drained=lambda link, session: _ignore(post(dispatcher.drained, link, session)),
            curve_secret=self._secret,
            max_frame_bytes=self._server.config.limits.max_frame_bytes,
        )
        return self._router.bind(endpoint)

    def _receive(self, link: Link, frames: list[bytes]) -> None:
        post, dispatcher = self._work_loop.call_soon_threadsafe, self._server.dispatcher
        try:
            envelope = decode(frames, self._server.config.limits)
        except FrameError as error:
            post(dispatcher.refuse_frame, link, error)
            return
        if envelope.t == "ping" and envelope.id is not None and link.session is not None:
            self._pong(link, link.session, envelope)
        else:
            post(dispatcher.receive, link, envelope)

    def _pong(self, link: Link, session: ServerSession, ping: Envelope) -> None:
        """Answer at once, with how long the work loop has not answered us."""
        now = time.monotonic()
        asked_at = self._asked_at
        if asked_at is None:
            asked_at = self._asked_at = now
            self._work_loop.call_soon_threadsafe(self._seen)
        session.heard_at = now
        pong = Pong(work_age_ms=round(1000 * (now - asked_at)), open_requests=len(session.open))
        transmit(link, Envelope("pong", pong.model_dump(), re=ping.id))

    def _seen(self) -> None:
        self._asked_at = None


def _ignore(_: object) -> None:
    """For callbacks that return a handle nobody needs."""


def _build(kind: type[Body]) -> None:
    """Build the validators of every message: left to itself, each is built when it first comes.

    That is up to 30 ms in which no line goes out, the first time that anybody looks.
    """
    for message in kind.__subclasses__():
        message.model_rebuild()
        _build(message)


def _endpoint(config: ServerConfig, index: int) -> str:
    return f"tcp://{config.host}:{config.ports[index] or '*'}"


def _package_version() -> str:
    try:
        return version("biblioteca")
    except PackageNotFoundError:  # run from a checkout that isn't installed
        return "0"
