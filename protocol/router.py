"""A ROUTER socket on an event loop: never blocks, never drops, knows when a client is gone.

libzmq's own ROUTER drops silently what it can't send; here ROUTER_MANDATORY makes it say so. A
full connection keeps its messages in a backlog of its link, and a lost one is told apart by the
socket's monitor (its events carry the file descriptor, which every message also carries).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket as sockets
import threading
from collections import deque
from collections.abc import Callable

import zmq
from zmq.utils.monitor import recv_monitor_message

from protocol.codec import PROTOCOL
from protocol.keys import DOMAIN
from protocol.session import ServerSession

_TURN = 64  # messages read before the event loop gets its turn
_RETRY_S = 0.02
_MAX_BACKLOG = 10_000  # terminal messages waiting for one client; past it, it's given up
_MAX_STRANGERS = 8_192  # connections without a session; past it, the oldest goes


def most_strangers() -> int:
    """How many connections without a session are kept: at most half the process's descriptors."""
    try:
        import resource
    except ImportError:  # not on Windows, which has no such limit
        return _MAX_STRANGERS
    return min(_MAX_STRANGERS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)


def _readable(socket: zmq.Socket[bytes]) -> bool:
    return bool(int(socket.get(zmq.EVENTS)) & zmq.POLLIN)


class Link:
    """One client's connection to one router."""

    __slots__ = ("backlog", "descriptor", "router", "routing_id", "session", "user")

    def __init__(self, router: Router, routing_id: bytes, user: str, descriptor: int) -> None:
        self.router = router
        self.routing_id = routing_id
        self.user = user
        self.descriptor = descriptor
        self.session: ServerSession | None = None
        self.backlog: deque[bytes] = deque()

    @property
    def full(self) -> bool:
        """Whether messages wait because the client doesn't read."""
        return bool(self.backlog)

    def attach(self, session: ServerSession) -> None:
        """Belong to this session from now on."""
        self.session = session
        self.router.links[self.routing_id] = self
        self.router.by_descriptor[self.descriptor] = self
        self.router.strangers.pop(self.descriptor, None)

    def detach(self) -> None:
        """Belong to no session, and be forgotten by the router."""
        self.session = None
        self.router.forget(self)

    def send(self, frame: bytes) -> None:
        """Send an encoded envelope, from any thread."""
        if threading.get_ident() == self.router.thread_id:
            self.router.send(self, frame)
        else:
            self.router.loop.call_soon_threadsafe(self.router.send, self, frame)


Receive = Callable[[Link, list[bytes]], None]


class Router:
    """The socket and its links; lives on the event loop that makes it.

    Args:
        context: ZeroMQ context.
        receive: called with each message's frames (routing id taken off).
        lost: called once when a link with a session is lost.
        drained: called when a link that was full has taken its backlog.
        curve_secret: the server's secret key; with it only known keys get in, and every message
            carries its key's name. Without it everybody is "local".
        max_frame_bytes: libzmq ends a connection that sends a longer frame.
        high_water: messages libzmq queues per client before a link is full.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        *,
        receive: Receive,
        lost: Callable[[Link, ServerSession], None],
        drained: Callable[[Link, ServerSession], None],
        curve_secret: bytes | None = None,
        max_frame_bytes: int = 1_048_576,
        high_water: int = 256,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.thread_id = threading.get_ident()
        self.links: dict[bytes, Link] = {}
        self.by_descriptor: dict[int, Link] = {}
        self._receive, self._lost, self._drained = receive, lost, drained
        self._authenticated = curve_secret is not None
        self._full: set[Link] = set()
        self.strangers: dict[int, None] = {}  # descriptors that have no session yet, oldest first
        self._closed = False
        self._again = False  # a turn is already scheduled
        self._reading = False  # a turn is under way
        self._news = False  # the monitor has something to say
        socket = context.socket(zmq.ROUTER)
        self.socket = socket
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, max_frame_bytes)
        socket.setsockopt(zmq.SNDHWM, high_water)
        socket.setsockopt(zmq.RCVHWM, high_water)
        socket.setsockopt(zmq.BACKLOG, 4096)  # the default of 100 loses connects
        socket.setsockopt(zmq.HANDSHAKE_IVL, 5_000)
        # Dead hosts are the kernel's business: libzmq's own heartbeats cancel timers in O(clients).
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 30)
        socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 10)
        socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 3)
        socket.setsockopt(zmq.LINGER, 500)
        if curve_secret is not None:
            socket.setsockopt(zmq.CURVE_SERVER, 1)
            socket.setsockopt(zmq.CURVE_SECRETKEY, curve_secret)
            socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
        self._monitor = socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)

    def bind(self, endpoint: str) -> str:
        """Bind, start reading, and return the endpoint with its real port."""
        self.socket.bind(endpoint)
        self.loop.add_reader(self.socket.FD, self._read)
        self.loop.add_reader(self._monitor.FD, self._hear)
        bound = str(self.socket.getsockopt_string(zmq.LAST_ENDPOINT))
        self._port = int(bound.rsplit(":", 1)[1])
        return bound

    def forget(self, link: Link) -> None:
        """Keep nothing for a link any more."""
        link.backlog.clear()
        self._full.discard(link)
        if self.links.get(link.routing_id) is link:
            del self.links[link.routing_id]
        if self.by_descriptor.get(link.descriptor) is link:
            del self.by_descriptor[link.descriptor]

    def send(self, link: Link, frame: bytes) -> None:
        """Send now, or keep for later if the client's connection is full."""
        if link.backlog:
            link.backlog.append(frame)
            if len(link.backlog) > _MAX_BACKLOG:
                self._lose(link)
        elif not self._try(link, frame):
            link.backlog.append(frame)
            if not self._full:
                self.loop.call_later(_RETRY_S, self._retry)
            self._full.add(link)

    def _try(self, link: Link, frame: bytes) -> bool:
        """False if the connection is full. A lost connection swallows the frame."""
        if self._closed:
            return True
        try:
            self.socket.send_multipart([link.routing_id, PROTOCOL, frame], zmq.DONTWAIT)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._lose(link)
        self._check()
        return True

    def _lose(self, link: Link) -> None:
        session = link.session
        link.detach()
        if session is not None:
            self._lost(link, session)

    def _retry(self) -> None:
        for link in list(self._full):
            while link.backlog and self._try(link, link.backlog[0]):
                if link.backlog:  # a lost link's backlog is cleared
                    link.backlog.popleft()
            if not link.backlog:
                self._full.discard(link)
                if link.session is not None:
                    self._drained(link, link.session)
        if self._full and not self._closed:
            self.loop.call_later(_RETRY_S, self._retry)

    # libzmq's descriptor signals a change, not a state: sending may use the signal up. So after
    # every send outside a turn, and after a turn that left messages, look again. Each look is a
    # system call; a turn that ends because nothing is left has looked already.

    def _check(self) -> None:
        if not self._reading and not self._again and not self._closed and _readable(self.socket):
            self._again = True
            self.loop.call_soon(self._read)

    def _read(self) -> None:
        self._again = False
        if self._closed:
            return
        self._reading, drained = True, False
        try:
            for _ in range(_TURN):
                if self._closed or not self._take():
                    drained = True
                    break
        finally:
            self._reading = False
            if not drained:
                self._check()
            elif self._news:  # last: a lost client's last words came before its loss
                self._watch()

    def _hear(self) -> None:
        """The monitor has something to say."""
        self._news = True
        self._read()

    def _take(self) -> bool:
        """Read one message; frames beyond the third are thrown away. False if there is none."""
        try:
            routing_id = self.socket.recv(zmq.DONTWAIT)
        except zmq.Again:
            return False
        link = self.links.get(routing_id)
        frames: list[bytes] = []
        user, descriptor = "", -1
        while self.socket.getsockopt(zmq.RCVMORE):
            if link is not None and not self._authenticated:
                frame = self.socket.recv()
            else:
                message = self.socket.recv(copy=False)
                frame = message.bytes
                descriptor = int(message.get(zmq.SRCFD))
                user = str(message.get("User-Id")) if self._authenticated else "local"
            if len(frames) < 3:
                frames.append(frame)
        if link is None or (self._authenticated and link.user != user):
            self._watch()  # libzmq may have given this descriptor to another client before
            link = Link(self, routing_id, user, descriptor)
        self._receive(link, frames)
        return True

    def _watch(self) -> None:
        """Read the monitor: which connections have come and gone."""
        self._news = False
        while not self._closed and _readable(self._monitor):
            event = recv_monitor_message(self._monitor, zmq.DONTWAIT)
            descriptor = int(event["value"])
            link = self.by_descriptor.get(descriptor)
            if event["event"] == zmq.EVENT_DISCONNECTED:
                self.strangers.pop(descriptor, None)
                if link is not None:
                    self._lose(link)
            elif link is None:
                self.strangers[descriptor] = None
                if len(self.strangers) > most_strangers():
                    oldest = list(self.strangers)[0]  # noqa: RUF015  # other threads change it
                    del self.strangers[oldest]
                    self._cut(oldest)

    def _cut(self, descriptor: int) -> None:
        """End a connection that libzmq owns; it sees it end as if the client had gone.

        Should the descriptor have passed to something else meanwhile, only another connection
        of ours can be hit, and a client connects again by itself.
        """
        with contextlib.suppress(OSError), sockets.socket(fileno=os.dup(descriptor)) as connection:
            is_tcp = connection.family in (sockets.AF_INET, sockets.AF_INET6)
            if is_tcp and connection.getsockname()[1] == self._port:
                connection.shutdown(sockets.SHUT_RDWR)

    def close(self) -> None:
        """Stop reading and close the socket; what is on its way has half a second to leave."""
        if self._closed:
            return
        self._closed = True
        self.loop.remove_reader(self.socket.FD)
        self.loop.remove_reader(self._monitor.FD)
        self.socket.disable_monitor()
        self._monitor.close(0)
        self.socket.close()
