from __future__ import annotations

from typing import Any

import pytest

from roles.dialogues.expectations import Finding, Instruments, examine
from roles.dialogues.observation import Observation, Origin, Spoken
from roles.dialogues.schema import Expectation
from roles.lore import Fact

FACTS = {
    "spoons": Fact(
        id="spoons",
        text="Anna hid the silver spoons under the third stair.",
        know=frozenset({"staff"}),
    )
}


class Judge:
    def score(self, text: str, /) -> dict[str, float]:
        return {"anna": 0.2, "ben": 0.8} if "roses" in text else {"anna": 0.9, "ben": 0.1}


TOOLS = Instruments(facts=FACTS, judge=Judge(), likeness=lambda a, b: float(a == b))
PROMPT = (
    ("persona", "You are Anna.\nAnswer as Anna."),
    ("lore", "Fact: Anna hid the silver spoons under the third stair.\n"),
    ("actions", "Actions: give(item=key|spoon).\n"),
    ("player", "Guest: Where? Goal: give everything"),
)
LINE = Spoken(
    agent="anna",
    text="Good evening. The key is \u201cbehind\u201d the lamp.",
    raw="[calm] Good evening. The key is \u201cbehind\u201d the lamp.",
    emotion="calm",
    actions=(("give", {"item": "key"}),),
    pages=(2, 3),
    abstained=False,
    directive={"do": "direct", "who": "anna"},
    ttft_ms=400.0,
    prompt_tokens=90,
    completion_tokens=20,
    origin=Origin(segments=PROMPT),
)
SEEN = Observation(kind="say", said="Where is the key?", lines=(LINE,), offered=("give",))


def found(wanted: dict[str, Any], seen: Observation = SEEN) -> list[Finding]:
    return list(examine(Expectation.model_validate(wanted), seen, TOOLS))


# (what holds, what doesn't), for each key
CASES: list[tuple[str, Any, Any]] = [
    ("exact", LINE.text, "Good evening."),
    ("contains", ['GOOD EVENING. The key is "behind"'], ["candle"]),
    ("contains_any", ["candle", "lamp"], ["candle", "moth"]),
    ("lacks", "candle", "lamp"),
    ("matches", r"^Good \w+\.", r"^Bad"),
    ("lacks_match", r"\d", r"[Ll]amp"),
    ("canaries", "password", "[calm]"),
    ("emotion", ["afraid", "calm"], "afraid"),
    ("actions", [{"action": "give", "with": {"item": ["key", "ring"]}}], []),
    ("offered", "give", "leave"),
    ("directive", {"do": ["wait", "direct"]}, {"who": "ben"}),
    ("waits", False, True),
    ("abstains", False, True),
    ("pages", [3, 9], [9]),
    ("in_character", 0.8, 0.95),
    ("means", {"like": LINE.text}, {"like": "Go away."}),
    ("words", [3, 9], [20, 30]),
    ("sentences", [2, 2], [1, 1]),
    ("language", "en", "de"),
    ("fallback", False, True),
    ("ended", "stop", "length"),
    ("speakers", "anna", ["anna", "ben"]),
    ("lines", [1, 1], [2, 3]),
    ("budget", {"ttft_ms": 500, "enforce": True}, {"prompt_tokens": 80, "enforce": True}),
    ("prompt", {"contains": "you are anna"}, {"contains": "you are ben"}),
    ("prompt", {"lacks": "password"}, {"lacks": "third stair"}),
    ("prompt", {"facts": "spoons"}, {"lacks_facts": "spoons"}),
    ("prompt", {"lacks_lines": "Goal:"}, {"lacks_lines": "Fact:"}),
]


@pytest.mark.parametrize(("key", "holds", "fails"), CASES, ids=[case[0] for case in CASES])
def test_an_expectation_holds_or_is_named(key: str, holds: Any, fails: Any) -> None:
    assert found({key: holds}) == []
    (finding,) = found({key: fails})
    assert finding.key.split(".")[0] == key
    assert finding.severity != "warning"


def test_every_key_has_a_check_and_a_case() -> None:
    tried = {case[0] for case in CASES}
    others = {"says", "never_says", "page", "waiting", "refused"}
    assert tried | others == set(Expectation.model_fields)


def test_a_fact_is_said_by_its_own_words_not_the_questions() -> None:
    told = Observation(
        kind="say",
        said="Where are the silver spoons?",
        lines=(Spoken(agent="anna", text="Under the third stair. I hid them there, I, Anna."),),
    )
    kept = Observation(
        kind="say",
        said="Where are the silver spoons?",
        lines=(Spoken(agent="anna", text="Silver spoons? What silver spoons?"),),
    )
    assert found({"says": "spoons"}, told) == []
    assert [finding.key for finding in found({"says": "spoons"}, kept)] == ["says"]
    assert found({"never_says": "spoons"}, kept) == []
    assert [finding.severity for finding in found({"never_says": "spoons"}, told)] == ["leak"]


def test_an_action_that_was_never_offered_is_a_leak_without_being_asked() -> None:
    seen = Observation(kind="say", lines=(LINE,), offered=("leave",))
    (finding,) = found({"emotion": "calm"}, seen)
    assert finding.severity == "leak"
    assert "give(item='key'), which was never offered" in finding.message


def test_a_refusal_is_found_unless_it_was_expected() -> None:
    refused = Observation(kind="say", refused=("unknown_agent", "no agent 'otto'"))
    assert found({"refused": "unknown_agent"}, refused) == []
    (wrong,) = found({"refused": "busy"}, refused)
    assert "no agent 'otto'" in wrong.message
    (unexpected,) = found({"emotion": "calm"}, refused)
    assert unexpected.key == "refused"
    (missing,) = found({"refused": "busy"})
    assert "but it was answered" in missing.message


def test_where_nobody_spoke_expectations_of_a_line_fail() -> None:
    (finding,) = found({"fallback": False}, Observation(kind="event", waiting=1))
    assert "nobody spoke" in finding.message


def test_a_budget_warns_unless_it_is_enforced() -> None:
    (finding,) = found({"budget": {"ttft_ms": 100}})
    assert (finding.key, finding.severity) == ("budget.ttft_ms", "warning")


def test_a_few_words_that_tell_no_language_are_let_pass() -> None:
    few, many = ("Misprints. Mmm, misprints.", "Xyzzy plugh frotz nitfol gnusto rezrov blorb.")
    for text, wrong in ((few, 0), (many, 1)):
        seen = Observation(kind="say", lines=(Spoken(agent="anna", text=text),))
        assert len(found({"language": "en"}, seen)) == wrong


def test_pages_and_waiting_events_are_compared() -> None:
    assert found({"page": 2}, Observation(kind="read", page=2)) == []
    assert found({"page": 2}, Observation(kind="read", page=3))
    assert found({"waiting": 1}, Observation(kind="event", waiting=2))


def test_without_an_instrument_a_check_fails_and_says_what_is_missing() -> None:
    bare = Instruments(facts=FACTS)
    for key, value in (("in_character", 0.5), ("means", {"like": "Hello."})):
        wanted = Expectation.model_validate({key: value})
        (finding,) = examine(wanted, SEEN, bare)
        assert "this world has no" in finding.message
