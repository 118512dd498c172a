from pathlib import Path
from random import Random

import pytest

from roles.errors import GrammarError
from roles.grammar import Grammar, flatten, read_yaml


def expand(symbols: dict[str, list[str]], text: str, **bindings: str) -> str:
    return Grammar(symbols).expand(text, Random(1), bindings)


def test_symbols_expand_into_symbols() -> None:
    assert expand({"a": ["x #b#"], "b": ["y"]}, "#a#!") == "x y!"


def test_a_binding_wins_over_a_symbol_and_is_taken_as_it_is() -> None:
    assert expand({"name": ["Ada"]}, "#name#", name="{no} #grammar#") == "{no} #grammar#"


def test_inline_alternatives_nest_and_may_be_empty() -> None:
    grammar = Grammar({})
    found = {grammar.expand("a{b|{c|d}e|}", Random(seed)) for seed in range(60)}
    assert found == {"ab", "ace", "ade", "a"}


def test_the_same_seed_gives_the_same_text() -> None:
    grammar = Grammar({"n": [str(number) for number in range(1000)]})
    texts = [grammar.expand("#n# #n# #n#", Random(7)) for _ in range(2)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("#x.the#", "the amber key"),
        ("#x.The#", "The amber key"),
        ("#x.a#", "an amber key"),
        ("#x.A#", "An amber key"),
        ("#name.the#", "Ada"),
        ("#name.s#", "Ada's"),
        ("#core.uncap#", "it is gone"),
        ("#title.uncap#", "Ada is gone"),
    ],
)
def test_modifiers_keep_to_english(template: str, expected: str) -> None:
    words = {"x": "amber key", "name": "Ada", "core": "It is gone", "title": "Ada is gone"}
    assert expand({}, template, **words) == expected


def test_empty_parts_leave_no_stray_spaces() -> None:
    assert expand({}, "a {|} b {|}.") == "a b."


@pytest.mark.parametrize(
    ("symbols", "text", "complaint"),
    [
        ({}, "#ghost#", "no symbol is named 'ghost'"),
        ({"a": ["x"]}, "#a.loud#", "modifiers are"),
        ({}, "#open", "never closed"),
        ({}, "{a|b", "never closed"),
        ({}, "a}", "never opened"),
        ({"a": ["#a#"]}, "#a#", "nest too deep"),
    ],
)
def test_mistakes_are_named(symbols: dict[str, list[str]], text: str, complaint: str) -> None:
    with pytest.raises(GrammarError, match=complaint):
        expand(symbols, text)


def test_a_symbol_without_alternatives_is_refused() -> None:
    with pytest.raises(GrammarError, match="'empty' has no alternatives"):
        Grammar({"empty": []})


def test_nested_tables_and_blocks_of_lines_become_symbols() -> None:
    content = {"gruff": {"greet": "Hm.\n\n What?\n"}, "names": ["Ada", "Bo"]}
    assert flatten(content, "x.yaml") == {"gruff/greet": ["Hm.", "What?"], "names": ["Ada", "Bo"]}


def test_a_number_where_text_belongs_is_named_with_its_file() -> None:
    with pytest.raises(GrammarError, match=r"x\.yaml: mood/close must be text"):
        flatten({"mood": {"close": 3}}, "x.yaml")


def test_a_broken_yaml_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "words.yaml"
    path.write_text("a: [")
    with pytest.raises(GrammarError, match=r"words\.yaml"):
        read_yaml(path)
