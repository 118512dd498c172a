import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from roles.corpus import write_corpus
from roles.corpus.draw import is_held_out
from roles.corpus.files import invented_talks, woven
from roles.errors import GrammarError
from roles.grammar import read_yaml
from roles.world import World

WORLD = World.load("biblioteca_eterna")
REPLY = re.compile(r"\[(?P<mood>[a-z]+)\] (?P<words>[^\n\[\]*<>{}|`]+)(?P<actions>(?:\n> .+)*)")
OFFER = re.compile(r"([a-z_]+)\(([^)]*)\)")

Row = dict[str, Any]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(WORLD.root, folder, seed=5, scale=0.01)
    return folder


def rows(folder: Path, pattern: str) -> Iterator[Row]:
    for path in sorted(folder.glob(pattern)):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def exchanges(row: Row) -> Iterator[tuple[str, str]]:
    said = [message["content"] for message in row["messages"][1:]]
    yield from zip(said[::2], said[1::2], strict=True)


def test_the_same_seed_writes_the_same_rows(corpus: Path, tmp_path: Path) -> None:
    write_corpus(WORLD.root, tmp_path, seed=5, scale=0.01)
    for path in sorted(corpus.iterdir()):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_every_character_and_tier_has_both_splits(corpus: Path) -> None:
    names = {"base", "director", *(f"npc-{npc}" for npc in WORLD.npcs)}
    expected = {f"{name}.{side}.jsonl" for name in names for side in ("train", "valid")}
    assert {path.name for path in corpus.iterdir()} == expected


def test_roles_alternate_after_one_system_message(corpus: Path) -> None:
    for row in rows(corpus, "*.jsonl"):
        roles = [message["role"] for message in row["messages"]]
        assert roles[0] == "system"
        assert roles[-1] == "assistant"
        assert all({a, b} == {"user", "assistant"} for a, b in pairwise(roles[1:]))


def test_replies_are_what_the_live_grammar_lets_through(corpus: Path) -> None:
    for row in rows(corpus, "*.jsonl"):
        if row["kind"] != "npc":
            continue
        for _, reply in exchanges(row):
            assert REPLY.fullmatch(reply), reply


def test_characters_act_only_as_offered(corpus: Path) -> None:
    acted = 0
    for row in rows(corpus, "*.jsonl"):
        if row["kind"] != "npc":
            continue
        for asked, reply in exchanges(row):
            actions = re.findall(r"^> (\w+) (.+)$", reply, re.MULTILINE)
            acted += len(actions)
            offered = dict(OFFER.findall("".join(re.findall(r"^Actions: (.*)\.$", asked, re.M))))
            for name, arguments in actions:
                for argument, value in json.loads(arguments).items():
                    choices = offered[name].partition("=")[2]
                    assert offered[name].startswith(argument)
                    assert not choices or value in choices.split("|"), (asked, reply)
    assert acted > 20


def test_directives_fit_the_world(corpus: Path) -> None:
    schema = WORLD.directive_schema()
    kinds, whole = set(), 0
    for row in rows(corpus, "director.*.jsonl"):
        for _, answer in exchanges(row):
            directive = json.loads(answer)
            whole += "goal" in directive
            free = {"direct": {"goal": "wait"}, "hint": {"about": "it"}}.get(directive["do"], {})
            jsonschema.validate(free | directive, schema)
            kinds.add(directive["do"])
    assert kinds == {"wait", "direct", "hint", "hush"}  # events are staged by the code, for pace
    assert whole > 10


def test_scripted_scenes_are_left_alone(corpus: Path) -> None:
    found = 0
    for row in rows(corpus, "director.*.jsonl"):
        for asked, answer in exchanges(row):
            if re.search(r"^State: .*script", asked, re.MULTILINE):
                found += 1
                assert json.loads(answer) == {"do": "wait"}
    assert found > 10


def test_what_replies_must_copy_is_in_the_prompt(corpus: Path) -> None:
    for row in rows(corpus, "base.train.jsonl"):
        shown = "".join(message["content"] for message in row["messages"][:-1]).lower()
        assert all(text.lower() in shown for text in row.get("copy", ())), row


def test_validation_asks_for_names_that_training_never_asks_for(corpus: Path) -> None:
    def named(pattern: str) -> set[str]:
        copied = (text for row in rows(corpus, pattern) for text in row.get("copy", ()))
        return {text for text in copied if re.fullmatch(r"[A-Z][a-z]+( [A-Z][a-z]+)?", text)}

    train, valid = named("base.train.jsonl"), named("base.valid.jsonl")
    assert len(valid) > 20
    assert not train & valid
    assert all(is_held_out(name) for name in valid)


def test_no_template_is_left_unexpanded(corpus: Path) -> None:
    for row in rows(corpus, "*.jsonl"):
        text = "\n".join(message["content"] for message in row["messages"])
        assert "#" not in text
        assert "  " not in text


def test_judged_names_occur_in_no_training_row(corpus: Path) -> None:
    questions = read_yaml(WORLD.root / "judging" / "npc.yaml")["questions"]
    assert isinstance(questions, list)
    judged = {str(word) for case in questions for word in case.get("has", ()) if len(word) > 8}
    known = {spec.name for spec in WORLD.npcs.values()}
    text = "".join(json.dumps(row, ensure_ascii=False) for row in rows(corpus, "*.train.jsonl"))
    assert len(judged) > 40
    assert {word for word in judged - known if word in text} <= {"catalogue"}


def test_written_talks_come_by_turns_with_generated_ones(tmp_path: Path) -> None:
    path = tmp_path / "strangers.txt"
    talk = "System: Oda | ferryman | You count geese.\nGuest: Geese {}?\n[calm] {} geese.\n---\n"
    path.write_text("".join(talk.format(i, i) for i in range(10)), encoding="utf-8")
    train, valid = (invented_talks(tmp_path, held_out=side) for side in (False, True))
    assert (len(train), len(valid)) == (9, 1)
    assert train[0]["messages"][0]["content"].startswith(
        "You are Oda, ferryman. You count geese.\n"
    )
    generated: list[Row] = [{"messages": [], "kind": "other"} for _ in range(12)]
    kinds = [row["kind"] for row in woven(train, iter(generated))]
    assert kinds == ["written", "other"] * 9 + ["other"] * 3
    path.write_text("System: Oda\nGuest: Hi.\n[calm] Hi.\n", encoding="utf-8")
    with pytest.raises(
        GrammarError, match=r"strangers\.txt:1: a talk here must begin with System: NAME"
    ):
        invented_talks(tmp_path, held_out=False)


@pytest.mark.parametrize("name", ["iron_carnival", "outpost_kestrel"])
def test_a_second_world_borrows_the_starter_worlds_language(name: str, tmp_path: Path) -> None:
    world = World.load(name)
    written = write_corpus(world.root, tmp_path, scale=0.01)
    assert {file.path.name.split(".")[0] for file in written} == {f"npc-{n}" for n in world.npcs}
    for row in rows(tmp_path, "*.train.jsonl"):
        moods = (REPLY.fullmatch(reply) for _, reply in exchanges(row))
        assert {match["mood"] for match in moods if match} <= set(world.spec.emotions)
