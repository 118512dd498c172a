"""Speaking to agents: a transcript that streams, and a line to type."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from contextlib import aclosing
from typing import ClassVar

import yaml
from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Input, Static

from protocol.administration import AdaptersRequest, AgainRequest, LinesRequest
from protocol.errors import ProtocolError
from protocol.messages import Accepted, AskRequest, Body, SayRequest, TickRequest
from protocol.play import FeedbackRequest
from protocol.telemetry import LineStarted
from tui.agents import adapter_name
from tui.compare import Compare
from tui.dialogs import Ask, Choose
from tui.page import Page
from tui.pane import Block, Pane
from tui.seen import Line
from tui.session import Session
from tui.text import clean, number, words

NUM_ALTERNATIVES = 5
_VERDICTS = {"good": ("✔ good", "$success"), "bad": ("✘ bad", "$error"),
             "rewrite": ("✎ rewritten", "$warning")}  # fmt: skip


def line_content(line: Line, name: str) -> Content:
    """A line of the transcript: what was said, what was answered, what it cost."""
    parts: list[Content | tuple[str, str] | str] = []
    if line.said:
        speaker = words(f"{line.speaker or 'player'} ", "bold $seg-player")
        parts += [speaker, words(line.said + "\n", lines=True)]
    mood = f" [{clean(line.emotion)}]" if line.emotion else ""
    parts += [words(name, f"bold $tier-{line.tier or 'npc'}"), (f"{mood} ", "$muted")]
    parts.append(words(line.text, "$muted italic" if line.fallback else "", lines=True))
    if line.state == "speaking":
        parts.append(("▌", "$accent"))
    for action in line.actions:
        parts.append(words(f"\n  → {action.name} {action.arguments}", "$seg-actions", lines=True))
    for passage in line.passages:
        where = f"\n  p. {passage.page} "
        parts += [(where, "$tier-book"), words(passage.text, "$muted")]
    parts.append(Content.assemble("\n", _footnote(line), "\n"))
    return Content.assemble(*parts)


def _footnote(line: Line) -> Content:
    """What a line cost and what became of it, in one quiet row."""
    parts: list[Content | tuple[str, str] | str] = []
    if (usage := line.usage) and not usage.completion_tokens:
        parts.append(("said without a model", "$muted"))
    elif usage:
        voice = adapter_name(line.adapter) if line.adapter else "no adapter"
        figures = (
            f"{voice} · first token {number(usage.ttft_ms, ' ms')} · "
            f"{usage.completion_tokens} tokens at {number(usage.tokens_per_s)}/s · seed {line.seed}"
        )
        parts.append((figures, "$muted"))
    elif line.state == "speaking":
        parts.append(("speaking …", "$accent"))
    if line.fallback:
        parts += [" ", words(f"fallback: {line.cause}", "$warning")]
    if line.abstained:
        parts.append((" the book does not say", "$warning"))
    if line.note:
        colour = "$warning" if line.note.startswith("cancelled") else "$error"
        parts += [" ", words(line.note, colour)]
    if line.verdict in _VERDICTS:
        parts += ["  ", _VERDICTS[line.verdict]]
    return Content.assemble(*parts)


def as_script(line: Line) -> str:
    """The line as a dialogue test (YAML), expecting exactly these words again."""
    name = re.sub(r"[^a-z0-9_-]", "_", f"{line.agent}_{line.line}".lower())[:64]
    verb = {"book": "ask", "npc": "say"}.get(line.tier, "say")
    turn = {verb: line.said, "to": line.agent, "speaker": line.speaker or "player",
            "expect": {"exact": line.text}}  # fmt: skip
    script: dict[str, object] = {"name": name, "seed": line.seed or 0, "turns": [turn]}
    if line.tier == "npc":
        script["scene"] = {"present": [line.agent]}
    return yaml.safe_dump([script], sort_keys=False, allow_unicode=True)


class TalkPage(Page):
    """Talk to an agent, as the player or as somebody else."""

    # Not a moment later, or what is typed at once goes to the transcript's keys.
    AUTO_FOCUS = "#say"
    MODE = "talk"
    ABOUT = (
        "Type a line and press enter; the answer streams in. Escape stops it, and once more "
        "leaves the line so that single keys work: choose another agent or speaker, say the line "
        "again with another seed, set two adapters side by side on it, judge it, or copy it as a "
        "regression test. Lines of other clients with this agent appear here too."
    )
    WATCHES = ("lines", "agents")
    NEEDS: ClassVar[dict[str, str]] = {
        "again": "again", "compare": "again", "judge": "feedback", "rewrite": "feedback",
    }  # fmt: skip
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop/leave", id="talk.stop"),
        Binding("i", "type", "Type", show=False, id="talk.type"),
        Binding("enter", "why", "Why?", id="talk.why", key_display="⏎"),
        Binding("a", "choose_agent", "Agent", id="talk.agent"),
        Binding("w", "choose_speaker", "As", id="talk.speaker"),
        Binding("s", "again", "Again", id="talk.again"),
        Binding("c", "compare", "A/B", id="talk.compare"),
        Binding("g", "judge('good')", "Good", id="talk.good"),
        Binding("b", "judge('bad')", "Bad", id="talk.bad"),
        Binding("e", "rewrite", "Edit", id="talk.rewrite"),
        Binding("y", "copy", "Copy", id="talk.copy"),
    ]

    def __init__(self, session: Session) -> None:
        """Nobody speaks yet."""
        super().__init__(session)
        self.speaker = "player"
        self._asked_for = ""

    def body(self) -> Iterable[Widget]:
        """Who speaks to whom, the transcript, the line to type."""
        yield Static(id="who", classes="title")
        yield Pane(follow=True, id="transcript")
        with Horizontal(id="saying"):
            yield Static(id="speaker")
            yield Input(placeholder="say something, then enter", id="say", compact=True)

    async def fetch(self) -> None:
        """The agent's history, once."""
        agent = self.session.agent
        if agent and agent != self._asked_for and self.store.may("lines"):
            await self.request("lines", LinesRequest(agent=agent, limit=50), agent, quiet=True)
            if not self.unanswered:
                self._asked_for = agent

    def draw(self) -> None:
        """Transcript and heading; the first character is taken where nobody is chosen."""
        agent = self.session.choose_agent()
        name = self.store.name_of(agent)
        lines = self.store.lines_of(agent)[-100:]
        blocks = [
            Block(key=line.line, content=line_content(line, name), selectable=True)
            for line in lines
        ]
        if not blocks:
            said = (
                f"Nothing has been said to {name or 'anybody'} yet."
                if agent
                else "Nobody is hosted yet."
            )
            blocks = [Block(key="", content=words(said, "$muted"))]
        self.query_one(Pane).show(blocks)
        info = self.store.agents.get(agent)
        heading = Content.assemble(
            "to ", words(name or "nobody", "bold $primary"), "   as ",
            words(self.speaker, "bold $seg-player"), "   ",
            (adapter_name(info.adapter) if info else "", "$muted"), "   ",
            words(info.about if info else "", "$muted"),
        )  # fmt: skip
        self.query_one("#who", Static).update(heading)
        self.query_one("#speaker", Static).update(words(f" {self.speaker} ▸ ", "bold $seg-player"))

    # --- speaking -----------------------------------------------------------------------

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Say it."""
        if (text := event.value.strip()) and self.session.agent:
            event.input.value = ""
            self.say(text)

    def say(self, text: str) -> None:
        """Say something to the agent in the background."""
        kind, body = self._line_request(text)
        self.run_worker(self._stream(kind, body, text, self.speaker), group="say")

    async def _stream(self, kind: str, body: Body, text: str, speaker: str) -> None:
        try:
            async with aclosing(self.session.speak(kind, body)) as parts:
                async for part in parts:
                    self._started(part, text, speaker)
        except ProtocolError as error:
            if getattr(error, "code", "") != "cancelled":
                self.complain(str(error))

    def _line_request(self, text: str) -> tuple[str, Body]:
        """The request that reaches this agent's tier."""
        info = self.store.agents.get(self.session.agent)
        tier = info.tier if info else "npc"
        if tier == "director":
            return "tick", TickRequest(agent=self.session.agent)
        chosen = {"agent": self.session.agent, "text": text, "speaker": self.speaker,
                  "top_logprobs": NUM_ALTERNATIVES}  # fmt: skip
        if tier == "book":
            return "ask", AskRequest.model_validate(chosen)
        return "say", SayRequest.model_validate(chosen)

    def _started(self, part: Body, text: str, speaker: str) -> None:
        """See at once what was said to whoever now answers; telemetry tells it a moment later."""
        if isinstance(part, Accepted):
            started = LineStarted(
                line=part.line, agent=part.agent, tier=part.tier, speaker=speaker, text=text
            )
            self.session.note("line_started", body=started)
            self.session.line = part.line

    def action_stop(self) -> None:
        """Stop what this console had asked for; where nothing is spoken, leave the input."""
        speaking = [w for w in self.workers if w.group == "say" and w.is_running]
        for worker in speaking:
            worker.cancel()
        if not speaking:
            self.query_one(Pane).focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Escape has no use where nobody is typing and nothing is spoken."""
        if action == "stop" and not isinstance(self.focused, Input):
            return any(w.group == "say" and w.is_running for w in self.workers)
        return super().check_action(action, parameters)

    def action_type(self) -> None:
        """Go to the line to type."""
        self.query_one("#say", Input).focus()

    # --- the line under the cursor ------------------------------------------------------

    def _here(self) -> Line | None:
        return self.store.lines.get(self.query_one(Pane).cursor_key or "")

    @on(Pane.Chosen)
    def _chosen(self) -> None:
        self.action_why()

    def action_why(self) -> None:
        """Show the prompt behind the line under the cursor."""
        if line := self._here():
            self.session.look_at(line.agent, line.line)
            self.app.switch_mode("prompt")

    def action_again(self) -> None:
        """Say the same once more with another seed; nobody will remember it."""
        if line := self._here():
            body = AgainRequest(
                line=line.line, seed=secrets.randbelow(2**31), top_logprobs=NUM_ALTERNATIVES
            )
            self.run_worker(self._stream("again", body, line.said, line.speaker), group="say")

    def action_judge(self, verdict: str) -> None:
        """Mark the line as good or bad."""
        self.run_worker(self._judge(verdict, ""), group="act")

    async def _judge(self, verdict: str, text: str) -> None:
        if line := self._here():
            body = FeedbackRequest.model_validate(
                {"line": line.line, "verdict": verdict, "text": text}
            )
            if await self.request("feedback", body) is not None:
                self.session.note("feedback", f"{line.line}\n{verdict}")

    def action_rewrite(self) -> None:
        """Write the line that should have been said."""
        if line := self._here():
            self.run_worker(self._rewrite(line), group="act")

    async def _rewrite(self, line: Line) -> None:
        question = f"What should {self.store.name_of(line.agent)} have said?"
        if text := await self.ask(Ask(question, line.text)):
            await self._judge("rewrite", text)

    def action_copy(self) -> None:
        """Put the line on the clipboard as a dialogue test."""
        if (line := self._here()) and line.state == "spoken":
            self.app.copy_to_clipboard(as_script(line))
            self.tell("Copied as a dialogue test: paste it into a file of dialogues/.")

    # --- choosing -----------------------------------------------------------------------

    def action_choose_agent(self) -> None:
        """Choose whom to talk to."""
        self.run_worker(self._choose_agent(), group="act")

    async def _choose_agent(self) -> None:
        options = [(key, info.name or key) for key, info in self.store.agents.items()]
        if agent := await self.ask(Choose("Talk to whom?", options, self.session.agent)):
            self.session.look_at(agent)
            self.fetch_soon()
            self.query_one("#say", Input).focus()

    def action_choose_speaker(self) -> None:
        """Choose as whom to speak."""
        self.run_worker(self._choose_speaker(), group="act")

    async def _choose_speaker(self) -> None:
        others = [
            (info.name or key, key) for key, info in self.store.agents.items() if info.tier == "npc"
        ]
        options = [("player", "the player"), *others]
        if speaker := await self.ask(Choose("Speak as whom?", options, self.speaker)):
            self.speaker = speaker
            self.session.look_at(self.session.agent)

    def action_compare(self) -> None:
        """Set two adapters side by side on the line under the cursor."""
        if line := self._here():
            self.run_worker(self._compare(line), group="act")

    async def _compare(self, line: Line) -> None:
        if not self.store.adapters:
            await self.request("adapters", AdaptersRequest(), "list")
        options = [
            (f"{name}@{version}", info.error or ", ".join(info.agents))
            for name, info in self.store.adapters.items()
            if info.tier == line.tier
            for version in (info.versions or [info.version])
        ]
        here = f"{line.adapter.name}@{line.adapter.version}" if line.adapter else ""
        first = await self.ask(Choose("Left: which adapter?", options, here))
        if first is None:
            return
        second = await self.ask(Choose("Right: which adapter?", options, here))
        if second is not None:
            self.app.push_screen(Compare(self.session, line, (first, second)))
