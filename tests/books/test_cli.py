from __future__ import annotations

import json
from pathlib import Path

import pytest

from biblioteca import main

STARTER = "tide_tables"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of one command."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_books_are_listed_and_shown_as_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "books", "list", "--json")
    assert code == 0
    assert STARTER in [item["name"] for item in json.loads(out)]
    code, out, _ = run(capsys, "books", "show", STARTER, "--json")
    assert json.loads(out)["title"] == "The Tide Tables"


def test_a_page_is_read_without_any_model(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "books", "show", STARTER, "--page", "1")
    assert code == 0
    assert "There is a sea under the library." in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["books", "show", "nothing"], "no book 'nothing'"),
        (["books", "show", STARTER, "--page", "999"], "has pages 1 to"),
        (["distill"], "name one book, or say --all"),
        (["distill", STARTER, "--loss", "magic=1"], "--loss has no 'magic'"),
        (["distill", STARTER, "--params", "9"], "a student has 100k to 100M"),
        (["distill", STARTER, "--base", "nowhere"], "nowhere holds no model to teach"),
    ],
)
def test_usage_errors_exit_2_with_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert complaint in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


def test_a_broken_bundle_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.book"
    path.write_bytes(b"PK\x03\x04 not really")
    code, _, err = run(capsys, "books", "verify", str(path))
    assert code == 1
    assert "is damaged or no bundle" in err


def test_an_empty_book_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "empty.md"
    path.write_text("")
    code, _, err = run(capsys, "distill", str(path))
    assert code == 2
    assert "the file is empty" in err
