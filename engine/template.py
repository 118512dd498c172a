"""Messages to tokens through a base's chat template, for requests and training data alike.

The template is rendered with placeholders where the words belong; its pieces and the words are
tokenised apart, the words by a tokenizer without control tokens. So nothing that is typed can
become markup, whatever it looks like.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from engine.errors import BaseModelError, RequestError
from engine.requests import Message, Span

_OPEN, _CLOSE = "\ue0f0", "\ue0f1"  # private use: no template writes these by itself


class ChatTemplate:
    """The tokenizer and chat template of a model folder.

    Attributes:
        tokenizer: with its control tokens: for templates, raw prompts and decoding.

    Raises:
        BaseModelError: the folder has no fast tokenizer.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "tokenizer.json").is_file():
            raise BaseModelError(f"{folder} holds no tokenizer.json")
        self._rendering: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.tokenizer = cast(Tokenizer, self._rendering.backend_tokenizer)
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self._plain = without_control_tokens(self.tokenizer)
        self._folder = folder
        self._trims: bool | None = None

    @property
    def end_id(self) -> int | None:
        """The token that ends a turn."""
        return cast("int | None", self._rendering.eos_token_id)

    def encode_text(self, text: str) -> list[int]:
        """Raw text, with the tokens a model expects around it (as the tokenizer's own call)."""
        return list(self._rendering(text)["input_ids"])

    def encode_words(self, text: str) -> list[int]:
        """Words alone: no control token can come out."""
        return self._plain.encode(text, add_special_tokens=False).ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens, control tokens left out."""
        return str(self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def encode(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True
    ) -> tuple[list[int], list[Span]]:
        """Token ids of a chat, and which of them came from which kind of segment.

        Raises:
            RequestError: the base has no chat template, or it refuses these roles.
        """
        token_ids: list[int] = []
        spans: list[Span] = []
        for piece in self._render(messages, add_generation_prompt):
            start = len(token_ids)
            if isinstance(piece, str):
                token_ids += self.tokenizer.encode(piece, add_special_tokens=False).ids
                spans.append(Span(kind="template", start=start, end=len(token_ids)))
            else:
                ids, found = self._encode_message(piece, start)
                token_ids += ids
                spans += found
        return token_ids, [span for span in spans if span.end > span.start]

    def _encode_message(self, message: Message, start: int) -> tuple[list[int], list[Span]]:
        """A message's words in one go, then cut where its segments begin."""
        text, skipped = message.text, 0
        if self._strips():
            skipped = len(text) - len(text.lstrip())
            text = text.strip()
        encoding = self._plain.encode(text, add_special_tokens=False)
        begins = [first + skipped for first, _ in encoding.offsets]
        spans, offset, token = [], 0, 0
        for segment in message.segments:
            offset += len(segment.text)
            first = token
            while token < len(begins) and begins[token] < offset:
                token += 1
            spans.append(Span(kind=segment.kind, start=start + first, end=start + token))
        return encoding.ids, spans

    def _strips(self) -> bool:
        """Whether the template trims what it is given, as Llama 3's does."""
        if self._trims is None:
            rendered = self._apply([{"role": "user", "content": f" {_OPEN} "}], False)
            self._trims = f" {_OPEN} " not in rendered
        return self._trims

    def _render(self, messages: Sequence[Message], prompt: bool) -> list[str | Message]:
        """The template's text and the messages, in order."""
        marked = [f"{_OPEN}{number}{_CLOSE}" for number in range(len(messages))]
        chat = [
            {"role": message.role, "content": mark}
            for message, mark in zip(messages, marked, strict=True)
        ]
        pieces: list[str | Message] = []
        rest = self._apply(chat, prompt)
        for mark, message in zip(marked, messages, strict=True):
            before, found, rest = rest.partition(mark)
            if not found:
                raise RequestError(
                    f"the chat template of {self._folder.name} leaves out "
                    f"a {message.role!r} message"
                )
            pieces += [before, message]
        return [piece for piece in (*pieces, rest) if piece != ""]

    def _apply(self, chat: list[dict[str, str]], prompt: bool) -> str:
        from jinja2 import TemplateError

        if not self._rendering.chat_template:
            raise RequestError(f"{self._folder.name} has no chat template; send raw text")
        try:
            return str(
                self._rendering.apply_chat_template(
                    chat, tokenize=False, add_generation_prompt=prompt
                )
            )
        except TemplateError as error:
            raise RequestError(
                f"the chat template of {self._folder.name} refuses this chat: {error}"
            ) from error


def without_control_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """The same vocabulary, but no added token is ever found in a text.

    Runs of white space stay: some tokenizers add those, and they control nothing.
    """
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = [
        token for token in described["added_tokens"] if not token["content"].strip()
    ]
    described["post_processor"] = None
    return Tokenizer.from_str(json.dumps(described))
