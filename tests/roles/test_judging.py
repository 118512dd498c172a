import pytest

from roles.grammar import read_yaml
from roles.judging import director_fault, director_trials, npc_fault, npc_trials
from roles.world import World

WORLD = World.load("biblioteca_eterna")


def test_there_are_enough_situations_and_every_one_can_be_asked() -> None:
    assert len(director_trials(WORLD)) >= 60
    assert len(npc_trials(WORLD)) >= 100


def test_names_of_trials_are_unique() -> None:
    names = [trial.name for trial in (*director_trials(WORLD), *npc_trials(WORLD))]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("case", "answer", "fault"),
    [
        ({"has": ["Ada"]}, "[calm] It was ada.", ""),
        ({"has": ["Ada", "Bo"]}, "[calm] Nobody.", "lacks Ada or Bo"),
        ({"hasnt": ["Ada"]}, "[calm] It was Ada.", "says Ada"),
        ({"mood_is": "sad"}, "[calm] Ah.", "is calm, not sad"),
        ({"action": "follow {}"}, "[calm] Yes.\n> follow {}", ""),
        ({"action": "follow {}"}, "[calm] Yes.", "does nothing, not follow {}"),
        ({"action": ""}, "[calm] Yes.\n> follow {}", "does > follow {}, not nothing"),
        ({}, "Yes.", "is not a reply"),
    ],
)
def test_a_reply_is_faulted_for_what_is_wrong(
    case: dict[str, object], answer: str, fault: str
) -> None:
    assert npc_fault(case, answer) == fault


def test_a_directive_must_match_one_accepted_answer() -> None:
    case = {"accept": [{"do": "wait"}, {"do": "direct", "who": ["pim"], "mood": ["sad"]}]}
    sad = '{"do": "direct", "who": "pim", "mood": "sad", "goal": "rest"}'
    assert director_fault(case, '{"do": "wait"}') == ""
    assert director_fault(case, sad) == ""
    assert director_fault(case, sad.replace("sad", "calm")) != ""
    assert director_fault(case, "wait") == "is not JSON"


def test_every_accepted_answer_names_only_what_the_world_has() -> None:
    situations = read_yaml(WORLD.root / "judging" / "director.yaml")["situations"]
    assert isinstance(situations, list)
    for case in situations:
        for accepted in case["accept"]:
            assert set(accepted.get("who", ())) <= set(WORLD.npcs)
            assert set(accepted.get("mood", ())) <= set(WORLD.spec.emotions)
            assert set(accepted.get("event", ())) <= set(WORLD.spec.events)
