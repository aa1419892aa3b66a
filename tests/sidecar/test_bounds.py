"""A client that writes too much, too long or nonsense, or does not read, gets errors or has to wait; nothing grows."""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import Any

from elm_mlx import demo
from elm_mlx.sidecar.client import MOST_REQUESTS, Client
from elm_mlx.sidecar.message import MAX_LINE
from elm_mlx.sidecar.outlet import Outlet

ENDLESS = {"temperature": 0, "banned_ids": [2], "window": 64}


def test_nonsense_is_refused_and_the_next_line_is_read(pipes: Any) -> None:
    pipes.write(b"\n\r\n{\n\xff\xfe\n[1,2]\n")
    assert [pipes.read()["error"]["code"] for _ in range(3)] == [-32700, -32700, -32600]
    pipes.write(b"x" * (MAX_LINE + 10) + b"\n")
    assert "8.4 MB" in pipes.read()["error"]["message"]
    assert "active_bytes" in pipes.call("memory/status")


def test_an_id_is_taken_once_at_a_time(pipes: Any) -> None:
    loading = pipes.begin("generate", prompt=demo.PROMPT, max_tokens=8, stream=False)
    pipes.send(id=loading, method="memory/status")
    answers = [pipes.answer(loading) for _ in range(2)]
    assert answers[0]["error"]["message"] == "A request with this id is under way."
    assert "result" in answers[1]


class Slow:
    """A way to the client that takes nothing until it is opened."""

    def __init__(self) -> None:
        self.lines: list[Any] = []
        self.open = asyncio.Event()

    async def send(self, line: bytes) -> None:
        await self.open.wait()
        self.lines.append(json.loads(line))

    def offer(self, line: bytes) -> None:
        raise AssertionError("nothing is offered here")


def test_requests_beyond_the_bound_are_refused_and_not_read_where_nobody_reads_answers() -> None:
    async def answer_at_once(params: Any, asked: Any) -> str:
        return "done"

    async def talk() -> None:
        way = Slow()
        client = Client(way, lambda _: answer_at_once)
        lines = [json.dumps({"jsonrpc": "2.0", "id": id, "method": "m"}).encode() for id in range(MOST_REQUESTS + 1)]
        for line in lines[:-1]:
            await client.take(line)
        waiting = asyncio.create_task(client.take(lines[-1]))  # its refusal cannot be written
        await asyncio.sleep(0.01)
        assert not waiting.done()
        way.open.set()
        await waiting
        await client.end()
        refused = [line for line in way.lines if "error" in line]
        assert [(line["id"], line["error"]["code"]) for line in refused] == [(MOST_REQUESTS, -32076)]
        assert sorted(line["id"] for line in way.lines) == list(range(MOST_REQUESTS + 1))

    asyncio.run(talk())


def test_an_outlet_holds_a_bounded_number_of_bytes_and_keeps_the_order() -> None:
    async def send() -> bytes:
        reading, writing = os.pipe()
        outlet = Outlet(writing, lambda: None, most=10_000)
        lines = [b"%06d" % number * 100 + b"\n" for number in range(1000)]
        sending = asyncio.create_task(send_all(outlet, lines))
        await asyncio.sleep(0.05)
        assert not sending.done()
        assert outlet._bytes < 11_000
        got = b""
        while len(got) < sum(map(len, lines)):
            got += await asyncio.to_thread(os.read, reading, 2**16)
        await sending
        await outlet.flush()
        outlet.close()
        os.close(reading)
        return b"" if got != b"".join(lines) else b"equal"

    async def send_all(outlet: Outlet, lines: list[bytes]) -> None:
        for line in lines:
            await outlet.send(line)

    assert asyncio.run(send()) == b"equal"


def test_a_client_that_does_not_read_can_cancel_and_leave(pipes: Any) -> None:
    number = pipes.begin("generate", prompt=demo.PROMPT, options=ENDLESS, snapshots=True)
    other = pipes.begin("generate", prompt=demo.PROMPT, options=ENDLESS)
    time.sleep(0.3)
    pipes.send(method="$/cancel", params={"id": number})
    assert pipes.answer(number)["error"]["data"]["kind"] == "Cancelled"
    while pipes.read()["params"]["request"] != other:
        pass
    assert pipes.end() == 0
