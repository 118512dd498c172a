"""The whole console against a real server over real sockets."""

from __future__ import annotations

import pytest
from textual import events
from textual.widgets import Input

from protocol.telemetry import LineEnded, Logged
from tests.tui.conftest import NARROW, WIDE, Console, Hosted, console_on
from tests.tui.fakes import CHARACTERS
from tui.page import TABS
from tui.pane import Pane
from tui.table import Table

SIZES = pytest.mark.parametrize("size", [NARROW, WIDE], ids=["80x24", "160x50"])


@SIZES
async def test_every_screen_is_reached_by_its_digit(hosted: Hosted, size: tuple[int, int]) -> None:
    async with console_on(hosted.connection, size) as console:
        for digit, (mode, _, _) in enumerate(TABS, 1):
            await console.pilot.press(str(digit))
            await console.until(lambda mode=mode: mode == console.page.MODE, mode)  # type: ignore[misc]
            await console.until(lambda: console.app.focused is not None, "takes keys")
            if mode == "talk":  # its input has the focus: keys type there
                await console.leave_input()


async def test_why_she_said_that_is_two_keys_away(hosted: Hosted) -> None:
    async with console_on(hosted.connection) as console:
        await console.go(2)
        await console.type("where is the oil")
        await console.see("Mind the", "seed 7")
        await console.leave_input()
        await console.pilot.press("enter")
        await console.see("persona · 28 tokens", "Fact: The lamp oil", "prefill", "seed 7")


async def test_a_swap_in_mid_conversation_gives_the_next_line_the_other_voice(
    hosted: Hosted,
) -> None:
    async with console_on(hosted.connection) as console:
        await console.go(2)
        await console.type("hello")
        await console.see("lamp oil is under", "ottavia v1")
        await console.go(4)
        await console.see("pim", "v2 of 2")
        console.page.query_one(Table).move_to("pim")
        await console.pilot.press("s")
        await console.answer("ottavia", "2")  # who shall speak through it, in which version
        await console.until(lambda: hosted.world.used["ottavia"].name == "pim", "swapped")
        await console.go(2)
        await console.type("hello again")
        await console.see("lit forty lamps", "pim v2")


async def test_a_failed_load_leaves_the_row_and_says_why(hosted: Hosted) -> None:
    async with console_on(hosted.connection, WIDE) as console:
        await console.go(4)
        await console.see("damaged", "v2 of 2")
        before = {name: used.digest for name, used in hosted.world.used.items()}
        console.page.query_one(Table).move_to("damaged")
        await console.pilot.press("l")
        await console.see("load failed: adapter 'damaged' is damaged", "ends after 20 bytes")
        assert {name: used.digest for name, used in hosted.world.used.items()} == before
        assert "ottavia" in console.text


@SIZES
async def test_a_thousand_deltas_arrive_whole_and_in_order(
    hosted: Hosted, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = [f"w{i} " for i in range(1000)]
    monkeypatch.setattr(hosted.world, "words", lambda *_: pieces)
    async with console_on(hosted.connection, size) as console:
        await console.go(2)
        await console.type("go on")
        await console.until(lambda: console.session.store.lines, "a line begins")
        await console.until(lambda: _line(console).state == "spoken", "all spoken")
        assert _line(console).num_deltas <= 1000
        assert _line(console).text == "".join(pieces)
        await console.see("w999")
        shown = console.page.query_one(Pane).text
        assert [f"w{i}" for i in range(1000)] == [w for w in shown.split() if w[0] == "w"][-1000:]


async def test_cancel_frees_the_slot_and_keeps_what_was_said(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosted.world.delay_s = 0.05
    endless = ["Hush. ", *["and on "] * 100_000]
    monkeypatch.setattr(hosted.world, "words", lambda *_: endless)
    async with console_on(hosted.connection) as console:
        await console.go(2)
        await console.type("tell me everything")
        await console.until(lambda: console.session.store.lines, "a line begins")
        await console.until(lambda: "ottavia" in hosted.world.running, "a slot taken")
        await console.until(lambda: _line(console).text.startswith("Hush."), "begins to speak")
        await console.pilot.press("escape")
        await console.until(lambda: not hosted.world.running, "slot freed")
        await console.see("cancelled")
        assert hosted.world.cancelled == [_line(console).line]
        assert _line(console).text.startswith("Hush. ")


async def test_a_lost_server_is_announced_and_found_again_on_other_ports(hosted: Hosted) -> None:
    async with console_on(hosted.connection) as console:
        await console.go(2)
        await console.type("hello")
        await console.see("Mind the")
        await hosted.stop()
        await console.see("No server for", "Trying again")
        await console.see("Mind the")  # what was seen stays
        await hosted.start()
        await console.until(lambda: console.session.store.connection.state == "connected")
        await console.type("are you back")
        await console.see("are you back")
        await console.until(lambda: len(console.session.store.lines) == 2, "a second line")
        await console.until(lambda: "No server" not in console.text, "the banner goes")


async def test_a_player_may_look_but_not_change(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with console_on(hosted.connection) as console:
        welcome = console.session.store.connection.welcome
        assert welcome is not None
        less = welcome.model_copy(update={"role": "player", "requests": ["say", "agents"]})
        console.session.note("connected", body=less)
        await console.go(4)
        await console.see("read-only", "admin role")
        assert console.page.check_action("swap", ()) is None
        await console.pilot.press("s")
        assert len(console.app.screen_stack) == 1, "no dialog opens"


async def test_the_palette_jumps_to_an_agents_last_prompt(hosted: Hosted) -> None:
    async with console_on(hosted.connection) as console:
        await console.go(2)
        await console.type("hello")
        await console.see("Mind the")
        await console.pilot.press("ctrl+p")
        palette = await console.dialog()
        await console.pilot.press(*"why", "space", *"did", "space", *"otta")
        await console.see("Why did Ottavia")
        await console.pilot.press("enter")
        await console.until(lambda: console.app.screen is not palette, "palette closed")
        await console.see("persona · 28 tokens")


async def test_help_names_the_keys_of_the_screen(hosted: Hosted) -> None:
    async with console_on(hosted.connection) as console:
        await console.go(4)
        await console.pilot.press("f1")
        await console.dialog()
        await console.see("Swap", "Load", "another voice")
        await console.pilot.press("escape")
        await console.until(lambda: len(console.app.screen_stack) == 1)


async def test_two_adapters_speak_side_by_side(hosted: Hosted) -> None:
    async with console_on(hosted.connection, WIDE) as console:
        await console.go(2)
        await console.type("hello")
        await console.see("Mind the")
        await console.leave_input()
        await console.pilot.press("c")
        await console.answer("ottavia@1", "pim@2")
        await console.see("ottavia@1", "pim@2", "lamp oil is under", "lit forty lamps")


async def test_a_blend_is_heard_and_heard_anew_when_a_slider_has_moved(hosted: Hosted) -> None:
    async with console_on(hosted.connection) as console:
        await console.go(4)
        await console.see("damaged", "v2 of 2")
        await console.pilot.press("m")
        dialog = await console.dialog()
        await console.pilot.press("left", "left", "down", "right", "right", "tab")
        await console.until(lambda: isinstance(console.app.focused, Input), "asks")
        await console.type("who are you")
        await console.see("80% ottavia and 20% bastiano")
        await console.pilot.press("shift+tab", "right")
        await console.see("80% ottavia and 30% bastiano")
        await console.pilot.press("escape")
        await console.until(lambda: console.app.screen is not dialog, "closes")
        await console.until(lambda: hosted.world.operations[-1] == "unload", "makes room")
        assert set(hosted.world.operations) == {"blend", "unload"}


async def test_what_cannot_be_taken_back_by_the_same_key_is_asked_first(hosted: Hosted) -> None:
    async with console_on(hosted.connection, WIDE) as console:
        await console.go(4)
        await console.see("damaged", "v2 of 2")
        console.page.query_one(Table).move_to("pim")
        for key, question in (("P", "Promote pim v2 for pim?"), ("R", "Roll pim back"),
                              ("u", "Unload pim?")):  # fmt: skip
            for answer in ("n", "y"):
                await console.pilot.press(key)
                await console.see(question)
                dialog = await console.dialog()
                await console.pilot.press(answer)
                await console.until(lambda dialog=dialog: console.app.screen is not dialog)  # type: ignore[misc]
        await console.until(lambda: len(hosted.world.operations) == 3, "all carried out")
        assert hosted.world.operations == ["promote", "rollback", "unload"]


async def test_keys_that_come_while_a_dialog_closes_change_nothing(hosted: Hosted) -> None:
    async with console_on(hosted.connection) as console:
        await console.go(5)
        await console.see("brass_key", "directive")
        _at_once(console, "e", "e")
        dialog = await console.dialog()
        await console.pilot.press("x")
        _at_once(console, "enter", "escape", "escape")
        await console.until(lambda: console.app.screen is not dialog, "closes")
        assert len(console.app.screen_stack) == 1, "there was but one"
        await console.see("brass_key", "directive")


async def test_feedback_reaches_the_server_and_shows_on_the_line(hosted: Hosted) -> None:
    async with console_on(hosted.connection) as console:
        await console.go(2)
        await console.type("hello")
        await console.see("Mind the")
        await console.leave_input()
        await console.pilot.press("g")
        await console.see("✔ good")
        await console.pilot.press("e")
        await console.dialog()
        await console.pilot.press("home")
        await console.type("Quietly. ")
        await console.see("✎ rewritten")
        verdicts = [(f.verdict, f.text[:8]) for f in hosted.world.feedback]
        assert verdicts == [("good", ""), ("rewrite", "Quietly.")]


async def test_the_log_leads_to_the_prompt(hosted: Hosted) -> None:
    async with console_on(hosted.connection) as console:
        await console.go(2)
        await console.type("hello")
        await console.see("Mind the")
        await console.go(9)
        await console.see("player: hello", "line-1")
        await console.pilot.press("enter")
        await console.see("persona · 28 tokens")


async def test_a_prompt_stays_while_its_agent_says_other_things(hosted: Hosted) -> None:
    async with console_on(hosted.connection) as console:
        await console.go(2)
        await console.type("hello")
        await console.see("Mind the")
        console.session.line = ""  # as the cursor of Agents leaves it: nothing chosen
        await console.go(3)
        await console.see("player: hello")
        other = LineEnded(line="other", agent=console.session.agent, tier="npc", text="Later.")
        console.session.note("line_ended", body=other)
        await console.pilot.press("i")
        await console.see("tokens, the first", "player: hello")
        await console.go(1)
        await console.go(3)
        await console.until(lambda: "player: hello" not in console.text, "the newest, come anew")


async def test_memories_can_be_pinned_and_forgotten(hosted: Hosted) -> None:
    async with console_on(hosted.connection) as console:
        await console.go(7)
        await console.see("asked for lamp oil")
        await console.pilot.press("p")
        await console.until(lambda: hosted.world.memories["ottavia"][0].pinned, "pinned")
        await console.pilot.press("x")
        await console.see("Forget this for good?")
        await console.dialog()
        await console.pilot.press("y")
        await console.until(lambda: len(hosted.world.memories["ottavia"]) == 1, "forgotten")
        await console.until(lambda: "asked for lamp oil" not in console.text)
        await console.pilot.press("v")
        await console.see("evening", "before the s")


async def test_the_director_can_be_held_stepped_and_told(hosted: Hosted) -> None:
    async with console_on(hosted.connection, WIDE) as console:
        await console.go(5)
        await console.see("brass_key", "directive")
        await console.pilot.press("h")
        await console.see("HELD")
        await console.pilot.press("e")
        await console.answer("theft: the atlas is gone")
        await console.see("theft: the atlas is gone")
        await console.pilot.press("t")
        await console.until(lambda: hosted.world.num_lines == 1, "ticked")


async def test_a_book_is_read_and_asked(hosted: Hosted) -> None:
    async with console_on(hosted.connection) as console:
        await console.go(6)
        await console.see("Chapter 1.", "page 1 of 12")
        await console.pilot.press("right")
        await console.see("Chapter 2.")
        await console.pilot.press("a")
        await console.until(lambda: isinstance(console.app.focused, Input), "asks")
        await console.type("when does it turn")
        await console.see("turns twice", "p. 3")


async def test_a_burst_is_not_drawn_a_thousand_times(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with console_on(hosted.connection) as console:
        await console.go(9)
        draws: list[int] = []
        monkeypatch.setattr(console.page, "draw", lambda: draws.append(1))
        for _ in range(1000):
            console.session.note("log", body=Logged(level="info", text="again"))
        await console.until(lambda: draws, "drawn")
        assert len(draws) <= 3, "one for the burst; an answer may come in between"
        assert len(console.session.store.log) >= 1000


async def test_a_world_without_an_offer_is_told_honestly(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(type(hosted.world), "_answer_director")
    async with console_on(hosted.connection) as console:
        await console.go(5)
        await console.see("this server does not offer it")


def _at_once(console: Console, *keys: str) -> None:
    """Press keys faster than the console can follow, as a slow terminal sends them."""
    driver = console.app._driver
    assert driver is not None
    for key in keys:
        event = events.Key(key, key if len(key) == 1 else None)
        event.set_sender(console.app)
        driver.send_message(event)


def _line(console: Console):  # type: ignore[no-untyped-def]
    return next(reversed(console.session.store.lines.values()))


assert set(CHARACTERS) >= {"ottavia", "pim"}
