"""A client's sockets: send what waits, take in what has come, never block."""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass

import zmq
from zmq.utils.monitor import recv_monitor_message

from protocol.calls import Call, Calls
from protocol.codec import PROTOCOL
from protocol.connection import Address, Connection
from protocol.errors import Code, KeyRefusedError, ProtocolError, Refusal
from protocol.messages import HelloRequest

_FAILURES = {
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL,
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL,
    zmq.Event.HANDSHAKE_FAILED_AUTH,
}
_TURN_S = 1.0  # without a connection, or with a silent server, before the next address is tried
_WATCHED = (
    sum(_FAILURES) | zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.CONNECTED | zmq.Event.DISCONNECTED
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientConfig:
    """How a client behaves.

    Attributes:
        name: what it calls itself, such as "mygame 1.2".
        timeout_s: how long to wait for a silent server before giving it up.
        heartbeat_s: how long a server may be silent before it is pinged.
        credit: deltas taken before `Client.grant` allows more; None is no limit.
        resume_s: how long the server keeps requests running after a lost connection.
    """

    name: str = ""
    timeout_s: float = 5.0
    heartbeat_s: float = 1.0
    credit: int | None = None
    resume_s: float = 30.0


class Wire:
    """Work and control sockets of one client, and the calls on them.

    Attributes:
        calls: what was asked and what came back.
        address: of the server it now turns to, the first of the list or another one.
        connected: whether the work socket has a connection now.
    """

    def __init__(self, connection: Connection, config: ClientConfig) -> None:
        hello = HelloRequest(
            client=config.name, credit=config.credit, resume_ms=round(config.resume_s * 1000)
        )
        self.calls = Calls(
            hello,
            heartbeat_s=config.heartbeat_s,
            timeout_s=config.timeout_s,
            server=" or ".join(one.work for one in (connection, *connection.others)),
        )
        self.connection = connection
        self.address: Address = connection
        self._well_s = time.monotonic()  # when the server was last known to be there
        self._telemetry: weakref.WeakSet[zmq.Socket[bytes]] = weakref.WeakSet()
        self.connected = False
        self._was_connected = False
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets = {"work": self._dial(connection.work)}
        if connection.control:
            self._sockets["control"] = self._dial(connection.control)
        self._monitor = self._sockets["work"].get_monitor_socket(_WATCHED)
        self.calls.greet()

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """What to wait on for something to come in."""
        return [*self._sockets.values(), self._monitor]

    @property
    def _has_control(self) -> bool:
        """Whether the control socket is connected to the server that is now turned to."""
        return "control" in self._sockets and bool(self.address.control)

    def _dial(self, endpoint: str) -> zmq.Socket[bytes]:
        return dial(self._context, zmq.DEALER, endpoint, self.connection)

    def subscribe(self, topics: list[str]) -> zmq.Socket[bytes]:
        """A socket on which these topics' telemetry arrives; the caller closes it.

        Raises:
            Refusal: `unsupported`, the server that is now turned to has no telemetry address.
        """
        if not self.address.telemetry:
            sentence = f"{self.address.work} has no telemetry address to watch at"
            raise Refusal(Code.UNSUPPORTED, sentence)
        socket = dial(self._context, zmq.SUB, self.address.telemetry, self.connection)
        self._telemetry.add(socket)
        for topic in topics:
            socket.setsockopt_string(zmq.SUBSCRIBE, topic)
        return socket

    def pump(self, *, idle_ping: bool = False) -> list[Call]:
        """Send and receive all that is possible now; returns the calls that got something."""
        now = time.monotonic()
        changed: list[Call] = []
        self._watch()
        for socket in self._sockets.values():
            while (frames := _receive(socket)) is not None:
                had_session = self.calls.welcome
                call = self.calls.receive(frames, now)
                if call is not None:
                    changed.append(call)
                if self.calls.welcome is not had_session and self._has_control:
                    self.calls.join_control()
        self.calls.tick(now, idle_ping=idle_ping)
        if self.connection.others:
            self._turn_if_gone(now)
        self._send()
        return changed

    def _turn_if_gone(self, now: float) -> None:
        """Go to the next address, round and round, while nobody is there."""
        if self.connected and self.calls.alive:
            self._well_s = now
        elif now - self._well_s > _TURN_S:
            every = [self.connection, *self.connection.others]
            after = every[(every.index(self.address) + 1) % len(every)]
            for channel, socket in self._sockets.items():
                _redial(socket, getattr(self.address, channel), getattr(after, channel))
            for socket in self._telemetry:
                if not socket.closed:
                    _redial(socket, self.address.telemetry, after.telemetry)
            self.address, self.connected, self._well_s = after, False, now
            self.calls.no_control_at = ""  # not known before somebody answers there

    @property
    def readable(self) -> bool:
        """Whether something has come in that no pump has taken."""
        return any(int(socket.get(zmq.EVENTS)) & zmq.POLLIN for socket in self.sockets)

    def _send(self) -> None:
        outbox = self.calls.outbox
        while outbox and (self.connected or not self.connection.others):
            post = outbox[0]
            try:
                self._sockets[post.channel].send_multipart([PROTOCOL, post.frame], zmq.DONTWAIT)
            except zmq.Again:
                return  # the server doesn't read; the next pump tries again
            outbox.popleft()

    def _watch(self) -> None:
        """Learn from the work socket's monitor how its connection fares."""
        while int(self._monitor.get(zmq.EVENTS)) & zmq.POLLIN:
            event = zmq.Event(recv_monitor_message(self._monitor, zmq.DONTWAIT)["event"])
            if event in _FAILURES:
                self.calls.give_up(self._key_error())
            elif event is zmq.Event.DISCONNECTED:
                if not self._was_connected and self.connection.server_key:
                    self.calls.give_up(self._key_error())
                self.connected = False
            elif event is zmq.Event.HANDSHAKE_SUCCEEDED:
                if "control" in self._sockets and not self._has_control:
                    self.calls.do_without_control(self.address.work)
                if self._was_connected:
                    self.calls.greet()
                self.connected = self._was_connected = True

    def _key_error(self) -> ProtocolError:
        if self.connection.server_key is None:
            return KeyRefusedError(
                f"{self.connection.work} did not accept a connection without keys; "
                "use the connection file of that server, or ask its owner for a key"
            )
        return KeyRefusedError(
            f"{self.connection.work} refused the handshake: this client's key is unknown or "
            "revoked there, or the server's key is not the one expected"
        )

    def close(self) -> None:
        """Close the sockets; what was sent has a moment to leave."""
        self._sockets["work"].disable_monitor()
        self._monitor.close(0)
        for socket in self._sockets.values():
            socket.close(200)
        self._context.term()


def dial(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, endpoint: str, connection: Connection
) -> zmq.Socket[bytes]:
    """A connected socket, with keys where the server has one."""
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2_000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, 5_000)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 15_000)
    if connection.server_key is not None:
        pair = connection.client_key
        if pair is None:
            public, secret = zmq.curve_keypair()  # the server will say that it doesn't know us
        else:
            public, secret = pair.public.encode(), pair.secret.encode()
        socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        socket.setsockopt(zmq.CURVE_SERVERKEY, connection.server_key.encode())
    socket.connect(endpoint)
    return socket


def _redial(socket: zmq.Socket[bytes], before: str, after: str) -> None:
    """Turn a socket to another server, or to nobody; its options, keys and topics stay."""
    if before:
        socket.disconnect(before)
    if after:
        socket.connect(after)


def _receive(socket: zmq.Socket[bytes]) -> list[bytes] | None:
    try:
        return socket.recv_multipart(zmq.DONTWAIT)
    except zmq.Again:
        return None
