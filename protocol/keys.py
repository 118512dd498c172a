"""Keys of the server and its clients, and who each client is (CURVE and ZAP).

A folder holds `server.json` (the server's own pair), `owner.json` (an admin pair for the
machine's owner) and `clients.json` (public keys with names and roles). A thread answers libzmq's
question who may come in (ZAP, ZeroMQ RFC 27) from `clients.json`, which it reads again whenever
it has changed: adding and revoking hold at once, without a restart.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import zmq
from pydantic import ValidationError
from zmq.utils import z85

from protocol.catalogue import Role
from protocol.connection import KeyPair, write_private
from protocol.errors import Code, ProtocolError, Refusal
from protocol.operation import KeyInfo, KeysReply, KeysRequest

DOMAIN = b"biblioteca"
TELEMETRY_DOMAIN = b"biblioteca-telemetry"  # where only admins get in
_WATCH_MS = 500
_OWNER = "owner"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def default_folder() -> Path:
    """Where keys are unless told otherwise."""
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "biblioteca" / "keys"


def new_pair() -> KeyPair:
    """A fresh CURVE pair."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public=public.decode(), secret=secret.decode())


class KeyStore:
    """The key folder.

    Raises:
        ProtocolError: the folder is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = self._pair("server.json")
        self.owner = self._pair("owner.json")
        self._clients: dict[str, KeyInfo] = {}  # by public key
        self._stamp: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None
        self._load()

    @classmethod
    def init(cls, folder: Path) -> KeyStore:
        """Make the folder with a server's and an owner's pair; existing ones are kept."""
        for name in ("server.json", "owner.json"):
            if not (folder / name).exists():
                write_private(folder / name, new_pair().model_dump())
        store_path = folder / "clients.json"
        if not store_path.exists():
            owner = KeyPair.model_validate(json.loads((folder / "owner.json").read_text()))
            entry = KeyInfo(name=_OWNER, role="admin", public_key=owner.public)
            write_private(store_path, {"clients": [entry.model_dump()]})
        return cls(folder)

    def _pair(self, name: str) -> KeyPair:
        path = self.folder / name
        try:
            return KeyPair.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ProtocolError(
                f"no usable keys in {path}; make them with 'biblioteca keys init'"
            ) from error

    # --- what is stored --------------------------------------------------------------------

    def entries(self) -> list[KeyInfo]:
        """All client keys, revoked ones included."""
        self._load()
        return list(self._clients.values())

    def add(self, name: str, role: Role, public_key: str) -> KeyInfo:
        """Let a key in, under this name and role.

        Raises:
            Refusal: the name is taken, or the key isn't one.
        """
        self._load()
        if any(entry.name == name for entry in self._clients.values()):
            raise Refusal(Code.CONFLICT, f"there is a key named {name!r}", field="name")
        try:
            is_key = len(z85.decode(public_key.encode())) == 32
        except (ValueError, KeyError):
            is_key = False
        if not is_key:
            raise Refusal(
                Code.BAD_REQUEST, "a public key has 40 characters of Z85", field="public_key"
            )
        entry = KeyInfo(name=name, role=role, public_key=public_key)
        self._clients[public_key] = entry
        self._save()
        return entry

    def revoke(self, name: str) -> KeyInfo:
        """Shut a key out for good.

        Raises:
            Refusal: there is none of that name.
        """
        self._load()
        for public_key, entry in self._clients.items():
            if entry.name == name:
                revoked = entry.model_copy(update={"revoked": True})
                self._clients[public_key] = revoked
                self._save()
                return revoked
        raise Refusal(Code.NOT_FOUND, f"no key is named {name!r}", field="name")

    def answer(self, request: KeysRequest) -> KeysReply:
        """Serve a `keys` request.

        Raises:
            Refusal: something needed is missing or wrong.
        """
        if request.op == "list":
            return KeysReply(keys=self.entries())
        if request.name is None:
            raise Refusal(Code.BAD_REQUEST, f"{request.op} needs a name", field="name")
        if request.op == "revoke":
            return KeysReply(keys=[self.revoke(request.name)])
        if request.public_key is None:
            raise Refusal(Code.BAD_REQUEST, "add needs the public key", field="public_key")
        return KeysReply(keys=[self.add(request.name, request.role, request.public_key)])

    def role_of(self, user: str) -> Role | None:
        """The role of the key of that name; None without one, or if it was revoked."""
        for entry in self._clients.values():
            if entry.name == user:
                return None if entry.revoked else entry.role
        return None

    def _load(self) -> None:
        path = self.folder / "clients.json"
        try:
            status = path.stat()
            if self._stamp == (status.st_mtime_ns, status.st_size):
                return
            document = json.loads(path.read_text(encoding="utf-8"))
            entries = [KeyInfo.model_validate(entry) for entry in document["clients"]]
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            raise ProtocolError(f"{path} can't be read as client keys: {error}") from error
        self._stamp = (status.st_mtime_ns, status.st_size)
        self._clients = {entry.public_key: entry for entry in entries}

    def _save(self) -> None:
        document = {"clients": [entry.model_dump() for entry in self._clients.values()]}
        write_private(self.folder / "clients.json", document)

    # --- the ZAP thread --------------------------------------------------------------------

    def serve(
        self, context: zmq.Context[zmq.Socket[bytes]], revoked: Callable[[str], None]
    ) -> None:
        """Answer this context's handshakes from now on; `revoked` is told whom to drop."""
        socket = context.socket(zmq.REP)
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind("inproc://zeromq.zap.01")
        stop = context.socket(zmq.PAIR)
        stop.bind("inproc://biblioteca.keys.stop")
        self._stop = context.socket(zmq.PAIR)
        self._stop.connect("inproc://biblioteca.keys.stop")
        self._thread = threading.Thread(
            target=self._serve, args=(socket, stop, revoked), name="keys", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._stop.send(b"")
            self._thread.join(5)
            self._stop.close(0)
            self._thread = None

    def _serve(
        self,
        socket: zmq.Socket[bytes],
        stop: zmq.Socket[bytes],
        revoked: Callable[[str], None],
    ) -> None:
        poller = zmq.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(stop, zmq.POLLIN)
        valid = self._valid()
        while True:
            ready = dict(poller.poll(_WATCH_MS))
            if stop in ready:
                break
            with contextlib.suppress(ProtocolError):  # a damaged file changes nothing
                self._load()
            for user in valid - self._valid():
                revoked(user)
            valid = self._valid()
            if socket in ready:
                socket.send_multipart(self._reply(socket.recv_multipart()))
        socket.close(0)
        stop.close(0)

    def _valid(self) -> set[str]:
        return {entry.name for entry in list(self._clients.values()) if not entry.revoked}

    def _reply(self, frames: list[bytes]) -> list[bytes]:
        """Answer one ZAP request: version, id, domain, address, identity, mechanism, key."""
        version, request_id, domain = frames[0], frames[1], frames[2]
        entry = None
        if len(frames) == 7 and frames[5] == b"CURVE":
            entry = self._clients.get(z85.encode(frames[6]).decode())
        allowed = entry is not None and not entry.revoked
        if allowed and domain == TELEMETRY_DOMAIN:
            allowed = entry is not None and entry.role == "admin"
        if not allowed or entry is None:
            return [version, request_id, b"400", b"unknown or revoked key", b"", b""]
        return [version, request_id, b"200", b"OK", entry.name.encode(), b""]
