"""Keys can be changed in a file, and a mistake in it is told with the nearest right name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tui.conftest import Hosted
from tui.app import ConsoleApp, known_bindings
from tui.errors import KeysError
from tui.keys import read_keys
from tui.link import LiveLink
from tui.session import Session


def test_a_good_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text('[keys]\n"agents.talk" = "v"\n')
    assert read_keys(tmp_path / "keys.toml", known_bindings()) == {"agents.talk": "v"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[keys]\n"agents.tlk" = "v"\n', "did you mean 'agents.talk'"),
        ('[keys]\n"agents.talk" = 3\n', "is 3; write a string"),
        ("[other]\n", r"no table \[keys\]"),
        ("[keys\n", "cannot read the keys"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "keys.toml").write_text(text)
    with pytest.raises(KeysError, match=why):
        read_keys(tmp_path / "keys.toml", known_bindings())


async def test_a_changed_key_works_and_the_old_one_does_not(hosted: Hosted, tmp_path: Path) -> None:
    (tmp_path / "keys.toml").write_text('[keys]\n"go.log" = "z"\n')
    app = ConsoleApp(Session(LiveLink(hosted.connection)), keys=tmp_path / "keys.toml")
    async with app.run_test() as pilot:
        await pilot.press("9")
        assert app.current_mode == "agents"
        await pilot.press("z")
        assert app.current_mode == "log"


async def test_every_key_of_the_console_has_a_name_of_its_own() -> None:
    assert len(known_bindings()) > 70
