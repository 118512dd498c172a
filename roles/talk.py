"""Lines of characters: from `say` to what was said, done and remembered."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from engine.requests import Message
from protocol import messages as wire
from roles.blends import serves
from roles.budget import LEVELS
from roles.engines import Engine
from roles.errors import EncoderError, HushedError, LineError
from roles.house import House
from roles.leaning import leaning
from roles.line import Line
from roles.meaning import meaning_of
from roles.memory import Meaning
from roles.npc import ceiling, compose, recollections, sampling_params
from roles.offers import Offer, offer, reply_grammar
from roles.playthrough import PLAYER
from roles.prompt import turn
from roles.reply import ReplyReader
from roles.speech import Deadlines, obstacle, speak
from roles.summary import summarise
from roles.voice import LOOPED, Echo, Loop, Voice

_RETRIES = 2
_RETRY_TEMPERATURE = 0.9
_ENCODING = 0.25  # of the time for the first word, at most, goes to finding memories by meaning
OFFSTAGE = "the character is offstage"
REPEATED = "the model said a line of a moment ago, word for word"


class Talk:
    """One line of one character, from request to reply."""

    def __init__(self, house: House, key: str, body: wire.SayRequest) -> None:
        self.house, self.body, self.play = house, body, house.play
        self.character = house.character(body.agent)
        self._check_hush()
        self.offers = _offers(house, body)
        self.engine = self._engine()
        self.focus, why = self.character.focus(body.focus)
        self.level = LEVELS[self.focus]
        self.line = Line(
            id=house.play.next_line(),
            key=key,
            agent=body.agent,
            tier=self.engine.tier,
            speaker=body.speaker,
            said=body.text,
            epoch=house.epoch,
            scene=body.scene,
            conversation=body.conversation,
            offered=tuple(one.shown for one in self.offers),
            routing=[why],
        )
        self.dialogue = house.play.dialogue(body.agent, body.speaker, body.conversation)
        self.listeners = house.play.present(body.scene)
        self.reader = ReplyReader()
        self.meaning: Meaning | None = None

    async def run(self, client_deadline_s: float | None) -> AsyncGenerator[wire.Body, None]:
        """Speak: Accepted, Delta*, SayReply. What was spoken is kept, whatever happens."""
        if self.body.scene and self.body.speaker == PLAYER:
            await self.house.quieten(self.body.scene)
        yield self.house.began(self.line)
        whole = False
        try:
            async with self.house.mouth(self.dialogue.key):
                self._check_hush()
                deadlines = self._deadlines(client_deadline_s)
                self.line.cause = await self._obstacle(deadlines)
                await self._mean()
                said = self._compose()
                self.line.waited_s = time.monotonic() - self.line.arrived_s
                self.house.check(self.line)
                async with aclosing(self._speak(deadlines)) as pieces:
                    async for piece in pieces:
                        self.line.emotion = self.reader.mood
                        yield self.house.spoke(self.line, piece)
                self.house.check(self.line)
                if not self.line.text:
                    yield self._stand_in()
                whole = True
                self._keep(said)
        finally:
            if not whole and self.line.text and self.line.epoch == self.house.epoch:
                self.line.cause = self.line.cause or "cancelled while speaking"
                self._keep(said)
            self.line.ended_s = time.time()
            self.house.ended(self.line, whole=whole)
        yield self.line.reply(self.house.world.spec.text.letters_per_s)

    def _check_hush(self) -> None:
        """Raises: HushedError while the game plays a scripted scene."""
        if self.body.agent in self.play.hushed:
            raise HushedError(f"{self.body.agent} is in a hushed scene; lift the hush first")

    async def _speak(self, deadlines: Deadlines) -> AsyncGenerator[str, None]:
        """Speak; what nobody needs to hear is tried again, unheard, with other seeds."""
        for attempt in range(1 + _RETRIES):
            echo = Echo(() if self.body.ephemeral else self.play.recent)
            voice = Voice(self.house.world.spec.text, self.character.spec.name)
            loop = Loop()
            with self.house.speaking(self.line, self.engine):
                speech = speak(self.engine, self.line, self.reader, deadlines)
                async with aclosing(speech) as pieces:
                    async for piece in pieces:
                        if shown := voice.feed(echo.feed(loop.feed(piece))):
                            yield shown
                        if loop.found:
                            await self.house.cut(self.line)
            last = echo.feed(loop.finish())  # before it is judged: words that were held back
            if not (fault := self._fault(echo, loop)):
                break
            if self.line.text or attempt == _RETRIES:
                self.line.cause = fault
                break
            self._try_again(attempt + 1, fault)
        rest = voice.feed(last + echo.finish()) + voice.finish()
        if loop.found and (self.line.text + rest)[-1:].isalnum():
            rest += "..."
        if rest:
            yield rest

    def _fault(self, echo: Echo, loop: Loop) -> str:
        """What is wrong with the words that came, or "" where they may stand."""
        if loop.found:
            return LOOPED
        return REPEATED if echo.repeats and not self.line.cause else ""

    def _try_again(self, attempt: int, fault: str) -> None:
        """Set the line up for another attempt; the player has heard nothing of the last one."""
        line, sampling = self.line, self.line.sampling
        line.routing.append(f"tried again with another seed: {fault}")
        temperature = max(sampling.temperature, _RETRY_TEMPERATURE)
        seed = (sampling.seed + attempt) % wire.MAX_INTEGER
        line.sampling = replace(sampling, seed=seed, temperature=temperature)
        line.key = f"{line.key}.{attempt}"
        line.started = line.finished = None
        line.cause = ""
        line.deltas.clear()
        self.reader = ReplyReader()

    def _engine(self) -> Engine:
        """The engine that speaks: the character's, unless the request says otherwise."""
        tier = self.body.tier or "npc"
        engine = self.house.engines.get(tier)
        if tier == "book" or engine is None:
            raise LineError(f"a character cannot speak from tier {tier!r}; use npc or director")
        return engine

    async def _obstacle(self, deadlines: Deadlines) -> str:
        """Why the model can't speak this line, or "" if it can; then the adapter is chosen."""
        if self.focus == "offstage":
            self._tell_director()
            return OFFSTAGE
        cause = await obstacle(self.engine, deadlines)
        if not cause:
            self.line.routing.append(await self._choose_adapter())
        return cause

    def _tell_director(self) -> None:
        """Whoever is offstage is the director's: it hears what happens to them in a sentence."""
        speaker = self.play.display_name(self.body.speaker)
        name = self.character.spec.name
        self.play.director.note(f"{speaker} said to {name}, who is elsewhere: {self.body.text}")

    async def _choose_adapter(self) -> str:
        """Pick the adapter, and say why."""
        engine, own = self.engine, self.body.agent
        wanted = self.body.adapter or (self.character.part.adapter if engine.tier == "npc" else "")
        if wanted and not await serves(self.house, engine, wanted):
            if self.body.adapter is not None:
                raise LineError(f"the {engine.tier} engine has no adapter {wanted!r}")
            self.line.routing.append(f"adapter {wanted} can't be had; {own}'s own instead")
            wanted = ""
        name = wanted or own
        if name in engine.adapters and engine.tier == "npc":
            self.line.adapter = engine.use(name)
            return f"adapter {name} version {self.line.adapter.version} on the npc engine"
        why = engine.refused.get(name, "none is loaded")
        return f"the bare base of the {engine.tier} engine, no adapter: {why}"

    async def _mean(self) -> None:
        """Have what is said understood, where the world has an encoder and there is time."""
        encoder, level = self.house.engines.encoder, self.level
        if encoder is None or self.line.cause or not level.num_memories:
            return
        limit_s = self.house.patience_ms(self.engine) * level.deadline_share * _ENCODING / 1000
        try:
            self.meaning = await meaning_of(
                encoder, self.play.memories, self.body.agent, self.body.text, limit_s
            )
        except EncoderError as error:
            self.line.routing.append(f"memories by their words alone: {error}")

    def _compose(self) -> Message:
        """Set the line's prompt and sampling; returns the message that is new in it."""
        table, line, level = self.engine.table, self.line, self.level
        seed = self.play.seed(line.id) if self.body.seed is None else self.body.seed
        params = sampling_params(
            table.sampling,
            self.character.spec.sampling,
            seed,
            max_tokens=self.body.max_tokens,
            temperature=self.body.temperature,
            top_p=self.body.top_p,
        )
        most = ceiling(level, table.context, params.max_tokens)
        said = self._fitting(most.prompt)
        if self.focus != "offstage":
            if self._make_room(most.prompt, said):
                said = self._fitting(most.prompt)  # what has left may now come as a memory
            messages, cut = compose(
                self.character.system, self.dialogue, said, self.engine.counter, most
            )
            line.prompt = messages
            line.routing += [cut] if cut else []
        bias = leaning(self.house.world, self.offers, line.prompt)
        if bias:
            line.routing.append("leans towards " + ", ".join(repr(text) for text, _ in bias))
        line.sampling = replace(
            params,
            max_tokens=most.reply,
            num_top_logprobs=self.body.top_logprobs,
            constraint=reply_grammar(self.house.world.spec.emotions, self.offers),
            logit_bias=bias,
        )
        line.priority, line.context_tokens = level.priority, table.context
        return said

    def _fitting(self, prompt_tokens: int) -> Message:
        """What is said now, with as many notes as fit beside it."""
        level, counter = self.level, self.engine.counter
        said = self._said(level.num_facts, level.num_memories)
        for most in (1, 0):
            if counter.count_messages([self.character.system, said]) <= prompt_tokens:
                break
            said = self._said(most, most)
        return said

    def _said(self, num_facts: int, num_memories: int) -> Message:
        """What is said now, with the notes of this moment before it."""
        play, body = self.play, self.body
        scopes = self.house.world.scopes(body.agent, play.place(body.agent, body.scene))
        asked = self.house.world.npcs[body.agent].name
        happened = play.director.happened
        facts = play.lore.relevant(body.text, scopes, happened, num_facts, asked=asked)
        memories = recollections(
            play.memories,
            body.agent,
            body.speaker,
            body.text,
            self.dialogue,
            play.now,
            num_memories,
            in_scene=bool(body.scene),
            meaning=self.meaning,
        )
        notes = self.character.notes(
            scene=self._new_scene(),
            facts=[fact.text for fact in facts],
            memories=memories,
            offers=self.offers,
        )
        return turn(play.display_name(body.speaker), body.text, notes)

    def _new_scene(self) -> tuple[str, list[str]] | None:
        """Place and people, where the model has not been told of them yet."""
        play, body = self.play, self.body
        place = self.house.world.spec.places[play.place(body.agent, body.scene)]
        present = [play.display_name(npc) for npc in play.present(body.scene) if npc != body.agent]
        notes = self.character.notes(scene=(place, present), facts=(), memories=(), offers=())
        shown = next((x.text for x in notes.segments() if x.kind == "scene"), "")
        return None if shown == self.dialogue.last_text("scene") else (place, present)

    def _make_room(self, prompt_tokens: int, said: Message) -> bool:
        """When the tier's context is full, the older half of the talk becomes a summary."""
        if self.level.context_share < 1.0 or self.body.ephemeral:
            return False  # it sees less, this once; the conversation itself stays whole
        counter = self.engine.counter
        fixed = counter.count_messages([self.character.system, said])
        left = self.dialogue.roll_up(counter, max(prompt_tokens - fixed, 0))
        if left:
            summary = summarise(left, self.character.spec.name)
            self.play.memories.add(
                self.body.agent,
                summary,
                kind="summary",
                now=self.play.now,
                importance=0.6,
                participants=[self.body.speaker, self.body.agent],
            )
            self.line.routing.append(f"context full: {len(left)} messages became a summary")
        return bool(left)

    def _deadlines(self, client_deadline_s: float | None) -> Deadlines:
        share = self.level.deadline_share
        patience_ms = self.house.patience_ms(self.engine) * share
        self.line.routing.append(f"first word due in {patience_ms:.0f} ms")
        return Deadlines.after(patience_ms / 1000, client_deadline_s)

    def _stand_in(self) -> wire.Delta:
        """No word came: a spare line of the character's own, and never another after it."""
        self.line.fallback = True
        self.line.cause = self.line.cause or "the model had nothing to say"
        self.line.emotion, text = self.character.fallback(self.line.sampling.seed)
        return self.house.spoke(self.line, text)

    def _keep(self, said: Message) -> None:
        """What was said and offered becomes history and memory."""
        line = self.line
        line.raw = self.reader.raw
        if not line.fallback:
            line.emotion = self.reader.mood or self.character.part.mood
            line.actions = _allowed(self.reader, self.offers)
        if self.body.ephemeral:
            return
        with self.house.store.transaction():
            # What broke off is kept as it was heard; a whole line as the model wrote it.
            spoken = line.text if line.cause else self.reader.spoken
            answer = self.character.history(line.actions, spoken, line.emotion)
            self.play.remember_words(spoken)
            self.dialogue.append(line.id, [said, answer])
            self.play.remember_line(line, self.listeners)
            if line.actions:
                calls = [action.model_dump() for action in line.actions]
                self.house.store.set(f"actions:{line.id}", {"agent": line.agent, "calls": calls})
            if line.agent in self.play.cast:  # a reload may have taken it out of the world
                self.play.cast[line.agent].spoke(line.emotion)
                self._feel()

    def _feel(self) -> None:
        """The mood of a line shows what is felt for whom it answers, and moves it."""
        line = self.line
        if line.fallback:
            return
        step = self.house.world.regard_of(line.emotion)
        now = self.play.feel(line.agent, line.speaker, step)
        line.routing.append(
            f"feels {now:+.2f} for {line.speaker}: {step:+.2f} for being {line.emotion}"
        )


def _offers(house: House, body: wire.SayRequest) -> list[Offer]:
    if body.actions is None:
        return [offer(house.world, name, {}) for name in house.world.spec.actions]
    return [offer(house.world, one.name, one.arguments) for one in body.actions]


def _allowed(reader: ReplyReader, offers: list[Offer]) -> list[wire.ActionCall]:
    """The actions that were offered with these arguments; the grammar lets no others out."""
    known = {one.name: one for one in offers}
    calls = []
    for action in reader.actions:
        try:
            known[action.name].check(action.arguments)
        except (KeyError, LineError):
            continue
        calls.append(wire.ActionCall(name=action.name, arguments=action.arguments))
    return calls
