"""Kills, full and read-only disks, damaged saves, clocks that jump: the game's state survives."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from protocol.client import Client, connect
from protocol.conformance.probe import Probe, code
from protocol.wire import ClientConfig
from tests.faults.gateway import wait_for
from tests.faults.house import House, poll_until, speaking

PATIENT = ClientConfig(timeout_s=60)


def remember(house: House, text: str) -> None:
    assert code(house.ask("memory", op="add", agent="anna", text=text)) == "done"


def remembered(house: House) -> list[str]:
    memories = house.ask("memory", agent="anna", limit=1_000)["body"]["memories"]
    return sorted(str(memory["text"]) for memory in memories)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_killed_gateway_comes_back_with_its_state_and_leaves_no_engine(house: House) -> None:
    remember(house, "the lamp is green")
    assert code(house.ask("save", slot="evening")) == "done"
    before, words, engine = remembered(house), house.words(), house.engine()["pid"]
    probe, _ = speaking(house)
    os.kill(engine, signal.SIGSTOP)  # the engine hangs at that: it must go all the same
    house.kill()
    probe.close()
    wait_for(lambda: not is_running(engine), lambda: f"the engine {engine} lives on")
    house.start()
    assert "the lamp is green" in before
    assert set(before) <= set(remembered(house))
    assert [save["slot"] for save in house.ask("saves")["body"]["saves"]] == ["evening"]
    assert house.words() == words
    house.check_clean()


def test_terminate_under_load_ends_every_line_and_every_process(house: House) -> None:
    engine = house.engine()["pid"]
    with connect(house.path, PATIENT) as client:
        calls = [client.start("say", agent="anna", text="All.", max_tokens=600) for _ in range(8)]
        poll_until(client, lambda: calls[0].text)
        house.process.terminate()
        poll_until(client, lambda: all(call.ended for call in calls))
    assert house.process.wait(60) == 0
    wait_for(lambda: not is_running(engine), lambda: f"the engine {engine} lives on")
    house.start()
    house.check_clean()


def test_a_second_terminate_does_not_wait(house: House) -> None:
    probe, _ = speaking(house, max_tokens=600)
    os.kill(house.engine()["pid"], signal.SIGSTOP)  # so that draining takes its whole time
    house.process.terminate()
    while probe.receive()["t"] != "notice":
        pass
    house.process.terminate()
    assert house.process.wait(60) == 130
    probe.close()
    house.start()
    house.check_clean()


@contextmanager
def full_disk(house: House) -> Iterator[None]:
    """No file of the gateway grows any more, as on a full disk."""
    kept = resource.prlimit(house.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(house.process.pid, resource.RLIMIT_FSIZE, (0, kept[1]))
    yield
    resource.prlimit(house.process.pid, resource.RLIMIT_FSIZE, kept)


def test_a_full_disk_keeps_the_last_save_and_the_game_goes_on(house: House) -> None:
    remember(house, "before the disk was full")
    saved = house.ask("save", slot="full")["body"]["saves"][0]
    with full_disk(house):
        answer = house.ask("save", slot="full")
        assert code(answer) not in ("done", "internal"), answer
        assert code(house.ask("say", agent="anna", text="Hello?")) == "failed"
        assert code(house.ask("agents")) == "done"
        now = next(x for x in house.ask("saves")["body"]["saves"] if x["slot"] == "full")
        assert now["digest"] == saved["digest"]
    remember(house, "after the disk was full")
    house.kill()  # what came after must have been written, not merely be in memory
    house.start()
    assert {"before the disk was full", "after the disk was full"} <= set(remembered(house))
    assert code(house.ask("restore", slot="full")) == "done"
    assert "after the disk was full" not in remembered(house)
    house.check_clean()


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="root can write anywhere otherwise")
def test_a_read_only_disk_keeps_the_last_save(models: Path, tmp_path: Path) -> None:
    drop = ("setpriv", "--bounding-set", "-dac_override", "--inh-caps", "-dac_override")
    with House(tmp_path, models, before=drop if os.getuid() == 0 else ()) as house:
        saved = house.ask("save", slot="one")["body"]["saves"][0]
        saves = house.state / "saves"
        saves.chmod(0o555)
        answer = house.ask("save", slot="one")
        assert code(answer) not in ("done", "internal"), answer
        assert code(house.ask("save", slot="two")) not in ("done", "internal")
        assert house.ask("saves")["body"]["saves"] == [saved]
        saves.chmod(0o755)
        assert code(house.ask("save", slot="one")) == "done"
        house.check_clean()


def test_killed_while_saving_the_slot_is_the_old_one_or_the_new_one(house: House) -> None:
    for number in range(60):  # so that a save takes a while
        remember(house, f"{number} " + "x" * 7_000)
    chance, note = random.Random(1), "first"
    assert code(house.ask("save", slot="kept", note=note)) == "done"
    for number in range(4):
        with Probe(house.connection) as probe:
            probe.hello()
            probe.send("save", {"slot": "kept", "note": f"save {number}"})
            time.sleep(chance.uniform(0, 0.05))
            house.kill()
        house.start()
        slot = next(x for x in house.ask("saves")["body"]["saves"] if x["slot"] == "kept")
        assert slot["note"] in (note, f"save {number}")
        note = slot["note"]
        assert code(house.ask("restore", slot="kept")) == "done"
    house.check_clean()


@pytest.mark.parametrize("damage", ["truncated", "newer", "scribbled"])
def test_a_bad_save_is_refused_and_the_game_goes_on(house: House, damage: str) -> None:
    remember(house, f"said before a {damage} save")
    house.ask("save", slot="bad")
    file = house.state / "saves" / "bad.sqlite"
    if damage == "truncated":
        os.truncate(file, file.stat().st_size // 2)
    elif damage == "scribbled":
        file.write_bytes(os.urandom(10_000))
    else:
        with closing(sqlite3.connect(file)) as database:
            database.execute("PRAGMA user_version=99")
    before = remembered(house)
    answer = house.ask("restore", slot="bad")
    assert code(answer) == "failed", answer
    assert "newer" in answer["body"]["message"] if damage == "newer" else True
    assert remembered(house) == before
    file.unlink()
    house.check_clean()


CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(clock, now);
    if (clock == CLOCK_REALTIME) {
        FILE *file = fopen(getenv("SHIFT_FILE"), "r");
        long shift = 0;
        if (file) { if (fscanf(file, "%ld", &shift) != 1) shift = 0; fclose(file); }
        now->tv_sec += shift;
    }
    return code;
}
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_clock_that_jumps_an_hour_ends_nothing(models: Path, tmp_path: Path) -> None:
    library, shift = tmp_path / "clock.so", tmp_path / "shift"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), "-ldl"],
        input=CLOCK, text=True, check=True,
    )  # fmt: skip
    environment = {"LD_PRELOAD": str(library), "SHIFT_FILE": str(shift)}
    with House(tmp_path, models, environment=environment) as house:
        for hours in (1, -1):
            with Client(house.connection, PATIENT) as client:
                call = client.start(
                    "say", ttl_ms=120_000, agent="anna", text="All.", max_tokens=300
                )
                poll_until(client, lambda call=call: call.text)  # type: ignore[misc]  # bound here
                shift.write_text(str(3_600 * hours))
                poll_until(client, lambda call=call: call.ended)  # type: ignore[misc]  # bound here
                assert call.error is None
                assert not getattr(call.reply, "cause", "")
                assert client.request("agents").agents  # the session lives
            spoken = house.ask("lines", limit=1)["body"]["lines"][0]
            assert abs(spoken["time_s"] - time.time() - 3_600 * hours) < 600  # it did jump
            house.check_clean()


def test_a_request_has_one_id_on_every_layer(models: Path, tmp_path: Path) -> None:
    with House(tmp_path, models, options=("--log-level", "debug")) as house:
        with Probe(house.connection) as probe:
            probe.hello()
            body = {"agent": "anna", "text": "Hello?", "focus": "offstage"}
            probe.ask("say", body, id="away")  # an authored line: the roles say why
            probe.ask("say", {"agent": "anna", "text": "Hello?"}, id="here")
            probe.ask("bye")
        lines = [json.loads(line) for line in house.log.read_text().splitlines()]
        by_id = {line["fields"]["id"]: line for line in lines if line.get("fields", {}).get("id")}
        for own, logger in (("away", "biblioteca.roles"), ("here", "biblioteca.engine")):
            request = by_id[own]["request"]
            layers = {line["logger"] for line in lines if line["request"] == request}
            assert {"biblioteca.wire", logger} <= layers
        assert by_id["here"]["fields"]["outcome"] == "done"
        assert by_id["here"]["fields"]["line"]


def test_logs_show_what_clients_send_as_escapes(house: House) -> None:
    hostile = 'x\r\n{"forged": 1}\x1b[2J\u202e'
    remember(house, hostile)  # an admin's request: audited with its body
    assert code(house.ask("say", agent=f"x{hostile}", text="x")) == "bad_request"
    assert code(house.ask("say", agent="anna", text=hostile)) == "done"
    lines = house.log.read_text(encoding="utf-8").splitlines()
    assert all(line.isprintable() for line in lines)
    documents = [json.loads(line) for line in lines]
    assert any(document["logger"] == "biblioteca.audit" for document in documents)
    assert not any("forged" in document for document in documents)
    house.check_clean()
