"""The console's actions without the console: one request to a running server, and its reply."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from protocol.catalogue import REQUESTS
from protocol.client import connect
from protocol.messages import Body, Delta
from tui.errors import FieldsError
from tui.text import clean

_OF_THE_SESSION = {"hello", "bye", "ping", "cancel", "resume"}  # clients send these by themselves


def read_fields(kind: str, fields: Sequence[str]) -> Body:
    """The body of a request from words such as `op=swap agent=ottavia version=2`.

    A value that is JSON is taken as JSON, anything else as text.

    Raises:
        FieldsError: there is no such request, or a field is unknown, missing or wrong.
    """
    offered = sorted(REQUESTS.keys() - _OF_THE_SESSION)
    if kind not in offered:
        raise FieldsError(f"no request is called {kind!r}; there are: {', '.join(offered)}")
    values: dict[str, Any] = {}
    known = REQUESTS[kind].request.model_fields
    for field in fields:
        name, equals, value = field.partition("=")
        if not equals or name not in known:
            raise FieldsError(f"{field!r}: write NAME=VALUE with one of: {', '.join(known)}")
        values[name] = _value(value)
    try:
        return REQUESTS[kind].request.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise FieldsError(f"{kind}: {where}: {first['msg']}") from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def send(connection: Path | None, kind: str, fields: Sequence[str], *, as_json: bool) -> None:
    """Send a request to the server and print what comes back.

    Raises:
        ProtocolError: there is no server, or it refused.
        FieldsError: as `read_fields` does.
    """
    body = read_fields(kind, fields)
    with connect(connection) as client:
        call = client.start(kind, body)
        for part in client.parts(call):
            if isinstance(part, Delta) and not as_json:
                print(clean(part.text, lines=True), end="", flush=True)
        reply = call.reply
    assert reply is not None
    document = reply.model_dump(mode="json", exclude_none=True)
    if as_json:
        print(json.dumps(document, ensure_ascii=False))
    else:
        print("\n" if REQUESTS[kind].stream else "", end="")
        print(clean(json.dumps(document, ensure_ascii=False, indent=2), lines=True))
