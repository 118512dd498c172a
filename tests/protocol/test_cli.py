from __future__ import annotations

import json
from pathlib import Path

import pytest

from biblioteca import main
from protocol.connection import read_connection
from tests.protocol.test_client import Hosted


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    code = ended.value.code
    return (code if isinstance(code, int) else 0), captured.out, captured.err


def test_keys_are_made_listed_and_revoked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ["--keys", str(tmp_path / "keys")]
    assert run(capsys, "keys", "list", *folder)[0] == 1  # none yet; says how to make them
    assert run(capsys, "keys", "init", *folder)[0] == 0
    host = Hosted(tmp_path)
    out = tmp_path / "anna.json"
    arguments = ["keys", "add", "anna", "--role", "game", "--out", str(out), *folder]
    code, _, _ = run(capsys, *arguments, "--server", str(host.path))
    host.stop()
    assert code == 0
    connection = read_connection(out)
    assert connection.client_key is not None
    assert connection.work == host.server.connection.work
    listed = json.loads(run(capsys, "keys", "list", "--json", *folder)[1])
    assert {entry["name"]: entry["role"] for entry in listed} == {"owner": "admin", "anna": "game"}
    assert "revoked" in run(capsys, "keys", "revoke", "anna", *folder)[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["add", "anna", "--role", "king"], "role"),
        (["add", "../anna"], "name"),
        (["add", "owner"], "owner"),
        (["revoke", "nobody"], "nobody"),
    ],
)
def test_wrong_keys_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    folder = ["--keys", str(tmp_path / "keys")]
    run(capsys, "keys", "init", *folder)
    code, _, error = run(capsys, "keys", *arguments, *folder)
    assert code in (1, 2)
    assert sentence in error


def test_conform_prints_each_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = Hosted(tmp_path)
    code, out, _ = run(capsys, "conform", "--connect", str(host.path), "--agent", "echo", "--json")
    host.stop()
    assert code == 0
    assert all(entry["failed"] is None for entry in json.loads(out))
