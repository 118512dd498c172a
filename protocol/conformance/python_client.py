"""The Python client as a program for the scripted servers."""

from __future__ import annotations

import json
import sys
from typing import Any

from protocol import errors
from protocol.client import connect
from protocol.messages import Delta
from protocol.wire import ClientConfig


def say(path: str) -> dict[str, Any]:
    """Say one line; what the scripted servers want to know about it."""
    try:
        with connect(path, ClientConfig(timeout_s=6.0)) as client:
            call = client.start("say", agent="echo", text="Good evening.")
            pieces = sum(isinstance(part, Delta) for part in client.parts(call))
            reply = call.reply
            assert reply is not None
            fields = reply.model_dump()
            return {"text": fields["text"], "pieces": pieces, "seed": fields["seed"]}
    except errors.Refusal as refusal:
        return {"error": refusal.code}
    except errors.FrameError:
        return {"error": "bad_frame"}
    except errors.VersionError:
        return {"error": "version"}
    except errors.KeyRefusedError:
        return {"error": "key_refused"}
    except errors.NoServerError:
        return {"error": "no_server"}


if __name__ == "__main__":
    print(json.dumps(say(sys.argv[1])))
