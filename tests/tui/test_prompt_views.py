"""A prompt is shown whole, in the colours of its parts, and compared line by line."""

from __future__ import annotations

from protocol.administration import InspectReply, LineInfo
from protocol.messages import Usage
from tests.tui.fakes import FakeWorld, inspection
from tui.prompt_views import (
    diff_blocks,
    facts,
    ids_blocks,
    logit_blocks,
    text_blocks,
    without_model,
)


def inspected(said: str = "Where is it?", cached: int = 10) -> InspectReply:
    usage = Usage(prompt_tokens=70, cached_tokens=cached, queue_ms=5.0, ttft_ms=140.0)
    line = LineInfo(line="1", agent="ottavia", tier="npc", text="Here. Look", speaker="player",
                    said=said, usage=usage)  # fmt: skip
    return inspection(line, FakeWorld().agent("ottavia"))


def test_every_word_of_the_prompt_is_shown_in_its_colour() -> None:
    line = inspected()
    blocks = text_blocks(line, "Ottavia", "ottavia v1")
    shown = "\n".join(block.content.plain for block in blocks)
    for segment in line.segments:
        assert segment.text.strip() in shown
    lore = next(block.content for block in blocks if "lore" in block.content.plain)
    assert any("$seg-lore" in str(span.style) for span in lore.spans)


def test_every_token_is_shown_with_its_id_and_the_cache_ends_where_it_ended() -> None:
    line = inspected(cached=3)
    shown = ids_blocks(line)[1].content.plain
    for token in line.token_ids:
        assert f"·{token} " in shown
    assert shown.index("·102") < shown.index("fresh") < shown.index("·103")


def test_a_diff_shows_what_came_and_what_went() -> None:
    blocks = diff_blocks(inspected("And now?"), inspected("Where is it?"), "0")
    marked = [b.content.plain for b in blocks if b.content.plain[0] in "+-"]
    assert marked == ["- player    player: Where is it?", "+ player    player: And now?"]


def test_the_same_prompt_has_no_differences() -> None:
    blocks = diff_blocks(inspected(), inspected(), "0")
    assert not [b for b in blocks if b.content.plain[0] in "+-"]


def test_the_chosen_token_and_its_rivals_are_told_with_their_chances() -> None:
    rows = [block.content.plain for block in logit_blocks(inspected())]
    assert rows[1].startswith("Here.")
    assert "95%" in rows[1]
    assert "perhaps␣" in rows[1]
    assert len(rows) == 3


def test_a_server_that_kept_no_alternatives_is_not_made_up_for() -> None:
    line = inspected().model_copy(update={"completion": []})
    assert "did not keep" in logit_blocks(line)[0].content.plain


def test_a_line_asked_for_without_alternatives_says_how_to_see_them() -> None:
    line = inspected()
    bare = [token.model_copy(update={"logprob": None, "alternatives": []})
            for token in line.completion]  # fmt: skip
    shown = logit_blocks(line.model_copy(update={"completion": bare}))
    assert "(s on Talk)" in shown[0].content.plain
    assert shown[1].content.plain.startswith("Here.")
    assert "—" not in "".join(block.content.plain for block in shown)


def test_what_wraps_begins_behind_the_column_before_it() -> None:
    for block in [*logit_blocks(inspected())[1:], *diff_blocks(inspected(), inspected("?"), "0")]:
        assert block.indent in {12, 28}
        assert block.content.plain[block.indent - 1] == " " or "the same" in block.content.plain


def test_a_line_without_a_model_says_why_there_is_no_prompt() -> None:
    update = {"segments": [], "token_ids": [], "output": "", "routing": ["the book has no answer"]}
    shown = without_model(inspected().model_copy(update=update), "The Tide Tables")
    assert "the book has no answer" in shown[0].content.plain
    assert "Here. Look" in shown[1].content.plain


def test_facts_fit_their_column_and_name_seed_budget_and_times() -> None:
    for width, brief in ((44, False), (76, True)):
        shown = facts(inspected(), width, brief=brief)
        assert max(row.cell_length for row in shown.split("\n")) <= max(width, 60)
        for word in ("of 512 tokens", "queue", "prefill", "decode", "seed", "138.0 ms"):
            assert word in shown.plain
