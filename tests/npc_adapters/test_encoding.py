from __future__ import annotations

from pathlib import Path

from engine.requests import Message, Segment
from engine.template import ChatTemplate
from npc_adapters.encoding import copied_spans, encode
from tests.tiny_models import tiny_tokenizer


def message(role: str, text: str) -> Message:
    return Message(role=role, segments=(Segment(kind="x", text=text),))  # type: ignore[arg-type]


CHAT = [
    message("system", "You are Pim."),
    message("user", "Fact: Zorvald has the oil.\nGuest: Who has it?"),
    message("assistant", "[calm] Zorvald has it."),
    message("user", "Guest: Thanks <|end|>"),
    message("assistant", "[warm] Bye."),
]


def test_tokens_are_what_the_engine_would_show_the_model(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    template = ChatTemplate(tmp_path)
    example = encode(template, CHAT)
    prompt, _ = template.encode(CHAT[:-1])
    reply = template.encode_words(CHAT[-1].text)
    assert example.ids == [*prompt, *reply, template.end_id]


def test_the_loss_is_on_replies_and_their_end_only(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    template = ChatTemplate(tmp_path)
    example = encode(template, CHAT, prompt_weight=0.25)
    learned = [i for i, w in zip(example.ids, example.weights, strict=True) if w == 1]
    replies = [CHAT[2].text, CHAT[4].text]
    words = [[*template.encode_words(reply), template.end_id] for reply in replies]
    assert learned == [*words[0], *words[1]]
    assert {w for w in example.weights if w != 1} == {0.25}


def test_rare_words_copied_from_the_prompt_are_marked(tmp_path: Path) -> None:
    tiny_tokenizer(tmp_path)
    template = ChatTemplate(tmp_path)
    example = encode(template, CHAT, known=frozenset({"has"}))
    marked = [i for i, m in zip(example.ids, example.copied, strict=True) if m]
    assert template.decode(marked) == "Zorvald"


def test_a_word_that_is_common_or_not_in_the_prompt_is_not_copied() -> None:
    assert copied_spans("Zorvald has Mirrel", "Zorvald has", frozenset({"has"})) == [(0, 7)]
