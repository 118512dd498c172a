"""What can happen in one exchange: questions of fact, small talk, requests, memories."""

from __future__ import annotations

from roles.corpus.facts import Fact
from roles.corpus.talk import Conversation, Intent, Line, deed_note, some_offer
from roles.prompt import action_line

# How often an answer is the noted fact itself. Choosing a fact and copying it is what a small
# model can learn; an answer of other words is where names go wrong.
WORD_FOR_WORD = 0.8


def fact(talk: Conversation) -> Line:
    """A question about a fact of this turn's notes (now and then of a memory)."""
    known = talk.stock.relations.fact(talk.draw)
    return _answered(talk, known, known.ask(talk.draw))


def fact_again(talk: Conversation) -> Line:
    """Another question about the last subject, by pronoun."""
    if talk.last is None:
        return fact(talk)
    known = talk.stock.relations.fact(talk.draw, about=talk.last)
    return _answered(talk, known, known.ask_again(talk.draw))


def fact_before(talk: Conversation) -> Line:
    """A question about a fact of an earlier turn, which isn't noted again."""
    if not talk.known:
        return fact(talk)
    known = talk.draw.choice(talk.known)
    line = _answered(talk, known, known.ask(talk.draw))
    line.facts, line.memories = [], []
    return line


def _answered(talk: Conversation, known: Fact, asked: str) -> Line:
    draw = talk.draw
    core, own = known.text if draw.chance(WORD_FOR_WORD) else known.answer(draw), False
    if draw.chance(0.25 + talk.me.own / 2):
        core, own = talk.say("fact", "bare", core=core)
    line = Line(asked=asked, core=core, own=own, must=[known.value])
    if draw.chance(0.15):
        teller = draw.choice([talk.you, draw.phrase("person")])
        source = draw.choice([f"{teller} said: ", f"{teller} said: ", ""])
        line.memories = [source + known.text]
    else:
        line.facts = [known]
    talk.known.append(known)
    talk.last = known
    return line


def told(talk: Conversation) -> Line:
    """The player tells something; it may be asked back later."""
    known = talk.stock.relations.fact(talk.draw)
    asked = talk.draw.pick("told/say", fact=known.text)
    symbol = "unknown_person" if known.relation.subject_kind in ("person", "title") else ""
    core, own = talk.say("told", "told/reply", topic=known.subject)
    if symbol:
        core = core.replace("the " + known.subject, known.subject)
    talk.known.append(known)
    talk.last = known
    return Line(asked=asked, core=core, own=own, mood=_mood(talk, "told"), must=[known.subject])


def unknown(talk: Conversation) -> Line:
    """A question nothing in the notes answers."""
    known = talk.stock.relations.fact(talk.draw)
    nameless = known.relation.subject_kind in ("person", "title")
    symbol = "unknown_person" if nameless else "unknown"
    core, own = talk.say(symbol, symbol, x=known.subject)
    talk.last = None
    line = Line(asked=known.ask(talk.draw), core=core, own=own, must=[])
    if talk.draw.chance(0.5):
        line.facts = [talk.stock.relations.fact(talk.draw)]
    return line


def hidden(talk: Conversation) -> Line:
    """A question the director wants left unanswered, though the answer is in the notes."""
    known = talk.stock.relations.fact(talk.draw)
    subject = known.subject
    if known.relation.subject_kind in ("person", "title"):
        about = subject
    else:
        about = talk.draw.text("#x.the#", x=subject)
    note = talk.draw.text(
        "{hide what you know about #x#|don't talk about #x#|keep quiet about #x#|"
        "say nothing about #x#|refuse to speak of #x#}",
        x=about,
    )
    core, own = talk.say("hidden", "hidden", x=about)
    return Line(
        asked=known.ask(talk.draw),
        core=core,
        own=own,
        facts=[known],
        goal=note,
        mood=_mood(talk, "secret"),
    )


def reveal(talk: Conversation) -> Line:
    """The director wants a fact told, whatever was asked."""
    known = talk.stock.relations.fact(talk.draw)
    plain = known.text.rstrip(".!?")
    goal = talk.draw.text(
        "{tell #them# that|reveal that|let slip that|let #them# know that} #x#",
        them=talk.draw.choice(["the visitor", "the player", talk.you]),
        x=talk.draw.text("#x.uncap#", x=plain),
    )
    line = small_talk(talk)
    prefix = talk.draw.text("{One more thing.|By the way:|You should know this.|Listen.|}")
    line.goal, line.goal_line = goal, f"{prefix} {known.text}".strip()
    line.must = [known.value]
    talk.known.append(known)
    talk.last = known
    return line


def small_talk(talk: Conversation) -> Line:
    """Greetings, insults, jokes, opinions, nonsense and all the rest of talk.yaml."""
    draw = talk.draw
    name = draw.choice(talk.stock.intents)
    kind = talk.stock.intent_topics.get(name, "")
    bindings = {"x": draw.phrase(kind)} if kind else {}
    mood = _mood(talk, name) or talk.usual_mood()
    if name == "who_is_here":
        bindings["others"] = " and ".join(talk.others) if talk.others else ""
        if not talk.others:
            name = "alone"
    asked = draw.pick(f"{name}/say", **talk.names(), mood=mood, **bindings)
    core, own = talk.say(name, f"{name}/reply", mood=mood, **bindings)
    line = Line(asked=asked, core=core, own=own, mood=mood)
    if name == "where_are_we":
        line.place, line.must = talk.place, [talk.place]
    if name == "who_is_here":
        line.present, line.must = talk.others, list(talk.others)
    if name in ("like_x", "favourite", "can_you", "meaning"):
        talk.last = None
    return line


def echo(talk: Conversation) -> Line:
    """The player wants words repeated: names, phrases, made-up words."""
    draw = talk.draw
    kind = draw.choice(["person", "coined", "thing", "title", "names", "words", "inscription"])
    if kind == "names":
        said = ", ".join(draw.phrases("first", draw.rng.randint(2, 4)))
    elif kind == "words":
        said = " ".join(draw.phrases("coined", draw.rng.randint(2, 4)))
    else:
        said = draw.phrase(kind)
    asked = draw.text("{Repeat after me: |Say: |Say this: |Repeat: |After me: }") + " " + said
    said = said[:1].upper() + said[1:]
    core = draw.text("#x#.{| Satisfied?| There.| And now?}", x=said)
    return Line(asked=asked, core=core, must=[said], own=True, bare=draw.chance(0.7))


def own_trait(talk: Conversation) -> Line:
    """A question about the character itself, answered from its persona."""
    draw = talk.draw
    if not talk.me.traits:
        return small_talk(talk)
    trait = draw.choice(list(talk.me.traits))
    value = talk.me.traits[trait]
    core, own = talk.say(f"trait/{trait}", f"trait/{trait}/reply", x=value)
    by_name = f"trait/{trait}/ask_x"
    symbol = by_name if value and draw.has(by_name) and draw.chance(0.5) else f"trait/{trait}/ask"
    asked = draw.pick(symbol, x=value)
    return Line(asked=asked, core=core, own=own, must=[value] if value else [])


def remembered(talk: Conversation) -> Line:
    """ "Do you remember me?", with or without something to remember."""
    draw = talk.draw
    if draw.chance(0.35):
        core, own = talk.say("not_met", "not_met/reply")
        return Line(asked=draw.pick("not_met/say"), core=core, own=own, mood=_mood(talk, "not_met"))
    note, deed = deed_note(draw, talk.me.name, talk.you)
    core = draw.pick("memory/recall", deed=deed)
    core, own = talk.say("met", "met/reply", memory=core)
    return Line(asked=draw.pick("met/say"), core=core, own=own, memories=[note], must=[])


def request(talk: Conversation) -> Line:
    """The player wants something done: acted on when offered, else refused."""
    draw = talk.draw
    kind, offered, name, choices = some_offer(draw, talk.stock)
    argument = next(iter(choices), "")
    wanted = draw.choice(choices[argument]) if argument else ""
    possible = draw.chance(0.65)
    if not possible and argument:
        wanted = draw.phrase(next(iter(talk.stock.actions[kind].values())))
    slots = {"x": wanted, "prm": draw.choice(["her", "him"])}
    asked = draw.pick(f"{kind}/ask", **talk.names(), **slots)
    outcome = "do" if possible else "refuse"
    core, own = talk.say(f"act/{kind}/{outcome}", f"{kind}/{outcome}", **slots)
    line = Line(asked=asked, core=core, own=own, must=[wanted] if wanted else [])
    if possible:
        line.action = action_line(name, {argument: wanted} if argument else {})
        line.offers = _among_others(talk, offered)
    elif argument and draw.chance(0.5):
        line.offers = [offered]
    return line


def told_to_act(talk: Conversation) -> Line:
    """The director wants an action done, whatever was said."""
    draw = talk.draw
    kind, offered, name, choices = some_offer(draw, talk.stock)
    argument = next(iter(choices), "")
    wanted = draw.choice(choices[argument]) if argument else ""
    slots = {"x": wanted, "prm": draw.choice(["her", "him"])}
    line = small_talk(talk)
    line.goal = draw.pick(
        f"{kind}/goal", them=draw.choice(["the visitor", "the player", talk.you]), **slots
    )
    line.goal_line, _ = talk.say(f"act/{kind}/do", f"{kind}/do", **slots)
    line.offers = _among_others(talk, offered)
    line.action = action_line(name, {argument: wanted} if argument else {})
    line.must = [wanted] if wanted else []
    return line


def _among_others(talk: Conversation, offered: str) -> list[str]:
    offers = [offered]
    while talk.draw.chance(0.4) and len(offers) < 3:
        other = some_offer(talk.draw, talk.stock)[1]
        if other.split("(")[0] not in {known.split("(")[0] for known in offers}:
            offers.append(other)
    talk.draw.rng.shuffle(offers)
    return offers


def _mood(talk: Conversation, intent: str) -> str:
    moods = [mood for mood in talk.stock.intent_moods.get(intent, []) if mood in talk.stock.moods]
    return talk.draw.choice(moods) if moods and talk.draw.chance(0.75) else ""


WEIGHTED: dict[Intent, int] = {
    fact: 26,
    fact_again: 8,
    fact_before: 16,
    told: 5,
    unknown: 9,
    hidden: 3,
    reveal: 4,
    small_talk: 34,
    own_trait: 6,
    echo: 3,
    remembered: 4,
    request: 8,
    told_to_act: 2,
}
