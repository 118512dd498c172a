"""Which scripts to play: expressions such as `pim and not injection`, as pytest's -k."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from roles.dialogues.errors import DialogueError
from roles.dialogues.source import Source

_WORD = re.compile(r"[^\s()]+")
_OPERATORS = {"and", "or", "not"}


def select(sources: Sequence[Source], expression: str) -> list[Source]:
    """The scripts whose id, tags or agents hold the expression's words.

    Raises:
        DialogueError: the expression can't be read.
    """
    words: list[str] = []

    def numbered(match: re.Match[str]) -> str:
        if match[0] in _OPERATORS:
            return match[0]
        words.append(match[0].casefold())
        return f"w{len(words) - 1}"

    try:
        tree = ast.parse(_WORD.sub(numbered, expression), mode="eval").body
        return [source for source in sources if _holds(tree, words, _text(source))]
    except (SyntaxError, ValueError):
        message = f"-k {expression!r} is no expression; write words with and, or, not and brackets"
        raise DialogueError(message) from None


def _text(source: Source) -> str:
    script = source.script
    return " ".join([source.id, *script.tags, *sorted(script.agents)]).casefold()


def _holds(node: ast.expr, words: Sequence[str], text: str) -> bool:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            return all(_holds(value, words, text) for value in values)
        case ast.BoolOp(op=ast.Or(), values=values):
            return any(_holds(value, words, text) for value in values)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _holds(operand, words, text)
        case ast.Name(id=name):
            return words[int(name[1:])] in text
    raise ValueError(node)
