from __future__ import annotations

from pathlib import Path

import pytest

from engine.adapters import adapter_digest
from npc_adapters.data import Row, message
from npc_adapters.errors import DataError, UsageError
from npc_adapters.feedback import choose, read_feedback, train_on_feedback
from npc_adapters.train import TrainConfig, train_adapter
from tests.npc_adapters.conftest import write_feedback


def test_feedback_of_one_character_is_read(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    write_feedback(path, verdict="good")
    write_feedback(path, verdict="rewrite", rewrite="[calm] Yes.")
    write_feedback(path, agent="ottavia")
    judged = read_feedback(path, "pim")
    assert [(one.good, one.rewrite) for one in judged] == [(True, ""), (False, "[calm] Yes.")]
    assert choose(judged) == "kto"
    assert choose(judged[1:]) == "dpo"


def test_broken_feedback_is_told_by_line(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    write_feedback(path)
    with pytest.raises(DataError, match="no line of ottavia"):
        read_feedback(path, "ottavia")
    write_feedback(path, reply="a<|end|>b")
    with pytest.raises(DataError, match=r"feedback\.jsonl:2.*<\|end\|>"):
        read_feedback(path, "pim")
    with pytest.raises(DataError, match="cannot be read"):
        read_feedback(tmp_path / "none", "pim")


def test_dpo_without_rewrites_and_unknown_ways_are_refused(tmp_path: Path) -> None:
    write_feedback(tmp_path / "f", verdict="good")
    judged = read_feedback(tmp_path / "f", "pim")
    with pytest.raises(UsageError, match="use kto"):
        choose(judged, "dpo")
    with pytest.raises(UsageError, match="no way 'ppo'"):
        choose(judged, "ppo")


@pytest.mark.parametrize("way", ["dpo", "kto", "sft"])
def test_every_way_makes_the_better_line_likelier(
    tmp_path: Path, base: Path, rows: list[Row], way: str
) -> None:
    from npc_adapters.evaluate import swap_matrix

    live = tmp_path / "live"
    quick = TrainConfig(rank=4, alpha=8, epochs=1, max_tokens=128)
    train_adapter(name="pim", base=base, rows=rows, out=live, config=quick, show=False)
    for i in range(4):
        write_feedback(
            tmp_path / "f",
            verdict="rewrite",
            messages=[{"role": "user", "content": f"Guest: Hello {i}."}],
            rewrite="[warm] Welcome!",
        )
    judged = read_feedback(tmp_path / "f", "pim")
    before = adapter_digest(live)
    outcome = train_on_feedback(
        name="pim",
        base=base,
        live=live,
        judged=judged,
        out=tmp_path / "new",
        config=TrainConfig(epochs=6, lr=3e-3, batch_size=4, max_tokens=128),
        way=way,
        show=False,
    )
    assert adapter_digest(live) == before
    assert outcome.card.parents == (before,)
    better = [Row((*o.messages, message("assistant", o.rewrite)), "f", 1) for o in judged]
    matrix = swap_matrix(base, {"old": live, "new": tmp_path / "new"}, {"rows": better})
    assert matrix["new"]["rows"] < matrix["old"]["rows"]


def test_replayed_rows_are_less_forgotten(tmp_path: Path, base: Path, rows: list[Row]) -> None:
    from npc_adapters.evaluate import swap_matrix

    live, made = tmp_path / "live", {}
    quick = TrainConfig(rank=4, alpha=8, epochs=1, max_tokens=128)
    train_adapter(name="pim", base=base, rows=rows, out=live, config=quick, show=False)
    for _ in range(4):
        write_feedback(tmp_path / "f", verdict="rewrite", rewrite="[sad] Mind the ink.")
    for share in (0.0, 4.0):
        made[str(share)] = tmp_path / str(share)
        train_on_feedback(
            name="pim",
            base=base,
            live=live,
            judged=read_feedback(tmp_path / "f", "pim"),
            out=made[str(share)],
            config=TrainConfig(epochs=6, lr=1e-2, batch_size=4, max_tokens=128, replay=share),
            way="sft",
            replay=rows,
            show=False,
        )
    matrix = swap_matrix(base, made, {"rows": rows})
    assert matrix["4.0"]["rows"] < matrix["0.0"]["rows"]


def test_a_rewrite_without_a_mood_takes_the_spoken_lines(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    write_feedback(path, verdict="rewrite", rewrite="Yes, gladly.")
    write_feedback(path, verdict="rewrite", rewrite="[warm] Yes.")
    assert [one.rewrite for one in read_feedback(path, "pim")] == [
        "[calm] Yes, gladly.",
        "[warm] Yes.",
    ]
