from __future__ import annotations

from pathlib import Path

from protocol.server import Server, ServerConfig
from roles.dialogues.hosting import Hosted
from roles.dialogues.rehearsal import Rehearsals
from roles.dialogues.runner import check
from roles.dialogues.stage import connected
from tests.roles.dialogues.conftest import WriteScripts
from tests.roles.dialogues.test_runner import HURRY, STORY, STRANGER


async def test_a_served_world_says_the_same_words_as_one_in_this_process(
    host: Hosted, write_scripts: WriteScripts, tmp_path: Path
) -> None:
    sources = write_scripts("---\n".join([STORY, HURRY, STRANGER]))
    inline = await check(sources, host.world, host.stages(), host.instruments)
    rehearsals = Rehearsals(host.manager.house, host.manager)
    connection = tmp_path / "connection.json"
    server = Server(rehearsals, ServerConfig(world="test", connection=connection))
    await server.start()
    try:
        served = await check(sources, host.world, connected(connection), host.instruments)
    finally:
        await server.close(drain_s=1.0)
        rehearsals.close()
    assert inline.passed
    assert served.passed
    assert served.digest == inline.digest
