"""Adapters that are damaged, swapped and replaced while characters speak through them."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from protocol.conformance.probe import Probe, code
from tests.faults.house import House, speaking

WEIGHTS = "adapter_model.safetensors"
SWAPS, CLIENTS = 1_000, 32


def truncate(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size // 2)


def empty(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-5] ^= 0x10
    (folder / WEIGHTS).write_bytes(data)


def put_nan(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, folder / WEIGHTS)
    (folder / "card.json").unlink()  # so that its digest gives nothing away


def lie_about_length(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes((1 << 60).to_bytes(8, "little") + data[8:])


def take_another_bases(folder: Path) -> None:
    change_card(folder, base_digest="0" * 64)


def take_another_shape(folder: Path) -> None:
    shutil.copytree(folder.parents[1] / "wrong-shape", folder, dirs_exist_ok=True)
    (folder / "card.json").unlink()


def pickle_it(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def break_the_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{")


def lead_outside(folder: Path) -> None:
    outside = folder.parents[3] / "outside"
    if not outside.exists():
        shutil.copytree(folder, outside)
    shutil.rmtree(folder)
    folder.symlink_to(outside)


def change_card(folder: Path, **fields: str) -> None:
    file = folder / "card.json"
    card = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(card | fields))


DAMAGES: list[Callable[[Path], None]] = [
    truncate,
    empty,
    flip_a_bit,
    put_nan,
    lie_about_length,
    take_another_bases,
    take_another_shape,
    pickle_it,
    break_the_config,
    lead_outside,
]


@pytest.fixture
def ben(house: House) -> Iterator[Path]:
    """Ben's adapter folder, with a card that tells its digest; put back afterwards."""
    folder, kept = house.adapters / "ben", house.world / "kept"
    digest = house.ask("adapters", op="load", name="ben")["body"]["adapters"][0]["digest"]
    change_card(folder, digest=digest)
    shutil.copytree(folder, kept)
    yield folder
    folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
    kept.rename(folder)
    assert code(house.ask("adapters", op="load", name="ben")) == "done"


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_adapter_is_refused_and_the_old_one_speaks_on(
    house: House, ben: Path, damage: Callable[[Path], None]
) -> None:
    words = house.words("ben")
    probe, target = speaking(house, "ben", ephemeral=True)
    damage(ben)  # while it is served, in the middle of a line
    answer = house.ask("adapters", op="load", name="ben")
    assert code(answer) == "conflict", answer
    assert "ben" in answer["body"]["message"]
    end = probe.finish(target)[-1]
    assert code(end) == "done"
    assert not end["body"]["cause"]
    probe.ask("bye")
    probe.close()
    assert house.words("ben") == words
    house.check_clean()


@pytest.mark.parametrize("name", ["../anna", "/etc", "a/b", "..", "ben\x00", "models/adapters/ben"])
def test_names_are_never_paths(house: House, name: str) -> None:
    answer = house.ask("adapters", op="load", name=name)
    assert (code(answer), answer["body"]["field"]) == ("bad_request", "name")
    house.check_clean()


def test_an_adapter_replaced_while_it_loads_is_the_old_one_or_the_new_one(
    house: House, ben: Path
) -> None:
    (ben / "card.json").unlink()
    versions = [(house.adapters / who / WEIGHTS).read_bytes() for who in ("anna", "ben")]
    spoken = []
    for weights in versions:
        (ben / WEIGHTS).write_bytes(weights)
        assert code(house.ask("adapters", op="load", name="ben")) == "done"
        spoken.append(house.words("ben"))
    assert spoken[0] != spoken[1]
    ended = threading.Event()

    def replace() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            if number % 3 == 0:  # as a careless tool does it: in place, bit by bit
                half = len(versions[0]) // 2
                (ben / WEIGHTS).write_bytes(versions[number % 2][:half])
            fresh = ben / "fresh"
            fresh.write_bytes(versions[number % 2])
            fresh.replace(ben / WEIGHTS)

    thread = threading.Thread(target=replace)
    thread.start()
    codes = []
    for _ in range(30):
        codes.append(code(house.ask("adapters", op="load", name="ben")))
        assert house.words("ben") in spoken
    ended.set()
    thread.join()
    assert set(codes) <= {"done", "conflict"}
    assert "done" in codes
    house.check_clean()


def test_many_clients_swap_one_adapter_a_thousand_times(house: House) -> None:
    known = {house.words("anna"), house.words("ben")}
    own = [house.words("anna")]
    house.ask("adapters", op="swap", agent="anna", name="ben")
    own.append(house.words("anna"))
    assert own[0] != own[1]
    codes: list[str] = []

    def swap(number: int) -> None:
        with Probe(house.connection, "control", timeout_s=300) as probe:
            probe.hello()
            for turn in range(number, SWAPS, CLIENTS):
                body = {"op": "swap", "agent": "anna", "name": ("anna", "ben")[turn % 2]}
                codes.append(code(probe.ask("adapters", body)))
            probe.ask("bye")

    threads = [threading.Thread(target=swap, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert house.words("anna") in own
        assert house.words("ben") in known
    for thread in threads:
        thread.join()
    assert codes == ["done"] * SWAPS
    assert code(house.ask("adapters", op="swap", agent="anna", name="anna")) == "done"
    assert house.words("anna") == own[0]
    listed = house.ask("adapters")["body"]["adapters"]
    assert sorted(one["name"] for one in listed) == ["anna", "ben"]
    house.check_clean()
