from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from roles.dialogues import script
from roles.dialogues.agreement import check_agreement
from roles.dialogues.errors import ScriptError
from roles.dialogues.source import read_file
from roles.world import World
from tests.roles.dialogues.conftest import WriteScripts
from tests.roles.worlds_for_tests import write_world

SCHEMA = Path(script.__file__).with_name("script.schema.json")
GOOD = """\
name: greets
scene: {present: [anna], place: hall}
turns:
  - say: Hello.
    expect: {emotion: calm}
"""

# (what is broken, the file, the line told, the key told, words of the message)
BROKEN: list[tuple[str, str, int, str, str]] = [
    ("a tab", "name: a\nturns:\n\t- say: Hi", 3, "", "indent with spaces"),
    ("an open bracket", "name: a\nturns: [", 2, "", "not valid YAML"),
    ("a colon in text", "name: a\nturns:\n  - say: No: never\n", 3, "", "quotes around text"),
    ("no table", "- just\n- a list\n", 1, "", "not a table of keys"),
    ("nothing", "# empty\n", 1, "", "holds no script"),
    ("no name", GOOD.replace("name: greets\n", ""), 1, "name", "is missing"),
    ("no turns", "name: a\n", 1, "turns", "is missing"),
    ("empty turns", "name: a\nturns: []\n", 2, "turns", "at least 1 item"),
    ("a misspelt key", GOOD.replace("scene:", "scen:"), 2, "scen", "did you mean 'scene'?"),
    ("a bad name", GOOD.replace("greets", "Greets Well"), 1, "name", "lower-case"),
    ("a twin key", f"{GOOD}name: b\n", 6, "name", "written twice (line 1)"),
    ("no kind of turn", GOOD.replace("say:", "sya:"), 4, "turns.0", "did you mean 'say' for"),
    ("a turn of text", "name: a\nturns:\n  - Hello\n", 3, "turns.0", "not a turn"),
    (
        "a misspelt expectation",
        GOOD.replace("emotion", "emotions"),
        5,
        "turns.0.expect.emotions",
        "did you mean 'emotion'?",
    ),
    (
        "a bad pattern",
        GOOD.replace("emotion: calm", 'matches: "("'),
        5,
        "turns.0.expect.matches.0",
        "no regular expression",
    ),
    (
        "a range upside down",
        GOOD.replace("emotion: calm", "words: [9, 2]"),
        5,
        "turns.0.expect.words",
        "smaller number first",
    ),
    (
        "an unknown language",
        GOOD.replace("emotion: calm", "language: eng"),
        5,
        "turns.0.expect.language",
        "did you mean 'en'?",
    ),
    (
        "a misspelt key far down",
        GOOD.replace("emotion: calm", "prompt: {fact: clock}"),
        5,
        "turns.0.expect.prompt.fact",
        "did you mean 'facts'?",
    ),
    (
        "a number for a truth",
        GOOD.replace("emotion: calm", "fallback: 7"),
        5,
        "turns.0.expect.fallback",
        "valid boolean",
    ),
    ("nothing expected", GOOD.replace("emotion: calm", ""), 1, "", "can never fail"),
    (
        "too few seeds",
        f"seeds: 2\npass_rate: 0.6\n{GOOD}",
        1,
        "",
        "use seeds: 3 or more",
    ),
    ("a YAML date", GOOD.replace("Hello.", "2024-01-01"), 4, "turns.0.say", "valid string"),
    ("two of a name", f"{GOOD}---\n{GOOD}", 7, "name", "also the script of line 1"),
    ("Python in YAML", f"{GOOD}about: !!python/none x\n", 6, "about", "could not determine"),
    # The file is right, but the world has no such thing.
    ("no such agent", GOOD.replace("[anna]", "[ana]"), 2, "scene.present", "mean 'anna'?"),
    ("no such place", GOOD.replace("hall", "hal"), 2, "scene.place", "mean 'hall'?"),
    (
        "no such fact",
        GOOD.replace("emotion: calm", "says: spoon"),
        5,
        "turns.0.expect.says",
        "mean 'spoons'?",
    ),
    (
        "no such emotion",
        GOOD.replace("calm", "clam"),
        5,
        "turns.0.expect.emotion",
        "mean 'calm'?",
    ),
    (
        "said to nobody",
        GOOD.replace("[anna]", "[anna, ben]"),
        4,
        "turns.0.say",
        "is said to nobody",
    ),
    (
        "no such page",
        "name: a\nturns:\n  - ask: Salt?\n    to: salt_almanac\n    expect: {pages: 40}\n",
        5,
        "turns.0.expect.pages",
        "has no page 40",
    ),
]


@pytest.mark.parametrize(
    ("text", "line", "key", "message"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN]
)
def test_a_mistake_is_told_with_file_line_key_and_remedy(
    tmp_path: Path, text: str, line: int, key: str, message: str
) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text, encoding="utf-8")
    world = World.load(write_world(tmp_path / "house"))
    with pytest.raises(ScriptError) as caught:
        check_agreement(read_file(file, "broken.yaml"), world)
    (problem,) = caught.value.problems
    assert problem.file == f"broken.yaml:{line}"
    assert problem.key == key
    assert message in str(problem)
    assert problem.remedy


def test_a_file_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"name: a\nabout: caf\xe9\n")
    with pytest.raises(ScriptError, match=r"latin\.yaml:2: byte 0xe9 is not UTF-8; save it as"):
        read_file(file)


def test_all_mistakes_of_a_file_come_at_once(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(GOOD.replace("emotion", "emotoin").replace("place", "plaec"), encoding="utf-8")
    with pytest.raises(ScriptError) as caught:
        read_file(file, "broken.yaml")
    assert [problem.file for problem in caught.value.problems] == ["broken.yaml:2", "broken.yaml:5"]


def test_a_file_may_hold_several_scripts(write_scripts: WriteScripts) -> None:
    sources = write_scripts(f"{GOOD}---\n{GOOD.replace('greets', 'greets_again')}")
    assert [source.id for source in sources] == ["house::greets", "house::greets_again"]
    assert sources[1].line("turns", 0, "expect", "emotion") == 11


def test_the_published_schema_is_the_models() -> None:
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == script.json_schema()


@pytest.mark.parametrize(("name", "text"), [(row[0], row[1]) for row in BROKEN[5:8]])
def test_editors_find_mistakes_by_the_published_schema(name: str, text: str) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.validate(yaml.safe_load(GOOD), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), schema)
