from __future__ import annotations

import json
from pathlib import Path

import pytest
from llguidance import LLMatcher, LLTokenizer

from engine.requests import Constraint
from roles.errors import LineError
from roles.offers import directive_grammar, offer, reply_grammar
from roles.world import World
from tests.roles.worlds_for_tests import write_world

BYTES = LLTokenizer("byte")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.load(write_world(tmp_path))


def accepts(constraint: Constraint, text: str) -> bool:
    grammar = (
        LLMatcher.grammar_from_lark(constraint.source)
        if constraint.kind == "lark"
        else LLMatcher.grammar_from_json_schema(constraint.source)
    )
    matcher = LLMatcher(BYTES, grammar)
    tokens = list(text.encode())
    return bool(matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting())


def test_only_offered_actions_with_offered_targets_can_be_written(world: World) -> None:
    grammar = reply_grammar(
        world.spec.emotions, [offer(world, "give", {"item": ["brass key", "lamp"]})]
    )
    assert accepts(grammar, "[calm] Here.")
    assert accepts(grammar, '[afraid] Here.\n> give {"item": "lamp"}')
    assert not accepts(grammar, '[calm] Here.\n> give {"item": "crown"}')
    assert not accepts(grammar, "[calm] Here.\n> leave {}")
    assert not accepts(grammar, "[hungry] Here.")
    assert not accepts(grammar, "Here.")


def test_without_offers_no_action_can_be_written(world: World) -> None:
    grammar = reply_grammar(world.spec.emotions, [])
    assert accepts(grammar, "[calm] Here.")
    assert not accepts(grammar, "[calm] Here.\n> leave {}")


@pytest.mark.parametrize(
    "words", ["*sighs* Here.", "<think>no</think>", "a\nb", "\x1b[31mred", "<|end|>", "{}"]
)
def test_narration_markup_and_control_characters_cannot_be_spoken(world: World, words: str) -> None:
    assert not accepts(reply_grammar(world.spec.emotions, []), f"[calm] {words}")


def test_other_languages_pass(world: World) -> None:
    assert accepts(reply_grammar(world.spec.emotions, []), "[calm] ¿Dónde está? どこ? Где?")


def test_directives_follow_the_worlds_schema(world: World) -> None:
    grammar = directive_grammar(world, {})
    directive = {"do": "direct", "who": "anna", "mood": "calm", "goal": "count the spoons"}
    assert accepts(grammar, '{"do": "wait"}')
    assert accepts(grammar, json.dumps(directive))
    assert not accepts(grammar, json.dumps({**directive, "who": "zoe"}))


def test_what_canon_closes_cannot_be_directed(world: World) -> None:
    def direct(who: str) -> str:
        return json.dumps({"do": "direct", "who": who, "mood": "calm", "goal": "wait"})

    grammar = directive_grammar(world, {"npc": frozenset({"anna"})})
    assert not accepts(grammar, direct("anna"))
    assert accepts(grammar, direct("ben"))
    nobody = directive_grammar(world, {"npc": frozenset(world.npcs)})
    assert not accepts(nobody, direct("ben"))
    assert accepts(nobody, '{"do": "wait"}')


def test_what_cannot_be_offered_is_refused_by_name(world: World) -> None:
    with pytest.raises(LineError, match="did you mean 'give'"):
        offer(world, "giv", {})
    with pytest.raises(LineError, match="no argument 'thing'"):
        offer(world, "give", {"thing": ["lamp"]})
    with pytest.raises(LineError, match="argument 'item'"):
        offer(world, "give", {"item": [7]})


def test_the_prompt_names_offers_with_their_choices(world: World) -> None:
    assert (
        offer(world, "give", {"item": ["brass key", "lamp"]}).shown == "give(item=brass key|lamp)"
    )
    assert offer(world, "give", {}).shown == "give(item)"
    assert offer(world, "leave", {}).shown == "leave()"
