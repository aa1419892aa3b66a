"""Models are loaded when they are asked for, and closed when nobody asks any more, never while they are used."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import plain_dialect
from helpers.live_house import Live

from elm_mlx.errors import EngineStopped, InvalidRequest, NotEnoughMemory, NotFound, QueueFull
from elm_mlx.protocols import responses
from elm_mlx.protocols.ask import Ask
from elm_mlx.server import sending
from elm_mlx.server.answer import Answer
from elm_mlx.server.book import Book
from elm_mlx.server.cards import card, cards
from elm_mlx.server.refusals import UnknownModel
from elm_mlx.server.settings import Settings
from elm_mlx.server.shelf import Shelf
from elm_mlx.server.stock import Machine, books_of
from elm_mlx.text import grammar


class Fake:
    """A model that notes that it was closed."""

    def __init__(self, name: str) -> None:
        self.name, self.is_closed, self.has_chat_template = name, False, False
        self.config = SimpleNamespace(context_length=64)

    def close(self) -> None:
        self.is_closed = True


class Stock:
    """A stock of fakes, of which `room` are loaded at a time."""

    def __init__(self, room: int = 9, here: tuple[str, ...] = ("here",)) -> None:
        self.room, self.here, self.loaded, self.at_once, self.most = room, here, [], 0, 0  # type: ignore[var-annotated]
        self.gate = threading.Event()
        self.gate.set()

    def load(self, book: Book, progress: Callable[[int, int], None]) -> Any:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        progress(1, 2)
        self.gate.wait(10)
        self.at_once -= 1
        if book.is_foreign and book.name.endswith("none"):
            raise NotFound(f"There is no {book.name}.")
        if sum(not lm.is_closed for lm in self.loaded) >= self.room:
            raise NotEnoughMemory("It takes 2 GB, and 1 GB is there.")
        self.loaded.append(Fake(book.name))
        return self.loaded[-1]

    def find(self) -> list[Book]:
        return [Book(name, None, 32) for name in self.here]

    def may_fetch(self, name: str) -> bool:
        return name.startswith("far/")


def shelf_of(stock: Stock, keep_alive: float = -1.0) -> Shelf:
    return Shelf([Book("first", None), Book("second", None)], stock, {"gpt": "second"}, keep_alive, lambda why: None)


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 20))


def test_models_load_one_at_a_time_and_once() -> None:
    async def work() -> None:
        stock = Stock()
        shelf = shelf_of(stock)
        leases = await asyncio.gather(*(shelf.take(name) for name in ("first", "second", "first", "gpt", None)))
        assert [lease.name for lease in leases] == ["first", "second", "first", "second", "first"]
        assert (len(stock.loaded), stock.most) == (2, 1)
        assert shelf.take_now("gpt")

    run(work)


def test_a_model_on_this_machine_is_loaded_by_its_name_and_no_other_is() -> None:
    async def work() -> None:
        shelf = shelf_of(Stock())
        async with shelf.lease("here") as lease:
            assert lease.name == "here"
        for name in ("elsewhere", "/etc/passwd", "../x"):
            with pytest.raises(UnknownModel, match="first, second, here, gpt"):
                await shelf.take(name)
        for name in ("", 3, ["first"]):
            with pytest.raises(InvalidRequest):
                await shelf.take(name)

    run(work)


def test_clients_that_come_together_all_find_a_model_on_this_machine() -> None:
    async def work() -> None:
        shelf = shelf_of(Stock())
        leases = await asyncio.gather(*(shelf.take("here") for _ in range(3)))
        assert [lease.name for lease in leases] == ["here"] * 3

    run(work)


def test_a_look_at_a_model_that_may_be_fetched_leaves_nothing_behind() -> None:
    async def work() -> None:
        shelf = shelf_of(Stock())
        assert (await card(shelf, "far/away")).id == "far/away"
        assert "far/away" not in shelf.books

    run(work)


def test_a_model_that_may_be_fetched_is_listed_once_it_was() -> None:
    async def work() -> None:
        shelf = shelf_of(Stock())
        async with shelf.lease("far/away") as lease:
            assert lease.name == "far/away"
        with pytest.raises(UnknownModel, match="There is no far/none"):
            await shelf.take("far/none")
        assert [one.id for one in await cards(shelf)] == ["first", "second", "here", "far/away", "gpt"]

    run(work)


def test_an_idle_model_is_closed_and_one_in_use_is_not() -> None:
    async def work() -> None:
        stock = Stock()
        shelf = shelf_of(stock, keep_alive=0)
        outer = await shelf.take("first")
        async with shelf.lease("first"):
            pass
        await asyncio.sleep(0.02)
        assert not stock.loaded[0].is_closed
        outer.give_back()
        outer.give_back()
        while not stock.loaded[0].is_closed:
            await asyncio.sleep(0.005)
        async with shelf.lease("first") as again:
            assert again.lm is stock.loaded[1]

    run(work)


def test_a_model_that_is_asked_for_in_time_stays() -> None:
    async def work() -> None:
        stock = Stock()
        shelf = shelf_of(stock, keep_alive=0.1)
        for _ in range(4):
            async with shelf.lease("first"):
                await asyncio.sleep(0.04)
        assert len(stock.loaded) == 1
        await shelf.close()
        assert stock.loaded[0].is_closed

    run(work)


def test_a_model_that_was_used_while_its_closing_waited_stays() -> None:
    async def work() -> None:
        stock = Stock()
        shelf = shelf_of(stock, keep_alive=0.05)
        (await shelf.take("first")).give_back()
        stock.gate.clear()
        other = asyncio.create_task(shelf.take("second"))
        await asyncio.sleep(0.1)  # the time of the first is over, and its closing waits until the second is loaded
        (await shelf.take("first")).give_back()
        shelf.books["first"].closes.cancel()  # type: ignore[union-attr]
        stock.gate.set()
        await other
        await asyncio.sleep(0.02)
        assert not stock.loaded[0].is_closed

    run(work)


def test_a_shelf_that_is_closed_loads_nothing_any_more() -> None:
    async def work() -> None:
        stock = Stock()
        stock.gate.clear()
        shelf = shelf_of(stock)
        waits = [asyncio.create_task(shelf.take(name)) for name in ("first", "first", "second")]
        while not stock.at_once:
            await asyncio.sleep(0.005)
        closing = asyncio.create_task(shelf.close())
        await asyncio.sleep(0)
        stock.gate.set()
        await asyncio.wait([*waits, closing])
        assert all(lm.is_closed for lm in stock.loaded)
        with pytest.raises(EngineStopped, match="stopping"):
            await shelf.take("first")

    run(work)


def test_where_memory_is_short_the_one_goes_that_was_not_used_for_longest() -> None:
    async def work() -> None:
        stock = Stock(room=2)
        shelf = shelf_of(stock)
        for name in ("first", "second", "first"):
            async with shelf.lease(name):
                pass
        async with shelf.lease("here"):
            assert [lm.name for lm in stock.loaded if lm.is_closed] == ["second"]
            async with shelf.lease("first"):
                with pytest.raises(QueueFull, match="in use"):
                    await shelf.take("second")

    run(work)


def test_a_model_that_can_never_fit_is_refused_with_the_numbers() -> None:
    async def work() -> None:
        with pytest.raises(NotEnoughMemory, match="2 GB"):
            await shelf_of(Stock(room=0)).take("first")

    run(work)


def test_who_leaves_while_a_model_loads_leaves_others_waiting() -> None:
    async def work() -> None:
        stock = Stock()
        stock.gate.clear()
        shelf = shelf_of(stock, keep_alive=0)
        one, other = asyncio.create_task(shelf.take("first")), asyncio.create_task(shelf.take("first"))
        while not stock.at_once:
            await asyncio.sleep(0.005)
        one.cancel()
        await asyncio.wait([one])
        assert shelf.books["first"].users == 1
        stock.gate.set()
        assert (await other).lm is stock.loaded[0]

    run(work)


def test_a_model_for_which_nobody_waited_to_the_end_is_closed() -> None:
    async def work() -> None:
        stock = Stock()
        stock.gate.clear()
        shelf = shelf_of(stock, keep_alive=0)
        only = asyncio.create_task(shelf.take("first"))
        while not stock.at_once:
            await asyncio.sleep(0.005)
        only.cancel()
        await asyncio.wait([only])
        stock.gate.set()
        while not (stock.loaded and stock.loaded[0].is_closed):
            await asyncio.sleep(0.005)

    run(work)


@pytest.mark.parametrize("dialect", [plain_dialect, responses])
def test_a_stream_shows_signs_of_life_while_its_model_loads_and_tells_that_this_failed(
    dialect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "PATIENCE_S", 0.01)
    monkeypatch.setattr(sending, "SILENCE_S", 0.01)
    sent: list[Any] = []

    async def work() -> None:
        stock = Stock()
        stock.gate.clear()

        async def send(message: Any) -> None:
            sent.append(message)
            if len(sent) == 5:
                stock.gate.set()

        async def receive() -> Any:
            await asyncio.Event().wait()

        house: Any = SimpleNamespace(shelf=shelf_of(stock), refusal_of=lambda error: refusal(error))
        app = Answer(Ask(None, prompts=["Hi"], streamed=True), {"input": "Hi"}, dialect, house)
        await app({}, receive, send)  # type: ignore[arg-type]

    def refusal(error: Exception) -> Any:  # the fake answers nothing
        from elm_mlx.protocols.refusal import Refusal

        return Refusal(500, "It cannot.", code="cannot")

    run(work)
    assert sent[0]["status"] == 200
    assert all(message["body"].startswith(b":") for message in sent[1:5])
    told = sent[-1]["body"].decode()
    if dialect is plain_dialect:
        assert told.startswith("event: error\ndata: {")
        return
    names = re.findall("^event: response[.](.*)$", told, re.M)
    assert names == ["created", "in_progress", "failed"]
    events = [json.loads(data) for data in re.findall("^data: (.*)$", told, re.M)]
    assert [event["sequence_number"] for event in events] == [0, 1, 2]
    assert events[-1]["response"]["status"] == "failed"
    assert events[-1]["response"]["error"]["message"] == "It cannot."
    assert len({event["response"]["id"] for event in events}) == 1
    assert not sent[-1]["more_body"]


def test_cards_say_what_is_there_and_how_long_it_may_be() -> None:
    async def work() -> None:
        shelf = shelf_of(Stock())
        async with shelf.lease("first"):
            shown = await cards(shelf)
        assert [(one.id, one.context_length, one.is_loaded) for one in shown] == [
            ("first", 64, True), ("second", None, False), ("here", 32, False), ("gpt", None, False)
        ]  # fmt: skip
        assert (await card(shelf, "here")).created <= time.time()
        with pytest.raises(UnknownModel):
            await card(shelf, "nobody")

    run(work)


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="Two models"):
        books_of(["/a/x", "/b/x"])
    assert [book.name for book in books_of(["/a/x", "llama-3.2-1b-instruct"])] == ["x", "llama-3.2-1b-instruct"]
    assert [book.name for book in books_of([])] == ["demo"]


def test_the_list_of_models_is_what_clients_read(live: Live) -> None:
    told = live.client.get("/v1/models?").json()
    assert (told["object"], told["models"]) == ("list", [])
    assert [one["id"] for one in told["data"]] == ["demo", "gpt"]
    assert told["data"][0] == live.client.get("/v1/models/demo").json()
    assert (told["data"][0]["context_length"], told["data"][0]["loaded"]) == (512, True)
    missing = live.client.get("/v1/models/some/body")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_a_model_of_the_server_is_ready_for_forms_before_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first form needs keeps all threads of Python's waiting for a quarter of a second."""
    with Machine(Settings()).load(Book("demo", None), lambda done, total: None) as lm:
        monkeypatch.setattr(grammar, "make_ready", None)
        assert len(lm.generate("Once", 8, regex="[a-z]{4}").text) == 4


def test_a_model_that_can_follow_no_form_answers_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ValueError("a vocabulary that llguidance does not take")

    monkeypatch.setattr(grammar, "make_ready", fails)
    with Machine(Settings()).load(Book("demo", None), lambda done, total: None) as lm:
        assert lm.generate("Once", 2).text
