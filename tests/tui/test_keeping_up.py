"""No screen misses an answer, whatever else is asked, changed or lost in the meantime."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from protocol import administration as admin
from protocol.errors import Code, NoServerError, ProtocolError, Refusal
from protocol.messages import Body, SayRequest
from tests.tui.conftest import Console, Hosted, console_on
from tui import link as link_file
from tui import page
from tui.app import PAGES
from tui.session import Session, Sink
from tui.table import Table


@pytest.fixture(autouse=True)
def _nothing_heals_by_polling(monkeypatch: pytest.MonkeyPatch) -> None:
    for screen in PAGES:
        monkeypatch.setattr(screen, "POLL_S", None)
    monkeypatch.setattr(page, "RETRY_S", 0.05)


async def asked(console: Console, hosted: Hosted, kind: str) -> None:
    await console.until(lambda: kind in hosted.world.asked, f"asks for {kind}")


@pytest.mark.parametrize(
    ("digit", "words"),
    [
        (5, ["brass_key"]),
        (6, ["page 1 of 12"]),
        (7, ["asked for lamp oil"]),
    ],
)
async def test_a_screen_is_filled_while_another_still_waits_for_its_answer(
    hosted: Hosted, digit: int, words: list[str]
) -> None:
    never = hosted.world.kept_waiting["lines"] = asyncio.Event()
    async with console_on(hosted.connection) as console:
        await asked(console, hosted, "lines")
        await console.go(digit)
        await console.see(*words)
        assert not never.is_set()


async def test_another_view_chosen_during_a_fetch_is_fetched_after_it(hosted: Hosted) -> None:
    answer = hosted.world.kept_waiting["memory"] = asyncio.Event()
    async with console_on(hosted.connection) as console:
        await console.go(7)
        await asked(console, hosted, "memory")
        await console.pilot.press("v")
        await console.see("no slots yet")
        answer.set()
        await console.see("evening", "before the s")


async def test_another_book_opened_during_a_fetch_is_opened_after_it(hosted: Hosted) -> None:
    answer = hosted.world.kept_waiting["read"] = asyncio.Event()
    async with console_on(hosted.connection) as console:
        await console.go(6)
        await asked(console, hosted, "read")
        console.page.query_one(Table).move_to("winter_kitchen")
        await console.see("The Winter Kitchen", "Opening")
        answer.set()
        await console.see("The Winter Kitchen  page 1 of 12")


async def test_what_is_wanted_under_a_dialog_is_fetched_when_it_closes(hosted: Hosted) -> None:
    async with console_on(hosted.connection) as console:
        await console.go(7)
        await console.see("asked for lamp oil")
        under = console.page
        await console.pilot.press("x")
        await console.see("Forget this for good?")
        hosted.world.memories["ottavia"].clear()
        under.fetch_soon()
        await console.pilot.press("n")
        await console.see("nothing yet")


@pytest.mark.parametrize(
    "error",
    [NoServerError("no answer"), Refusal(Code.BUSY, "too much to do")],
    ids=["silence", "overload"],
)
async def test_a_question_without_an_answer_is_asked_again(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch, error: ProtocolError
) -> None:
    async with console_on(hosted.connection) as console:
        link, failures = console.session.link, [error, error, error]
        ask: Callable[[str, Body], Awaitable[Body]] = link.request

        async def deaf(kind: str, body: Body) -> Body:
            if kind == "memory" and failures:
                raise failures.pop()
            return await ask(kind, body)

        monkeypatch.setattr(link, "request", deaf)
        await console.go(7)
        await console.see("asked for lamp oil")
        assert not failures


async def test_a_refused_question_is_not_asked_again(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(type(hosted.world), "_answer_memory")
    async with console_on(hosted.connection) as console:
        await console.go(7)
        await console.see("this server does not offer it")
        fetching = console.page._fetching
        assert fetching is not None
        await console.until(lambda: fetching.is_finished, "gives up")
        assert not console.page.unanswered


class SlowLink:
    """Answers when told to, in whatever order."""

    endpoint, live = "here", True

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[Body]] = []

    async def run(self, see: Sink) -> None:
        """Nothing comes by itself."""

    async def request(self, kind: str, body: Body) -> Body:
        """Wait for whoever answers."""
        self.waiting.append(asyncio.get_running_loop().create_future())
        return await self.waiting[-1]

    async def stream(self, kind: str, body: Body) -> AsyncGenerator[Body, None]:
        """Nobody speaks here."""
        yield body


async def test_an_answer_that_was_overtaken_changes_nothing() -> None:
    link = SlowLink()
    session = Session(link)
    body = admin.MemoryRequest(agent="ottavia")
    before, after = (
        admin.MemoryReply(memories=[admin.MemoryInfo(memory="m", text=text)])
        for text in ("still there", "reworded")
    )
    tasks = []
    for _ in range(2):
        tasks.append(asyncio.create_task(session.request("memory", body, "ottavia")))
        await asyncio.sleep(0)
    link.waiting[1].set_result(after)
    await tasks[1]
    link.waiting[0].set_result(before)
    assert await tasks[0] == before, "whoever asked still gets it"
    assert session.store.memories["ottavia"] == after


async def test_agents_and_lines_are_asked_for_by_the_page(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_file, "PAGE", 2)
    async with console_on(hosted.connection) as console:
        names = list(console.session.store.agents)
        for _ in range(5):
            say = SayRequest(agent="ottavia", text="And?")
            async for _ in console.session.link.stream("say", say):
                pass
        hosted.world.asked.clear()
        reply = await console.session.link.request("lines", admin.LinesRequest(limit=3))
        assert isinstance(reply, admin.LinesReply)
        assert [line.line for line in reply.lines] == ["line-5", "line-4", "line-3"]
        assert hosted.world.asked.count("lines") == 2
        everyone = await console.session.link.request("agents", admin.AgentsRequest())
        assert isinstance(everyone, admin.AgentsReply)
        assert [info.agent for info in everyone.agents] == names
        assert len(names) == 7
        assert hosted.world.asked.count("agents") >= 4
