"""An inspected line as blocks of text: pure functions from a reply to what is drawn."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator

from textual.content import Content

from protocol.administration import CompletionToken, InspectReply, PromptSegment
from tui.chart import bar, stacked, waterfall
from tui.pane import Block
from tui.text import clean, number, words
from tui.themes import SEGMENT_KINDS

_DIFF_INDENT = 12  # mark and kind of segment
_LOGIT_INDENT = 28  # a token, its probability and the bar
_WEIGHTS_STYLE = (0.9, "$success"), (0.5, "$foreground"), (0.2, "$warning"), (0.0, "$error")


def segment_style(kind: str) -> str:
    """The colour of a kind of segment; kinds we don't know are drawn plainly."""
    return f"$seg-{kind}" if kind in SEGMENT_KINDS else "$foreground"


def text_blocks(line: InspectReply, name: str, adapter: str) -> list[Block]:
    """The prompt as text, one block per segment, then what the model said."""
    blocks = []
    for index, segment in enumerate(line.segments):
        if segment.kind == "template":
            if shown := segment.text.strip("\n"):
                content = words(shown.replace("\n", "⏎"), "$seg-template")
                blocks.append(Block(key=f"s{index}", content=content))
            continue
        label = f"{clean(segment.kind)} · {segment.end - segment.start} tokens"
        content = Content.assemble(
            (f"▎{label}\n", f"{segment_style(segment.kind)} bold"),
            words(segment.text.rstrip("\n"), segment_style(segment.kind), lines=True),
        )
        blocks.append(Block(key=f"s{index}", content=content))
    return [*blocks, *_spoken_blocks(line, name, adapter)]


def _spoken_blocks(line: InspectReply, name: str, adapter: str) -> list[Block]:
    said = line.output or line.text
    head = Content.assemble(
        ("\n▶ ", "$primary"), words(name, "bold $primary"), (f"  {adapter}\n", "$muted"),
        words(said, "bold", lines=True),
    )  # fmt: skip
    blocks = [Block(key="output", content=head)]
    if line.output and line.text not in line.output:
        shown = Content.assemble(("shown as  ", "$muted"), words(line.text, lines=True))
        blocks.append(Block(key="shown", content=shown))
    if line.fallback:
        blocks.append(Block(key="cause", content=words(f"fallback: {line.cause}", "$warning")))
    return blocks


def without_model(line: InspectReply, name: str) -> list[Block]:
    """A line that came without a prompt: why, and what was said."""
    why = "; ".join(line.routing) or line.cause or "the server does not say why"
    said = words(f"Said without a model, so there is no prompt: {why}.", "$muted")
    return [Block(key="none", content=said), *_spoken_blocks(line, name, "")]


def ids_blocks(line: InspectReply) -> list[Block]:
    """The prompt token by token: text and id, in the colour of its segment."""
    kinds = _kinds(line.segments, len(line.token_ids))
    texts = list(line.token_texts) or [""] * len(line.token_ids)
    parts: list[tuple[str, str]] = []
    cached = line.usage.cached_tokens
    for index, (token, text, kind) in enumerate(zip(line.token_ids, texts, kinds, strict=False)):
        if index == cached and cached > 0:
            parts.append((" ▏fresh▏ ", "bold $accent"))
        style = segment_style(kind)
        shown = clean(text).replace(" ", "␣") if text else ""
        parts += [(shown, f"{style}"), (f"·{token} ", "$muted")]
    head = f"{len(line.token_ids)} tokens, the first {cached} of them from the cache"
    if not line.token_texts:
        head += "; this server does not say what each spells"
    return [
        Block(key="head", content=Content.styled(head + "\n", "$muted")),
        Block(key="ids", content=Content.assemble(*parts)),
    ]


def _kinds(segments: list[PromptSegment], num_tokens: int) -> list[str]:
    """Each token's segment kind."""
    kinds = ["template"] * num_tokens
    for segment in segments:
        for index in range(segment.start, min(segment.end, num_tokens)):
            kinds[index] = segment.kind
    return kinds


def diff_blocks(line: InspectReply, before: InspectReply | None, name: str) -> list[Block]:
    """What came to, left or stayed in the prompt since the line before."""
    if before is None:
        said = "There is no line before this one." if not name else "Asking for the line before …"
        return [Block(key="none", content=words(said, "$muted"))]
    blocks = []
    for index, (mark, text) in enumerate(_changes(_lines_of(before), _lines_of(line))):
        style = {"+": "$success", "-": "$error", " ": "$muted"}[mark]
        content = words(f"{mark} {text}", style)
        blocks.append(Block(key=f"d{index}", content=content, indent=_DIFF_INDENT))
    return blocks


def _lines_of(line: InspectReply) -> list[str]:
    """The prompt's lines, each with the kind of segment it belongs to."""
    return [
        f"{segment.kind:<9} {text}"
        for segment in line.segments
        if segment.kind != "template"
        for text in segment.text.rstrip("\n").split("\n")
    ]


def _changes(before: list[str], after: list[str]) -> Iterator[tuple[str, str]]:
    """Lines marked "+", "-" or " "; long unchanged stretches are folded."""
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for tag, b0, b1, a0, a1 in matcher.get_opcodes():
        if tag == "equal":
            if a1 - a0 > 4:
                yield " ", after[a0]
                yield " ", f"… {a1 - a0 - 2} lines the same …"
                yield " ", after[a1 - 1]
            else:
                yield from ((" ", text) for text in after[a0:a1])
            continue
        yield from (("-", text) for text in before[b0:b1])
        yield from (("+", text) for text in after[a0:a1])


def logit_blocks(line: InspectReply) -> list[Block]:
    """Each token spoken: its probability, and what stood against it."""
    if not line.completion:
        said = "This server did not keep what the model weighed at this line."
        return [Block(key="none", content=words(said, "$muted"))]
    if all(token.logprob is None and not token.alternatives for token in line.completion):
        return _unweighed_blocks(line.completion)
    head = f"{'token':<15}{'chosen':<14}alternatives, before sampling"
    blocks = [Block(key="head", content=Content.styled(head, "$muted"))]
    for index, token in enumerate(line.completion):
        content = _logit_row(token)
        key = f"l{index}"
        blocks.append(Block(key=key, content=content, selectable=True, indent=_LOGIT_INDENT))
    return blocks


def _unweighed_blocks(tokens: list[CompletionToken]) -> list[Block]:
    """The tokens of a line for which nobody wanted to know what else was weighed."""
    said = (
        "Whoever asked for this line did not ask what else the model weighed. Say it again "
        "(s on Talk) to see that. These are its tokens:\n"
    )
    spelt = words(" ".join(_spelt(token.text) for token in tokens))
    return [
        Block(key="none", content=Content.styled(said, "$muted")),
        Block(key="tokens", content=spelt),
    ]


def _logit_row(token: CompletionToken) -> Content:
    chosen = None if token.logprob is None else math.exp(token.logprob)
    style = next((s for least, s in _WEIGHTS_STYLE if (chosen or 0) >= least), "")
    share = "    —" if chosen is None else f"{chosen:5.0%}"
    parts: list[Content | tuple[str, str] | str] = [
        words(_spelt(token.text).ljust(14)[:14], "bold"), (f" {share} ", style),
        bar(chosen or 0.0, 6, style), " ",
    ]  # fmt: skip
    for other in token.alternatives:
        colour = "$primary bold" if other.token_id == token.token_id else "$muted"
        # One word, so that no row ends between a token and its probability.
        parts += [words(f" {_spelt(other.text)}", colour),
                  (f"·{math.exp(other.logprob):.0%} ", "$faint")]  # fmt: skip
    if not token.alternatives:
        parts.append((" none were asked for", "$muted"))
    return Content.assemble(*parts)


def _spelt(text: str) -> str:
    """A token's text with its spaces visible."""
    return clean(text).replace(" ", "␣") or "∅"


def facts(line: InspectReply, width: int, *, brief: bool) -> Content:
    """Budget bar, times, sampler and routing, for a column `width` cells wide."""
    usage = line.usage
    rows = [*_budget(line, width)]
    prefill, queue = line.prefill_ms or max(0.0, usage.ttft_ms - usage.queue_ms), usage.queue_ms
    stages = [("queue", queue, "$warning"), ("prefill", prefill, "$secondary"),
              ("decode", line.decode_ms, "$primary")]  # fmt: skip
    rows += waterfall(stages, width)
    if brief:
        rows.append(_one_line_facts(line, width))
        return Content("\n").join(rows)
    rows += [Content(""), *_sampler_rows(line), Content(""), *_origin_rows(line, width)]
    if line.routing:
        rows += [Content(""), Content.styled("routing", "$muted")]
        rows += [words(f"· {reason}") for reason in line.routing]
    return Content("\n").join(rows)


def _budget(line: InspectReply, width: int) -> list[Content]:
    """The token budget as a bar coloured by segment, and its legend."""
    totals: dict[str, int] = {}
    for segment in line.segments:
        totals[segment.kind] = totals.get(segment.kind, 0) + segment.end - segment.start
    used = len(line.token_ids)
    context = line.context_tokens or used
    of = f"{used} of {line.context_tokens} tokens" if line.context_tokens else f"{used} tokens"
    legend: list[tuple[str, str]] = []
    room = width
    for kind, count in totals.items():
        label = f"■ {clean(kind)} {count}  "
        if len(label) > room:
            legend.append(("\n", ""))
            room = width
        room -= len(label)
        legend.append((label, segment_style(kind)))
    title = f"{of}, {usage_share(line)} cached"
    parts = [(float(count), segment_style(kind)) for kind, count in totals.items()]
    return [words(title, "$muted"), stacked(parts, context, width), Content.assemble(*legend)]


def usage_share(line: InspectReply) -> str:
    """The share of the prompt that came from the cache."""
    used = line.usage.prompt_tokens
    return f"{line.usage.cached_tokens / used:.0%}" if used else "—"


def _one_line_facts(line: InspectReply, width: int) -> Content:
    settings = " ".join(f"{clean(key)} {clean(str(value))}" for key, value in line.sampler.items())
    text = f"seed {line.seed} · {settings} · base {clean(line.base_digest[:10])}"
    if line.adapter:
        text += f" · {clean(line.adapter.name)} {clean(line.adapter.digest[:10])}"
    return Content.styled(text, "$muted").truncate(width, ellipsis=True)


def _sampler_rows(line: InspectReply) -> list[Content]:
    rows = [Content.assemble((f"{'seed':<21}", "$muted"), (str(line.seed), "bold"))]
    for key, value in line.sampler.items():
        if key == "seed":
            continue
        rows.append(Content.assemble(words(f"{key:<20} ", "$muted"), words(str(value))))
    return rows


def _origin_rows(line: InspectReply, width: int) -> list[Content]:
    adapter = line.adapter
    rows = [Content.assemble(("base     ", "$muted"), words(line.base_digest[: width - 9]))]
    if adapter:
        rows.append(
            Content.assemble(
                ("adapter  ", "$muted"), words(f"{adapter.name} v{adapter.version}"), "\n",
                "         ", words(adapter.digest[: width - 9], "$muted"),
            )
        )  # fmt: skip
    rate = number(line.usage.tokens_per_s, " tok/s")
    figures = f"{line.usage.completion_tokens} tokens, {rate}, {line.reason}"
    rows.append(Content.assemble(("spoken   ", "$muted"), words(figures)))
    return rows
