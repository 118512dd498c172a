"""Other keys than ours: a TOML file of action ids and keys."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from textual.binding import Binding, BindingType

from tui.errors import KeysError


def binding_ids(groups: Iterable[Iterable[BindingType]]) -> dict[str, Binding]:
    """Every binding that has an id, by it."""
    found = {}
    for group in groups:
        for binding in group:
            if isinstance(binding, Binding) and binding.id:
                found[binding.id] = binding
    return found


def read_keys(path: Path, known: Mapping[str, Binding]) -> dict[str, str]:
    """Read a file such as

        [keys]
        "agents.talk" = "enter"
        "talk.again" = "ctrl+r,s"

    Raises:
        KeysError: the file can't be read, or names an action that doesn't exist.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise KeysError(f"cannot read the keys in {path}: {error}") from error
    keys = document.get("keys")
    if not isinstance(keys, dict):
        raise KeysError(f'{path} has no table [keys] with lines such as "agents.talk" = "enter"')
    for name, key in keys.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1) or sorted(known)[:1]
            raise KeysError(f"{path}: no action is called {name!r}; did you mean {near[0]!r}?")
        if not isinstance(key, str) or not key:
            raise KeysError(f'{path}: the key of {name!r} is {key!r}; write a string such as "x"')
    return dict(keys)
